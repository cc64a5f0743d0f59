/**
 * Cooperative scheduling on the event loop: long work leaves the loop to other requests between two of its pieces,
 * however many are waiting.
 */
import { setImmediate as nextTurn } from 'node:timers/promises'

/** Small pieces of work follow one another for so long before other requests have a turn. */
const MOST_MS = 10

/** For many small pieces of work in a row. */
export class Turns {
  #since = performance.now()

  /** To be awaited between two pieces. */
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
