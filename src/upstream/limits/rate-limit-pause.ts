/**
 * Rate-limit pause: for how long an upstream that answered 429 is not asked. As long as its `Retry-After` says, else
 * 10 s, doubling to ten minutes while every further request gets the same answer.
 *
 * There are two kinds. A limit of pulls belongs to one account, and comes as a 429 with an OCI error to the GET of a
 * manifest; HEADs and blobs go on. Any other 429 is about the client's address, whatever its account: every client of
 * the upstream keeps the same pause.
 */
import { backoff } from '../../base/backoff.ts'
import type { Milliseconds } from '../../base/units.ts'
import { UpstreamError } from '../upstream.ts'

const PAUSE = { first: 10_000, most: 600_000 }
/** An upstream that asks for a longer pause is asked again all the same. */
const LONGEST: Milliseconds = 3_600_000

export class RateLimitPause {
  readonly #now: () => Milliseconds
  #until = Number.NEGATIVE_INFINITY
  /** Pauses in a row, each of them longer than the one before. */
  #pauses = 0
  #why: UpstreamError | undefined

  /** @param now monotonic */
  constructor(now: () => Milliseconds) {
    this.#now = now
  }

  get leftMs(): Milliseconds | undefined {
    const left = Math.ceil(this.#until - this.#now())
    return left > 0 ? left : undefined
  }

  /** The 429 that began it, with what is left of the pause; undefined: it is over. */
  get error(): UpstreamError | undefined {
    const { leftMs } = this
    if (this.#why === undefined || leftMs === undefined) return undefined
    const { upstream, message, status, scope } = this.#why
    const facts = { status, scope, retryAfterMs: leftMs, cause: this.#why }
    return new UpstreamError('busy', upstream, message, facts)
  }

  /** @returns false: a pause ran already, and the request was older than it */
  begin(why: UpstreamError): boolean {
    const running = this.leftMs !== undefined
    if (!running) this.#pauses += 1
    const { retryAfterMs } = why
    const pauseMs =
      retryAfterMs === undefined ? backoff(this.#pauses - 1, PAUSE) : Math.max(retryAfterMs, PAUSE.first)
    const until = this.#now() + Math.min(pauseMs, LONGEST)
    if (until > this.#until) {
      this.#until = until
      this.#why = why
    }
    return !running
  }

  /** A success resets the backoff, but ends no running pause: the request may be older than the 429. */
  succeeded(): void {
    if (this.leftMs === undefined) this.#pauses = 0
  }
}
