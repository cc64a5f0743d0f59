/**
 * Fair queue (round robin) of the connections that have bytes to send: a few of them get a turn in each round of the
 * event loop, in the order in which they came, and where many wait, one.
 *
 * A socket that has room can be filled for a millisecond; two hundred of them must not be filled in one go, nor all
 * that follows from it happen before anybody else is heard.
 */

const FEW = 16
/** Of one round, for a few. A single turn may take longer, so turns have to be short. */
const SLICE_MS = 2

export class FairQueue {
  readonly #waiting: (() => void)[] = []

  /** Many wait. */
  get crowded(): boolean {
    return this.#waiting.length > FEW
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
    do {
      this.#waiting[0]?.()
      // Not before it has run: who comes meanwhile must not order a second round.
      this.#waiting.shift()
    } while (this.#waiting.length > 0 && !this.crowded && performance.now() < until)
    if (this.#waiting.length > 0) setImmediate(this.#round)
  }
}
