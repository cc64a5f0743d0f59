/**
 * Bytes from a source into a response, through a few buffers.
 *
 * A buffer is used again only after its write callback: until then the kernel may still read it. What was
 * lent to a read or write that did not come back in order is dropped, never reused.
 */
import type { ServerResponse } from 'node:http'
import type { ByteSource } from '../store/blob-store.ts'
import { Outlet } from './outlet.ts'

const BIG = 1024 * 1024
const SMALL = 64 * 1024

/** Big buffers in use at once, over all responses: whoever finds none makes do with a small one. */
const MAX_BIG = 16

/** 10 MiB/s. A client slower than that gains nothing by big pieces and only holds their memory. */
const QUICK_BYTES_PER_MS = 10 * 1024

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

/** The big buffers, shared by all responses of a process. */
export class BufferPool {
  readonly #free: Buffer[] = []
  #lent = 0

  take(): Buffer | undefined {
    if (this.#lent >= MAX_BIG) return undefined
    this.#lent++
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(BIG)
  }

  /** @param clean nothing can write to it or read from it any more */
  giveBack(buffer: Buffer, clean: boolean): void {
    this.#lent--
    if (clean) this.#free.push(buffer)
  }

  get lent(): number {
    return this.#lent
  }
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
  using outlet = new Outlet(response, options.signal)
  const sent = await (options.growing
    ? pumpGrowing(source, outlet, options)
    : pumpFinished(source, outlet, pool, options))
  if (options.length !== undefined && sent !== options.length) {
    throw new Error(`the source ended after ${sent} of ${options.length} bytes`)
  }
}

async function pumpFinished(
  source: ByteSource,
  outlet: Outlet,
  pool: BufferPool,
  { length = Infinity, signal, onBytes, now = performance.now.bind(performance) }: PumpOptions,
): Promise<number> {
  let sent = 0
  // Taken quickly since the last slow piece: one that the kernel's own buffer swallowed proves nothing yet.
  let quick = length > SMALL ? BIG : -Infinity
  let small: Buffer | undefined
  while (sent < length) {
    const big = quick >= BIG ? pool.take() : undefined
    const buffer = big ?? (small ??= Buffer.allocUnsafeSlow(Math.min(SMALL, length)))
    let clean = false
    try {
      const count = await source.read(buffer.subarray(0, Math.min(buffer.length, length - sent)), signal)
      if (count > 0) {
        const startedAt = now()
        await outlet.write(buffer.subarray(0, count))
        quick = count >= (now() - startedAt) * QUICK_BYTES_PER_MS ? quick + count : 0
        sent += count
        onBytes(count)
      }
      clean = true
      if (count === 0) break
    } finally {
      if (big) pool.giveBack(big, clean)
    }
  }
  return sent
}

/** Reads the next piece while the last one is on its way. */
async function pumpGrowing(
  source: ByteSource,
  outlet: Outlet,
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
