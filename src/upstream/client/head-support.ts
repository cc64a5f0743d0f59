/**
 * Whether a registry answers HEAD: some refuse it, never come to an answer, or leave out what it is for, while
 * GET is fine.
 *
 * That is believed only when a GET of the same thing has just contradicted a HEAD, and not for ever: for ten
 * minutes, doubling to an hour with every further proof, until a HEAD is answered well. What may be chance, as one that
 * was late, is no proof the first time: GETs in place of HEADs cost pulls where pulls are counted.
 */
import type { Milliseconds } from '../../base/units.ts'
import { LRUCache } from 'lru-cache'

const AVOIDED_FIRST: Milliseconds = 600_000
const AVOIDED_MOST: Milliseconds = 3_600_000
/** Later, what a GET finds may have come into being since the HEAD. */
const DOUBT: Milliseconds = 10_000

/** What a HEAD that gave nothing said: that there is none, nothing within its time, or nothing that could be used. */
type Failing = 'absent' | 'late' | 'unusable'

export class HeadSupport {
  readonly #now: () => Milliseconds
  /** When a HEAD of that failed. Of a size, not of a number: room for a number would be taken at once. */
  readonly #doubts = new LRUCache<string, { readonly how: Failing; readonly at: Milliseconds }>({
    maxSize: 1_000,
    sizeCalculation: () => 1,
  })
  /** GET found what HEAD called absent, or had no answer for; once, it may have been pushed in between, or a pause. */
  #suspicious = false
  #everWorked = false
  #avoidedFor: Milliseconds = 0
  #avoidedUntil = Number.NEGATIVE_INFINITY

  /** @param now monotonic */
  constructor(now: () => Milliseconds) {
    this.#now = now
  }

  /** HEAD would be a request for nothing. */
  get avoided(): boolean {
    return this.#avoidedUntil > this.#now()
  }

  /** One was answered well, however long ago. */
  get everWorked(): boolean {
    return this.#everWorked
  }

  worked(): void {
    this.#everWorked = true
    this.#avoidedFor = 0
    this.#suspicious = false
  }

  failed(what: string, how: Failing): void {
    this.#doubts.set(what, { how, at: this.#now() })
  }

  /** What GET said of the same thing: whether the HEAD before it, if it failed, was wrong. */
  compare(what: string, found: boolean): void {
    const doubt = this.#doubts.get(what)
    this.#doubts.delete(what)
    if (!found || doubt === undefined || this.#now() - doubt.at > DOUBT) return
    const first = !this.#suspicious
    this.#suspicious = true
    if (doubt.how !== 'unusable' && first) return
    this.#avoidedFor = Math.min(Math.max(this.#avoidedFor * 2, AVOIDED_FIRST), AVOIDED_MOST)
    this.#avoidedUntil = this.#now() + this.#avoidedFor
  }
}
