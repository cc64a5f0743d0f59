/**
 * Whether a registry answers HEAD: some refuse it, never come to an answer, or leave out what it is for, while GET is
 * fine.
 *
 * A registry is believed not to answer HEAD only when a GET has just contradicted a HEAD of the same thing, and not for
 * ever: for ten minutes, doubling to an hour with every further proof, until a HEAD is answered well. A HEAD that was
 * late or called the thing absent may be chance, so the first is no proof: GETs in place of HEADs cost pulls where
 * pulls are counted.
 */
import type { LRUCache } from 'lru-cache'
import { createLru } from '../../base/lru.ts'
import { Penalty } from '../../base/backoff.ts'
import type { Milliseconds } from '../../base/units.ts'

const AVOIDED = { first: 600_000, most: 3_600_000 }
/** What a GET finds later than that may have come into being since the HEAD. */
const DOUBT: Milliseconds = 10_000

/** `absent`: 404. `late`: no answer within its time. `unusable`: refused, or without digest or size. */
type Failing = 'absent' | 'late' | 'unusable'

export class HeadSupport {
  /** HEADs that failed a short while ago. */
  readonly #doubts: LRUCache<string, Failing>
  readonly #avoided: Penalty
  /** GET has once found what HEAD called absent, or had no answer for. */
  #suspicious = false
  #everWorked = false

  /** @param now monotonic */
  constructor(now: () => Milliseconds) {
    this.#doubts = createLru(1_000, { ttl: DOUBT, now })
    this.#avoided = new Penalty({ ...AVOIDED, now })
  }

  /** A HEAD would be a request for nothing. */
  get avoided(): boolean {
    return this.#avoided.running
  }

  /** One was answered well, however long ago. */
  get everWorked(): boolean {
    return this.#everWorked
  }

  worked(): void {
    this.#everWorked = true
    this.#avoided.forgive()
    this.#suspicious = false
  }

  failed(what: string, how: Failing): void {
    this.#doubts.set(what, how)
  }

  /** @param found by a GET of the same thing, which proves a HEAD wrong that had failed before it */
  compare(what: string, found: boolean): void {
    const doubt = this.#doubts.get(what)
    this.#doubts.delete(what)
    if (!found || doubt === undefined) return
    const first = !this.#suspicious
    this.#suspicious = true
    if (doubt === 'unusable' || !first) this.#avoided.begin()
  }
}
