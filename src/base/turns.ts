/**
 * Turns on the event loop for whoever has many small things to do, each of which is done at once: however many they
 * are, everybody else is looked at between two of them.
 */
import { setImmediate as turn } from 'node:timers/promises'

const MOST_MS = 10

export class Turns {
  #since = performance.now()

  /** To be awaited between two of them. */
  async next(): Promise<void> {
    if (performance.now() - this.#since < MOST_MS) return
    await turn()
    this.#since = performance.now()
  }
}
