/**
 * Counter of requests and bodies in flight over all clients of an upstream, which says whether it is still in use.
 */
import type { Milliseconds } from '../../base/units.ts'

export class InFlight {
  readonly #now: () => Milliseconds
  #running = 0
  #endedAt: Milliseconds

  /** @param now monotonic */
  constructor(now: () => Milliseconds) {
    this.#now = now
    this.#endedAt = now()
  }

  /** How long nothing has been in flight; 0 while something is. */
  get quietForMs(): Milliseconds {
    return this.#running > 0 ? 0 : this.#now() - this.#endedAt
  }

  began(): void {
    this.#running += 1
  }

  ended(): void {
    this.#running -= 1
    this.#endedAt = this.#now()
  }
}
