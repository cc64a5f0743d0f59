/**
 * Detection of registries whose HEAD is broken (refused, never answered, without digest or size) while GET is fine.
 *
 * HEAD counts as broken only when a GET has just contradicted a HEAD of the same thing, and not forever: for ten
 * minutes, doubling to an hour with every further proof, until a HEAD is answered well. A HEAD that was late or
 * called the thing absent may be chance, so the first is no proof: GETs in place of HEADs cost counted pulls.
 */
import type { LRUCache } from 'lru-cache'
import { createLru } from '../../base/lru.ts'
import { Penalty } from '../../base/backoff.ts'
import type { Milliseconds } from '../../base/units.ts'

const AVOIDED = { first: 600_000, most: 3_600_000 }
/** Later than that, content that a GET finds may have been pushed after the HEAD. */
const DOUBT: Milliseconds = 10_000

/** `absent`: 404. `late`: no answer within its time. `unusable`: refused, or without digest or size. */
type Failing = 'absent' | 'late' | 'unusable'

export class HeadSupport {
  /** HEADs that failed a short while ago. */
  readonly #doubts: LRUCache<string, Failing>
  readonly #avoided: Penalty
  /** A GET once found what a HEAD called absent, or did not answer. */
  #suspicious = false
  #everWorked = false

  /** @param now monotonic */
  constructor(now: () => Milliseconds) {
    this.#doubts = createLru(1_000, { ttl: DOUBT, now })
    this.#avoided = new Penalty({ ...AVOIDED, now })
  }

  /** Whether a GET should be sent at once, for HEAD counts as broken. */
  get avoided(): boolean {
    return this.#avoided.running
  }

  /** Whether a HEAD was ever answered well. */
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

  /** @param found by a GET of the same thing, which proves the HEAD wrong that failed before it */
  compare(what: string, found: boolean): void {
    const doubt = this.#doubts.get(what)
    this.#doubts.delete(what)
    if (!found || doubt === undefined) return
    const first = !this.#suspicious
    this.#suspicious = true
    if (doubt === 'unusable' || !first) this.#avoided.begin()
  }
}
