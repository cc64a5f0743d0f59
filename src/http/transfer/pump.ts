/**
 * Copies bytes from a source into a response with backpressure, read by libuv's threads: small ones, those that are in
 * no file, and all of them where the kernel cannot be asked what it has in memory.
 */
import type { ServerResponse } from 'node:http'
import type { ByteSource } from '../../storage/blobs/blob-store.ts'
import { CopyBuffer, SMALL, type BufferPool } from './buffer-pool.ts'
import { ResponseWriter } from './response-writer.ts'

interface PumpOptions {
  /** Bytes to send; undefined: until the source ends. */
  readonly length: number | undefined
  /** The bytes are still coming in: two small buffers per client, for there may be hundreds. */
  readonly growing: boolean
  readonly signal: AbortSignal
  /** Called with what the kernel has taken. */
  readonly onBytes: (count: number) => void
  /** Milliseconds; by it a client is found quick or slow. */
  readonly now?: () => number
}

/**
 * Resolves when the last byte was taken by the kernel; does not end the response.
 *
 * @throws when the source fails or ends early, or the client leaves; the response must then be broken off
 */
export async function pump(
  source: ByteSource,
  response: ServerResponse,
  pool: BufferPool,
  options: PumpOptions,
): Promise<void> {
  using outlet = new ResponseWriter(response, options.signal)
  const sent = await (options.growing
    ? pumpGrowing(source, outlet, options)
    : pumpFinished(source, outlet, pool, options))
  if (options.length !== undefined && sent !== options.length) {
    throw new Error(`the source ended after ${sent} of ${options.length} bytes`)
  }
}

async function pumpFinished(
  source: ByteSource,
  outlet: ResponseWriter,
  pool: BufferPool,
  { length = Infinity, signal, onBytes, now = performance.now.bind(performance) }: PumpOptions,
): Promise<number> {
  const bounce = new CopyBuffer(pool, outlet, { length, now })
  let sent = 0
  while (sent < length) {
    const count = await bounce.pass(length - sent, (buffer) => source.read(buffer, signal))
    if (count === 0) break
    sent += count
    onBytes(count)
  }
  return sent
}

/** Reads the next piece while the last one is on its way. */
async function pumpGrowing(
  source: ByteSource,
  outlet: ResponseWriter,
  { length = Infinity, signal, onBytes }: PumpOptions,
): Promise<number> {
  const size = Math.min(SMALL, length)
  let spare: Buffer = Buffer.allocUnsafeSlow(size)
  let other: Buffer | undefined
  let read = 0
  let writing: Promise<void> | undefined
  try {
    while (read < length) {
      const count = await source.read(spare.subarray(0, Math.min(size, length - read)), signal)
      await writing
      if (count === 0) break
      read += count
      writing = outlet.write(spare.subarray(0, count)).then(() => onBytes(count))
      // It is awaited above, but perhaps only after a long read; until then its failure is nobody's surprise.
      writing.catch(() => undefined)
      // A source may give less than it was asked for: even of a small body there may be a second piece.
      if (read < length) [spare, other] = [other ?? Buffer.allocUnsafeSlow(size), spare]
    }
  } finally {
    // Also when the next piece will never come: what is on its way is good, and a client resumes after it.
    await writing
  }
  return read
}
