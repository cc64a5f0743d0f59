/**
 * Count of requests in flight, which says whether an upstream is still in use: its requests and bodies that are under
 * way, over all of its clients.
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

  /** How long nothing has been under way; 0 while something is. */
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
