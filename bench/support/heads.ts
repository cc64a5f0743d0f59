/**
 * Load of HEADs, each connection one after the other: `wrk` waits for the bodies that their answers announce.
 */
import { execFile } from 'node:child_process'
import path from 'node:path'
import { promisify } from 'node:util'
import type { Load, LoadOptions } from './wrk.ts'

const PROCESS = path.join(import.meta.dirname, 'heads-process.ts')

export interface HeadsOrder {
  readonly host: string
  readonly port: number
  /** As it goes over the wire. */
  readonly request: string
  readonly connections: number
  readonly seconds: number
}

/** JSON knows no NaN. */
export type HeadsResult = { readonly [Figure in keyof Load]: number | null }

export async function heads(url: string, { connections, seconds, headers = [] }: LoadOptions): Promise<Load> {
  const { hostname: host, port, host: authority, pathname } = new URL(url)
  const request = [`HEAD ${pathname} HTTP/1.1`, `Host: ${authority}`, ...headers, '', ''].join('\r\n')
  const order: HeadsOrder = { host, port: Number(port), request, connections, seconds }
  const { stdout } = await promisify(execFile)(process.execPath, [PROCESS, JSON.stringify(order)])
  const result = JSON.parse(stdout) as HeadsResult
  return {
    requestsPerSecond: result.requestsPerSecond ?? 0,
    bytes: result.bytes ?? 0,
    seconds: result.seconds ?? seconds,
    p50Ms: result.p50Ms ?? NaN,
    p99Ms: result.p99Ms ?? NaN,
    errors: result.errors ?? 0,
  }
}
