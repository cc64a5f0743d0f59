/**
 * How a large blob of one upstream is cut into pieces that come over several connections at once.
 *
 * What an upstream can bear is learned: one that does not honour `Range` gets one request for each blob, one that
 * says 429 or 503, or lets no more than a few in, gets fewer at once, for a while.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { UpstreamError } from '../../upstream/upstream.ts'

/** How long "it does not honour ranges" is believed. */
const REFUSAL_MEMORY: Milliseconds = 600_000
/** After so long without a complaint, one more at once. */
const RECOVERY: Milliseconds = 30_000
/** What was too much is counted by some for so long. */
const SETTLING: Milliseconds = 1_000

interface SegmentsOptions {
  readonly size: Bytes
  /** Of one blob, at the most. */
  readonly parallel: number
  /** Monotonic. */
  readonly now: () => Milliseconds
}

export class SegmentPolicy {
  readonly #options: SegmentsOptions
  #refusedUntil: Milliseconds = Number.NEGATIVE_INFINITY
  /** What was taken off the window, one for each complaint's halving, and since when. */
  #missing = 0
  #complainedAt: Milliseconds = Number.NEGATIVE_INFINITY
  #narrowedAt: Milliseconds = Number.NEGATIVE_INFINITY

  constructor(options: SegmentsOptions) {
    this.#options = options
  }

  /** Monotonic. */
  get now(): Milliseconds {
    return this.#options.now()
  }

  /** Whether a blob of that size is worth cutting, here and now. */
  cuts(size: Bytes | undefined): boolean {
    const { parallel, now } = this.#options
    if (size === undefined || parallel < 2 || this.#refusedUntil > now()) return false
    return size >= 2 * this.#options.size
  }

  /** Pieces of one blob that may be under way at once. */
  get window(): number {
    const { parallel, now } = this.#options
    if (this.#refusedUntil > now()) return 1
    const recovered = Math.floor((now() - this.#complainedAt) / RECOVERY)
    return Math.max(1, parallel - Math.max(0, this.#missing - recovered))
  }

  /** One at a time is all that may be, and not only since a moment ago: fewer there cannot be. */
  get narrowest(): boolean {
    return this.window === 1 && this.now - this.#narrowedAt >= SETTLING
  }

  /**
   * Of the next piece: the first ones grow, so that later ones end one after the other and not all at once, and the
   * last ones shrink, so that all connections have something to do until the end.
   *
   * @param left of the blob, that nobody brings yet
   */
  lengthOf(index: number, left: Bytes): Bytes {
    const { size, parallel } = this.#options
    const part = Math.ceil(size / parallel)
    return Math.min(part * Math.min(index + 1, parallel), Math.max(part, Math.ceil(left / parallel)), size)
  }

  /** How far ahead of what is there without a gap a piece may begin. */
  get farthest(): Bytes {
    const { size, parallel } = this.#options
    return size * parallel * 2
  }

  /** It gave something else than the part it was asked for. */
  refused(): void {
    this.#refusedUntil = this.#options.now() + REFUSAL_MEMORY
  }

  /**
   * A piece failed.
   *
   * @param askedAt when it was asked for: those that were on their way at a complaint are part of it
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
