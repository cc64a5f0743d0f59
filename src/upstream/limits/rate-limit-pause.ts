/**
 * How long an upstream that has had enough of us (429) is left alone: as long as it asked for, else 10 s, doubling to
 * ten minutes while every further question gets the same answer.
 *
 * There are two kinds. A limit of pulls belongs to one account, and is told as a 429 with an OCI error to the GET of
 * a manifest; HEADs and blobs go on. Any other 429 means all of us, whatever account asked: every client of the
 * upstream keeps the same silence.
 */
import type { Milliseconds } from '../../base/units.ts'
import { UpstreamError } from '../upstream.ts'

const FIRST: Milliseconds = 10_000
const MOST: Milliseconds = 600_000
/** Whoever asks for more is asked again all the same. */
const LONGEST: Milliseconds = 3_600_000

export class Silence {
  readonly #now: () => Milliseconds
  #until = Number.NEGATIVE_INFINITY
  #backoff: Milliseconds = 0
  #why: UpstreamError | undefined

  /** @param now monotonic */
  constructor(now: () => Milliseconds) {
    this.#now = now
  }

  get leftMs(): Milliseconds | undefined {
    const left = Math.ceil(this.#until - this.#now())
    return left > 0 ? left : undefined
  }

  /** What began it, and how long it lasts from now; undefined: it is over. */
  get error(): UpstreamError | undefined {
    const { leftMs } = this
    if (this.#why === undefined || leftMs === undefined) return undefined
    const { upstream, message, status, ofTheAccount, ofPulls } = this.#why
    return new UpstreamError('busy', upstream, message, {
      ...(status === undefined ? {} : { status }),
      ...{ retryAfterMs: leftMs, ofTheAccount, ofPulls },
      cause: this.#why,
    })
  }

  /** @returns false: it was kept already, and this was asked before */
  begin(why: UpstreamError): boolean {
    const running = this.leftMs !== undefined
    if (!running) this.#backoff = Math.min(Math.max(this.#backoff * 2, FIRST), MOST)
    const { retryAfterMs } = why
    const silence = retryAfterMs === undefined ? this.#backoff : Math.max(retryAfterMs, FIRST)
    const until = this.#now() + Math.min(silence, LONGEST)
    if (until > this.#until) {
      this.#until = until
      this.#why = why
    }
    return !running
  }

  /** It has answered. That ends no silence: it may have been asked before. */
  broken(): void {
    if (this.leftMs === undefined) this.#backoff = 0
  }
}
