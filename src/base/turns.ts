/**
 * Cooperative scheduling on the event loop: long work yields to other requests between its pieces, however many wait.
 */
import { setImmediate as nextTurn } from 'node:timers/promises'

/** Small pieces run in a row for so long before other requests have a turn. */
const MOST_MS = 10

export class Turns {
  #since = performance.now()

  /** Must be awaited between two pieces. */
  async next(): Promise<void> {
    if (performance.now() - this.#since < MOST_MS) return
    await nextTurn()
    this.#since = performance.now()
  }
}

/** Hashing and parsing a smaller document takes a millisecond or two; a larger one, tens of them. */
const LARGE_DOCUMENT = 256 * 1024

let last = Promise.resolve()

/** Must be awaited before so many bytes are hashed or parsed; what follows without another wait is the same turn. */
export async function turnFor(bytes: number): Promise<void> {
  if (bytes < LARGE_DOCUMENT) return
  const turn = last.then(() => nextTurn())
  last = turn
  await turn
}
