/**
 * Turns on the event loop: work that cannot be cut any finer leaves the loop to everybody else between two pieces of
 * it, however many are waiting.
 */
import { setImmediate as nextTurn } from 'node:timers/promises'

/** Small pieces of work may follow one another for so long. */
const MOST_MS = 10

/** For many small pieces of work in a row. */
export class Turns {
  #since = performance.now()

  /** To be awaited between two of them. */
  async next(): Promise<void> {
    if (performance.now() - this.#since < MOST_MS) return
    await nextTurn()
    this.#since = performance.now()
  }
}

/** Hashing and parsing a smaller document takes a millisecond or two; a larger one, tens of them. */
const LARGE_DOCUMENT = 256 * 1024

let last = Promise.resolve()

/**
 * To be awaited before a document of so many bytes is hashed or parsed. What follows at once, without another wait,
 * belongs to the turn.
 */
export async function turnFor(bytes: number): Promise<void> {
  if (bytes < LARGE_DOCUMENT) return
  const turn = last.then(() => nextTurn())
  last = turn
  await turn
}
