/**
 * Turns on the event loop, for work that many connections have at once: one after the other, in the order in which
 * they came, and between some of them everybody else.
 *
 * A socket that has room can be filled for a millisecond; two hundred of them must not be filled in one go.
 */

/** Of one round of the loop. A single turn may take longer, so turns have to be short. */
const SLICE_MS = 2

export class Rota {
  readonly #waiting: (() => void)[] = []

  /** The one who runs is among them. */
  get waiting(): number {
    return this.#waiting.length
  }

  /** Runs it soon, whatever happens to whoever waits for it. */
  run<Result>(work: () => Result): Promise<Result> {
    return new Promise((resolve, reject) => {
      this.#waiting.push(() => {
        try {
          resolve(work())
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)))
        }
      })
      if (this.#waiting.length === 1) setImmediate(this.#round)
    })
  }

  readonly #round = (): void => {
    const until = performance.now() + SLICE_MS
    while (this.#waiting.length > 0) {
      this.#waiting[0]?.()
      // Not before it has run: who comes meanwhile must not order a second round.
      this.#waiting.shift()
      if (performance.now() >= until) break
    }
    if (this.#waiting.length > 0) setImmediate(this.#round)
  }
}
