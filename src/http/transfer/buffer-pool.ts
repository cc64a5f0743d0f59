/**
 * Buffer pool for bodies on their way out: big buffers for fast clients, shared by all responses.
 *
 * A buffer is reused only after its write callback: until then the kernel may still read it. If its read or write
 * failed, it is dropped, because that operation may still touch it.
 */
import type { Bytes } from '../../base/units.ts'
import type { ResponseWriter } from './response-writer.ts'

const BIG: Bytes = 1024 * 1024
export const SMALL: Bytes = 64 * 1024

/** Big buffers in use over all responses; beyond that a response uses its small one. */
const MAX_BIG = 16

/** 10 MiB/s: a slower client gains nothing by big pieces, and would only hold their memory. */
const QUICK_BYTES_PER_MS = 10 * 1024

export class BufferPool {
  readonly #free: Buffer[] = []
  #lent = 0

  take(): Buffer | undefined {
    if (this.#lent >= MAX_BIG) return undefined
    this.#lent++
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(BIG)
  }

  /** @param clean no read or write can touch the buffer any more */
  giveBack(buffer: Buffer, clean: boolean): void {
    this.#lent--
    if (clean) this.#free.push(buffer)
  }

  get lent(): number {
    return this.#lent
  }
}

/** Fills the buffer, or part of it. 0 is the end. */
type Fill = (buffer: Buffer) => Bytes | Promise<Bytes>

/** Copies one response's pieces, one at a time, through a big buffer while the client is fast. */
export class CopyBuffer {
  readonly #pool: BufferPool
  readonly #writer: ResponseWriter
  /** Milliseconds. */
  readonly #now: () => number
  /** Bytes taken fast since the last slow piece: a single piece may just have fitted in the kernel's send buffer. */
  #quick: Bytes
  #small: Buffer | undefined
  readonly #smallSize: Bytes

  /** @param length of the whole body */
  constructor(
    pool: BufferPool,
    writer: ResponseWriter,
    { length, now }: { length: Bytes; now: () => number },
  ) {
    this.#pool = pool
    this.#writer = writer
    this.#now = now
    this.#smallSize = Math.min(SMALL, length)
    this.#quick = length > SMALL ? BIG : -Infinity
  }

  /**
   * Fills one piece, and resolves when the kernel has taken it. With a synchronous `fill` the write begins at once.
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
        await this.#writer.write(buffer.subarray(0, count))
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
