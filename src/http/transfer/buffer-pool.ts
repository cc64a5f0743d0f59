/**
 * The buffers that bodies pass through on their way out: big ones for whoever is quick, shared by all responses.
 *
 * A buffer is used again only after its write callback: until then the kernel may still read it. What was
 * lent to a read or write that did not come back in order is dropped, never reused.
 */
import type { Bytes } from '../../base/units.ts'
import type { ResponseWriter } from './response-writer.ts'

const BIG: Bytes = 1024 * 1024
export const SMALL: Bytes = 64 * 1024

/** Big buffers in use at once, over all responses: whoever finds none makes do with a small one. */
const MAX_BIG = 16

/** 10 MiB/s. A client slower than that gains nothing by big pieces and only holds their memory. */
const QUICK_BYTES_PER_MS = 10 * 1024

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

/** Fills at most `buffer.length` bytes. 0 is the end. */
type Fill = (buffer: Buffer) => Bytes | Promise<Bytes>

/** What the pieces of one response are copied through, one at a time. */
export class CopyBuffer {
  readonly #pool: BufferPool
  readonly #outlet: ResponseWriter
  /** Milliseconds. */
  readonly #now: () => number
  /** Taken quickly since the last slow piece: one that the kernel's own buffer swallowed proves nothing yet. */
  #quick: Bytes
  #small: Buffer | undefined
  readonly #smallSize: Bytes

  /** @param length of all that is to pass through it */
  constructor(
    pool: BufferPool,
    outlet: ResponseWriter,
    { length, now }: { length: Bytes; now: () => number },
  ) {
    this.#pool = pool
    this.#outlet = outlet
    this.#now = now
    this.#smallSize = Math.min(SMALL, length)
    this.#quick = length > SMALL ? BIG : -Infinity
  }

  /**
   * One piece: filled, and taken by the kernel when it resolves. Where `fill` does not wait, neither does this before
   * the piece is on its way.
   *
   * @param most bytes
   * @returns bytes; 0 at the end
   */
  async pass(most: Bytes, fill: Fill): Promise<Bytes> {
    const big = most > SMALL && this.#quick >= BIG ? this.#pool.take() : undefined
    const buffer = big ?? (this.#small ??= Buffer.allocUnsafeSlow(this.#smallSize))
    let clean = false
    try {
      const filling = fill(buffer.subarray(0, Math.min(buffer.length, most)))
      const count = typeof filling === 'number' ? filling : await filling
      if (count > 0) {
        const startedAt = this.#now()
        await this.#outlet.write(buffer.subarray(0, count))
        const isQuick = count >= (this.#now() - startedAt) * QUICK_BYTES_PER_MS
        this.#quick = isQuick ? this.#quick + count : 0
      }
      clean = true
      return count
    } finally {
      if (big) this.#pool.giveBack(big, clean)
    }
  }
}
