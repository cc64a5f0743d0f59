/**
 * Scheduler of the parallel segments of one large blob, beside its main request: how many at once, which next, and
 * whose rest a faster connection takes over.
 *
 * The main request is the probe: no segment is asked for before it was given the range it asked for. Segments are
 * taken in order from the first gap on, so the bytes without a gap grow all the time. A slow request at that gap is
 * not waited for while another connection could bring its rest.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import type { Logger } from 'pino'
import type { Ingest } from '../../storage/ingest/ingest.ts'
import type { TransferPriority, TransferSlots } from '../../upstream/limits/transfer-slots.ts'
import { UpstreamError } from '../../upstream/upstream.ts'
import { backoff } from '../../base/backoff.ts'
import { RangeRequest, type RangeRequests, type RequestedRange } from './range-requests.ts'
import type { SegmentPolicy } from './segment-policy.ts'
import { TransferSlot } from './transfer-slot.ts'

/** A smaller rest is not worth keeping; and fewer bytes tell no rate. */
const WORTH_KEEPING: Bytes = 256 * 1024
/** A rest is taken over when it would take longer than this ... */
const LONG: Milliseconds = 3_000
/** ... and so many times longer than elsewhere: the bytes in flight of a cancelled request are lost. */
const SLOW = 4
/** Where upstream asks for a longer pause the window is smaller by then, and the main request goes on meanwhile. */
const LONGEST_PAUSE: Milliseconds = 30_000

interface PiecesOptions {
  readonly segments: SegmentPolicy
  readonly slots: TransferSlots
  /** Priority of the whole download. */
  readonly priority: () => TransferPriority
  readonly owner: object
  readonly ingest: Ingest
  readonly runs: RangeRequests
  readonly size: () => Bytes | undefined
  /** One request, as far as it goes. */
  readonly fetch: (run: RangeRequest, signal: AbortSignal) => Promise<unknown>
  readonly onChange: () => void
  readonly log: Pick<Logger, 'debug'>
}

interface Next extends RequestedRange {
  /** The request whose rest this is; when nothing of the rest is worth leaving to it, it is cancelled. */
  readonly from?: RangeRequest
}

export class SegmentScheduler {
  readonly #options: PiecesOptions
  /** Ranges begun so far; undefined while upstream has not honoured a range. */
  #count: number | undefined
  /** Segments that wait for a transfer slot. */
  #waiting = 0
  #failures = 0
  #notBefore: Milliseconds = Number.NEGATIVE_INFINITY
  /** Usual throughput of the requests that have ended, in bytes per millisecond. */
  #usual: number | undefined

  constructor(options: PiecesOptions) {
    this.#options = options
  }

