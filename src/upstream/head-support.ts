/**
 * Whether a registry answers HEAD: some refuse it, never come to an answer, or leave out what it is for, while
 * GET is fine.
 *
 * That is believed only when a GET of the same thing has just contradicted a HEAD, and not for ever: for ten
 * minutes, doubling to an hour with every further proof, until a HEAD is answered well.
 */
import { LRUCache } from 'lru-cache'
import type { Milliseconds } from './upstream.ts'

const AVOIDED_FIRST: Milliseconds = 600_000
const AVOIDED_MOST: Milliseconds = 3_600_000
/** Later, what a GET finds may have come into being since the HEAD. */
const DOUBT: Milliseconds = 10_000

export class HeadSupport {
  readonly #now: () => Milliseconds
  /** When a HEAD of that failed. Of a size, not of a number: room for a number would be taken at once. */
  readonly #doubts = new LRUCache<string, Milliseconds>({ maxSize: 1_000, sizeCalculation: () => 1 })
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

  worked(): void {
    this.#avoidedFor = 0
  }

  /** It gave nothing, or "there is none". */
  failed(what: string): void {
    this.#doubts.set(what, this.#now())
  }

  /** What GET said of the same thing: whether the HEAD before it, if it failed, was wrong. */
  compare(what: string, found: boolean): void {
    const failedAt = this.#doubts.get(what)
    this.#doubts.delete(what)
    if (!found || failedAt === undefined || this.#now() - failedAt > DOUBT) return
    this.#avoidedFor = Math.min(Math.max(this.#avoidedFor * 2, AVOIDED_FIRST), AVOIDED_MOST)
    this.#avoidedUntil = this.#now() + this.#avoidedFor
  }
}
