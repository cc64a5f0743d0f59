/**
 * Clients that pull over plain `node:http`, one connection each, as fast as they may.
 */
import { Agent, get, type IncomingMessage } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'

export interface PullResult {
  readonly status: number
  readonly bytes: number
  readonly cache: string | undefined
  readonly firstByteMs: number
  readonly totalMs: number
  /** Every byte is the expected one; undefined when nothing was expected. */
  readonly right: boolean | undefined
}

export interface PullOptions {
  /** At most this many; the connection's buffers make it an average. */
  readonly bytesPerSecond?: number
  /** Compared as it comes: hashing would cost the clients more than the server spends on serving. */
  readonly expected?: Buffer
  readonly headers?: Record<string, string>
}

export async function pull(url: string, options: PullOptions = {}): Promise<PullResult> {
  const agent = new Agent({ keepAlive: false })
  const began = performance.now()
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    get(url, { agent, headers: options.headers ?? {} }, resolve).once('error', reject)
  })
  const { expected } = options
  let right = true
  let bytes = 0
  let firstByteMs = Number.NaN
  for await (const chunk of response as AsyncIterable<Buffer>) {
    if (bytes === 0) firstByteMs = performance.now() - began
    right &&= expected?.subarray(bytes, bytes + chunk.length).equals(chunk) ?? true
    bytes += chunk.length
    if (options.bytesPerSecond !== undefined) {
      const ahead = (bytes / options.bytesPerSecond) * 1000 - (performance.now() - began)
      if (ahead > 20) await sleep(ahead)
    }
  }
  agent.destroy()
  const cache = response.headers['x-cache']
  return {
    status: response.statusCode ?? 0,
    bytes,
    cache: typeof cache === 'string' ? cache : undefined,
    firstByteMs,
    totalMs: performance.now() - began,
    right: expected === undefined ? undefined : right && bytes === expected.length,
  }
}