  /** Some of it came, or is coming, in segments. */
  get used(): boolean {
    return (this.#count ?? 0) > 1
  }

  /** Where a main request is to end. */
  endOf(start: Bytes): Bytes {
    const { segments } = this.#options
    const size = this.#options.size()
    if (size === undefined || !segments.cuts(size)) return Number.POSITIVE_INFINITY
    return start + segments.lengthOf(this.#count ?? 0, size - start)
  }

  /**
   * Whether a limit that the request meets concerns only the number at once: then there will be fewer, and upstream
   * is not paused. With every complaint the window shrinks, so where upstream refuses us as a whole, before long a
   * main request runs alone in a window that has been one for a while: the limit that it meets concerns all.
   */
  isSpare(run: RangeRequest): boolean {
    const { segments, runs } = this.#options
    return run.kind !== 'main' || (this.used && (runs.size > 1 || !segments.narrowest))
  }

  /** The answer to a main request tells whether upstream honours ranges. */
  answered(run: RangeRequest, ranged: boolean, signal: AbortSignal): void {
    if (run.kind !== 'main' || !Number.isFinite(run.end)) return
    if (ranged) {
      this.#count = (this.#count ?? 0) + 1
      this.spread(signal)
      return
    }
    // Upstream sends all of it: then all of it is taken, and no segment is requested.
    this.#options.segments.refused()
    this.#count = undefined
    run.end = Number.POSITIVE_INFINITY
  }

  /** Called every second or so, to find the requests that have become slow. */
  look(signal: AbortSignal): void {
    for (const run of this.#options.runs.all) run.look(this.#options.segments.now)
    this.spread(signal)
  }

  /** Starts as many further segments as the window allows. Cheap: called after every write. */
  spread(signal: AbortSignal): void {
    const { segments, runs } = this.#options
    if (this.#count === undefined) return
    while (
      runs.size + this.#waiting < segments.window &&
      segments.now >= this.#notBefore &&
      !signal.aborted &&
      this.#next() !== undefined
    ) {
      this.#waiting += 1
      this.#bring(signal).catch((error: unknown) => {
        if (!signal.aborted) this.#options.log.debug({ err: error }, 'fetch of a piece failed')
      })
    }
  }

  async #bring(signal: AbortSignal): Promise<void> {
    const { slots, owner, ingest, runs, segments } = this.#options
    const begun: { run?: RangeRequest } = {}
    const priority = (): TransferPriority => {
      const whole = this.#options.priority()
      // The segment at the first gap is what the clients wait for.
      const isNext = begun.run !== undefined && begun.run.start <= ingest.prefix
      return whole === 'asked' && !isNext ? 'share' : whole
    }
    let turn: TransferSlot
    try {
      turn = await TransferSlot.take(slots, { priority, owner }, signal)
    } finally {
      this.#waiting -= 1
    }
    using held = turn
    const next = this.#next()
    if (next === undefined || this.#count === undefined || segments.now < this.#notBefore) return
    this.#count += 1
    const run = new RangeRequest('piece', next, segments.now)
    begun.run = run
    if (next.from !== undefined && next.start <= next.from.taken) next.from.leave()
    runs.add(run)
    try {
      await this.#options.fetch(run, AbortSignal.any([signal, held.preempted, run.over]))
      this.#failures = 0
    } catch (error) {
      if (held.preempted.aborted || run.over.aborted || signal.aborted) return
      this.failed(error, run)
      throw error
    } finally {
      this.#ended(run)
      runs.delete(run)
      this.#options.onChange()
    }
  }

  /** The others go on; nothing new is begun for a while. Called for main requests, too. */
  failed(error: unknown, run: RangeRequest): void {
    const { segments } = this.#options
    segments.failed(error, run.beganAt, this.#isShutOut(run))
    this.#failures += 1
    const told = error instanceof UpstreamError ? error.retryAfterMs : undefined
    const pause = told ?? backoff(this.#failures)
    this.#notBefore = Math.max(this.#notBefore, segments.now + Math.min(pause, LONGEST_PAUSE))
  }

  /** Halves the window only while other requests still receive; if none does, upstream is down, and not full. */
  #isShutOut(run: RangeRequest): boolean {
    const { segments, runs } = this.#options
    if (run.kind !== 'piece' || run.taken > run.start) return false
    return runs.all.some((it) => it !== run && (it.rate(segments.now) ?? it.taken - it.start) > 0)
  }

  #ended(run: RangeRequest): void {
    const brought = run.taken - run.start
    if (brought < WORTH_KEEPING) return
    const rate = brought / Math.max(this.#options.segments.now - run.beganAt, 1)
    this.#usual = this.#usual === undefined ? rate : (this.#usual + rate) / 2
  }

  /** What to begin now: the rest of the request that holds up the others, the first gap, or the rest of a slow one. */
  #next(): Next | undefined {
    const { segments, runs, ingest } = this.#options
    const size = this.#options.size()
    if (size === undefined || !segments.cuts(size)) return undefined
    const { prefix } = ingest
    const holder = runs.all.find((run) => run.start <= prefix && prefix <= run.position && !run.over.aborted)
    const held = holder && this.#restOf(holder, size)
    if (held !== undefined) return held
    const gap = runs.firstGap(size)
    if (gap !== undefined) {
      if (gap.start - prefix > segments.farthest) return undefined
      const length = segments.lengthOf(this.#count ?? 0, size - gap.start)
      return { start: gap.start, end: Math.min(gap.end, gap.start + length) }
    }
    return runs.all.map((run) => this.#restOf(run, size)).find((rest) => rest !== undefined)
  }

  /**
   * The part of that request's range that another connection should bring, so that both end at the same time;
   * undefined where that would not help.
   */
  #restOf(run: RangeRequest, size: Bytes): Next | undefined {
    const { segments, runs } = this.#options
    const { now } = segments
    const end = runs.limitOf(run, size)
    const left = end - run.taken
    const own = run.rate(now)
    if (own === undefined || run.over.aborted || left <= own * LONG) return undefined
    const others = runs.all.filter((it) => it !== run).map((it) => it.rate(now) ?? 0)
    const theirs = Math.max(0, ...others) || this.#usual
    if (theirs === undefined || own * SLOW > theirs) return undefined
    const share = Math.floor((left * own) / (own + theirs))
    return { start: share < WORTH_KEEPING ? run.taken : run.taken + share, end, from: run }
  }
}
