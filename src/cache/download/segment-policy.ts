/**
 * Segment policy: how a large blob of one upstream is cut into segments that come over several connections at once.
 *
 * It learns what an upstream can bear: one that does not honour `Range` gets one request for each blob; one that
 * answers 429 or 503, or refuses more than a few connections, gets fewer at once, for a while.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { UpstreamError } from '../../upstream/upstream.ts'

/** How long an upstream is taken not to honour ranges. */
const REFUSAL_MEMORY: Milliseconds = 600_000
/** After so long without a complaint, the window grows by one. */
const RECOVERY: Milliseconds = 30_000
/** After a refusal it waits so long before it judges again: some registries go on counting closed connections. */
const SETTLING: Milliseconds = 1_000

interface SegmentsOptions {
  readonly size: Bytes
  /** The most requests at once for one blob. */
  readonly parallel: number
  /** Monotonic. */
  readonly now: () => Milliseconds
}

export class SegmentPolicy {
  readonly #options: SegmentsOptions
  #refusedUntil: Milliseconds = Number.NEGATIVE_INFINITY
  /** How much smaller than `parallel` the last complaint made the window; it recovers with time. */
  #missing = 0
  #complainedAt: Milliseconds = Number.NEGATIVE_INFINITY
  #narrowedAt: Milliseconds = Number.NEGATIVE_INFINITY

  constructor(options: SegmentsOptions) {
    this.#options = options
  }

  get now(): Milliseconds {
    return this.#options.now()
  }

  /** Whether a blob of that size is worth cutting now. */
  cuts(size: Bytes | undefined): boolean {
    const { parallel, now } = this.#options
    if (size === undefined || parallel < 2 || this.#refusedUntil > now()) return false
    return size >= 2 * this.#options.size
  }

  /** The most requests of one blob at once. */
  get window(): number {
    const { parallel, now } = this.#options
    if (this.#refusedUntil > now()) return 1
    const recovered = Math.floor((now() - this.#complainedAt) / RECOVERY)
    return Math.max(1, parallel - Math.max(0, this.#missing - recovered))
  }

  /** The window has been one for a while, so it cannot shrink further. */
  get narrowest(): boolean {
    return this.window === 1 && this.now - this.#narrowedAt >= SETTLING
  }

  /**
   * Length of the next segment: the first ones grow, so that later ones end one after the other and not all at once,
   * and the last ones shrink, so that all connections are busy until the end.
   *
   * @param left bytes of the blob that no request brings yet
   */
  lengthOf(index: number, left: Bytes): Bytes {
    const { size, parallel } = this.#options
    const part = Math.ceil(size / parallel)
    return Math.min(part * Math.min(index + 1, parallel), Math.max(part, Math.ceil(left / parallel)), size)
  }

  /** How far beyond the bytes without a gap a segment may begin. */
  get farthest(): Bytes {
    const { size, parallel } = this.#options
    return size * parallel * 2
  }

  /** Upstream gave something else than the range it was asked for. */
  refused(): void {
    this.#refusedUntil = this.#options.now() + REFUSAL_MEMORY
  }

  /**
   * A segment failed.
   *
   * @param askedAt when it was requested: requests in flight at a complaint are part of that complaint
   * @param shutOut it got nothing while others did
   * @returns whether that was because there were too many
   */
  failed(error: unknown, askedAt: Milliseconds, shutOut = false): boolean {
    if (!(error instanceof UpstreamError)) return false
    const { failure, status } = error
    const full = shutOut && failure === 'unreachable'
    if (failure !== 'busy' && status !== 429 && status !== 503 && !full) return false
    if (askedAt < this.#complainedAt) return true
    const { parallel, now } = this.#options
    const fewer = Math.max(1, this.window >> 1)
    if (fewer < this.window) this.#narrowedAt = now()
    this.#missing = parallel - fewer
    this.#complainedAt = now()
    return true
  }
}
