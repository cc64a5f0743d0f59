/**
 * Fair queue (round robin) of the connections that have bytes to send, in order of arrival.
 *
 * In each turn of the event loop a few connections send, under a crowd only one. Filling a socket takes up to a
 * millisecond: if 200 were filled in one go, every other request would wait for them and for what follows from them.
 */

const FEW = 16
/** Time for sends per turn of the event loop. A send that has begun is not interrupted, so sends must be short. */
const SLICE_MS = 2

export class FairQueue {
  readonly #waiting: (() => void)[] = []

  /** True when so many connections wait that each must send less at a time. */
  get crowded(): boolean {
    return this.#waiting.length > FEW
  }

  /** Runs `work` in a later turn of the event loop, even if the caller has given up. */
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
      // Shifted only after the run: a `run` during it would find the queue empty and schedule a second round.
      this.#waiting.shift()
    } while (this.#waiting.length > 0 && !this.crowded && performance.now() < until)
    if (this.#waiting.length > 0) setImmediate(this.#round)
  }
}
