/**
 * Response body with backpressure: a queue of chunks that have arrived and were not read yet.
 *
 * It holds at most {@link PAUSE_ABOVE} and one read more; above that the socket is paused, so that a slow disk slows
 * the upstream down instead of filling memory.
 */

/**
 * With four bodies of a layer at once, 2 MiB of each make V8 mark its heap for external memory, at 0.5 CPU seconds a
 * GB; with 512 KiB pausing and resuming cost as much (measured).
 */
const PAUSE_ABOVE = 1024 * 1024

/** Pieces below the first size are gathered in buffers of the second. */
const SMALL = 1024
const GATHERED = 16 * 1024

/** Yields what has arrived since the last turn, in order. Leaving the loop early closes the connection. */
export interface Body extends AsyncIterable<readonly Buffer[]> {
  /** Closes the connection without reading on; a no-op after the end. */
  cancel(): void
}

/** The half of undici's controller that flow control needs. */
interface Flow {
  pause(): void
  resume(): void
  abort(reason: Error): void
}

export class ResponseBody implements Body {
  readonly #flow: Flow
  #queue: Buffer[] = []
  #queuedBytes = 0
  /** The buffer that the last piece of the queue is a part of, while it has free room behind that piece. */
  #gathered: { readonly room: Buffer; length: number } | undefined
  #end: { readonly error?: unknown } | undefined
  #wake: (() => void) | undefined

  constructor(flow: Flow) {
    this.#flow = flow
  }

  /** Whether the socket waits for the reader. */
  get paused(): boolean {
    return this.#queuedBytes > PAUSE_ABOVE
  }

  push(chunk: Buffer): void {
    if (this.#end !== undefined) return
    this.#gather(chunk)
    this.#queuedBytes += chunk.length
    if (this.paused) this.#flow.pause()
    this.#wake?.()
  }

  finish(): void {
    this.#settle({})
  }

  /** The reader still gets what arrived before; then the iteration throws `error`. */
  fail(error: unknown): void {
    this.#settle({ error })
  }

  /** Throws `reason` at the reader at once, and closes the connection. A no-op after the end. */
  abort(reason: unknown): void {
    if (this.#end !== undefined) return
    this.#queue = []
    this.#gathered = undefined
    this.fail(reason)
    this.#flow.abort(new Error('no longer wanted'))
  }

  cancel(): void {
    this.abort(new Error('the body was cancelled'))
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<readonly Buffer[], void, undefined> {
    try {
      for (;;) {
        if (this.#queue.length > 0) {
          const batch = this.#queue
          this.#queue = []
          this.#gathered = undefined
          this.#queuedBytes = 0
          this.#flow.resume()
          yield batch
        } else if (this.#end !== undefined) {
          if ('error' in this.#end) throw this.#end.error
          return
        } else {
          await new Promise<void>((resolve) => {
            this.#wake = resolve
          })
        }
      }
    } finally {
      this.cancel()
    }
  }

  /**
   * Copies consecutive small pieces into one: each is an object of its own, and that of one byte weighs a hundred
   * times as much. A single small piece is not copied: most bodies of that size are one.
   */
  #gather(chunk: Buffer): void {
    const last = this.#queue.at(-1)
    if (
      chunk.length >= SMALL ||
      last === undefined ||
      (this.#gathered === undefined && last.length >= SMALL)
    ) {
      this.#queue.push(chunk)
      this.#gathered = undefined
      return
    }
    let gathered = this.#gathered
    if (gathered === undefined) {
      const room = Buffer.allocUnsafe(GATHERED)
      gathered = { room, length: last.copy(room) }
    } else if (gathered.length + chunk.length > GATHERED) {
      this.#queue.push(chunk)
      this.#gathered = undefined
      return
    }
    chunk.copy(gathered.room, gathered.length)
    gathered.length += chunk.length
    this.#gathered = gathered
    this.#queue[this.#queue.length - 1] = gathered.room.subarray(0, gathered.length)
  }

  #settle(end: { readonly error?: unknown }): void {
    this.#end ??= end
    this.#wake?.()
  }
}

/**
 * @returns the whole body, or undefined when it is longer than `maxBytes`; the connection is then closed
 * @throws whatever broke the body off
 */
export async function readBody(body: Body, maxBytes: number): Promise<Buffer | undefined> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const batch of body) {
    for (const chunk of batch) size += chunk.length
    if (size > maxBytes) return undefined
    chunks.push(...batch)
  }
  return Buffer.concat(chunks)
}

/** Drains a short body, so that its connection can be used again; a long one costs the connection. */
export function discardBody(body: Body): void {
  readBody(body, 64 * 1024).catch(() => undefined)
}
