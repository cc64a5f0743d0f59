/**
 * Load by `wrk`, which costs less than what it measures.
 */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { findCommand } from '../../test/support/programs.ts'

export interface Load {
  readonly requestsPerSecond: number
  readonly bytes: number
  readonly seconds: number
  /** NaN when nothing came to its end in that time. */
  readonly p50Ms: number
  readonly p99Ms: number
  /** Answers other than 2xx, and connections that failed. */
  readonly errors: number
}

export interface LoadOptions {
  readonly connections: number
  readonly seconds: number
  readonly headers?: readonly string[]
  /** Default 1. One that copies bodies at a gigabyte a second is busy with nothing else. */
  readonly threads?: number
}

const UNITS: Record<string, number> = { us: 0.001, ms: 1, s: 1000, m: 60_000 }
const SIZES: Record<string, number> = { B: 1, KB: 2 ** 10, MB: 2 ** 20, GB: 2 ** 30, TB: 2 ** 40 }

export async function wrk(url: string, options: LoadOptions): Promise<Load> {
  const command = findCommand('wrk')
  if (command === undefined) throw new Error('wrk is not installed')
  const { connections, seconds, headers = [], threads = 1 } = options
  const { stdout } = await promisify(execFile)(command, [
    ...['-t', String(threads), '-c', String(connections), '-d', `${String(seconds)}s`, '--timeout', '60s'],
    '--latency',
    ...headers.flatMap((header) => ['-H', header]),
    url,
  ])
  const [, read, unit] = /requests in [\d.]+\w+, ([\d.]+)(\w+) read/.exec(stdout) ?? []
  const rate = Number(/Requests\/sec:\s+([\d.]+)/.exec(stdout)?.[1])
  const errors = [...stdout.matchAll(/(?:Non-2xx or 3xx responses: |connect |read |write |timeout )(\d+)/g)]
  return {
    requestsPerSecond: rate,
    bytes: Number(read) * (SIZES[unit ?? ''] ?? NaN),
    seconds,
    p50Ms: percentile(stdout, 50),
    p99Ms: percentile(stdout, 99),
    errors: errors.reduce((sum, [, count]) => sum + Number(count), 0),
  }
}

function percentile(text: string, which: number): number {
  const [, figure, unit] = new RegExp(`^\\s+${String(which)}%\\s+([\\d.]+)(us|ms|s|m)`, 'm').exec(text) ?? []
  return Number(figure) === 0 ? NaN : Number(figure) * (UNITS[unit ?? ''] ?? NaN)
}
