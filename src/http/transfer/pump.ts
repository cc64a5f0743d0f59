/**
 * Copies a body from its source into a response with backpressure, reading in libuv's threads: small bodies, bodies
 * that are in no file, and all bodies where the kernel cannot be asked what is in the page cache.
 */
import type { ServerResponse } from 'node:http'
import type { ByteSource } from '../../storage/blobs/blob-store.ts'
import { CopyBuffer, SMALL, type BufferPool } from './buffer-pool.ts'
import { ResponseWriter } from './response-writer.ts'

interface PumpOptions {
  /** Bytes to send; undefined: all that the source has. */
  readonly length: number | undefined
  /** The body is still being downloaded: two small buffers per client, because hundreds of clients may follow it. */
  readonly growing: boolean
  readonly signal: AbortSignal
  /** Called with the number of bytes that the kernel has taken. */
  readonly onBytes: (count: number) => void
  /** Milliseconds; measures the client's speed. */
  readonly now?: () => number
}

/**
 * Resolves when the kernel has taken the last byte; does not end the response.
 *
 * @throws when the source fails or ends early, or the client leaves; the caller must then break the response off
 */
export async function pump(
  source: ByteSource,
  response: ServerResponse,
  pool: BufferPool,
  options: PumpOptions,
): Promise<void> {
  using writer = new ResponseWriter(response, options.signal)
  const sent = await (options.growing
    ? pumpGrowing(source, writer, options)
    : pumpFinished(source, writer, pool, options))
  if (options.length !== undefined && sent !== options.length) {
    throw new Error(`the source ended after ${sent} of ${options.length} bytes`)
  }
}

async function pumpFinished(
  source: ByteSource,
  writer: ResponseWriter,
  pool: BufferPool,
  { length = Infinity, signal, onBytes, now = performance.now.bind(performance) }: PumpOptions,
): Promise<number> {
  const copyBuffer = new CopyBuffer(pool, writer, { length, now })
  let sent = 0
  while (sent < length) {
    const count = await copyBuffer.pass(length - sent, (buffer) => source.read(buffer, signal))
    if (count === 0) break
    sent += count
    onBytes(count)
  }
  return sent
}

/** Double buffering: reads the next piece while the kernel takes the last one. */
async function pumpGrowing(
  source: ByteSource,
  writer: ResponseWriter,
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
      writing = writer.write(spare.subarray(0, count)).then(() => onBytes(count))
      // The write is awaited only after the next read; a failure before that must not be an unhandled rejection.
      writing.catch(() => undefined)
      // A source may return less than asked, so that even a small body may need a second piece.
      if (read < length) [spare, other] = [other ?? Buffer.allocUnsafeSlow(size), spare]
    }
  } finally {
    // The client gets the last piece even if the next read fails: it resumes behind that piece.
    await writing
  }
  return read
}
