/**
 * Scheduler of the parallel segments of one large blob, which come beside its main request: how many at once, which
 * next, and whose rest is taken over by somebody quicker.
 *
 * The main run is the probe: nothing is asked for beside it before it was given the part it asked for. Pieces are
 * taken in order from the first gap on, so what is there without a gap grows all the time. What holds that up is never
 * waited for while somebody else could bring it.
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

/** Of a rest, less is not worth waiting for; and by less no rate is told. */
const WORTH_KEEPING: Bytes = 256 * 1024
/** What takes longer, and so many times longer than somebody else would, is taken over. */
const LONG: Milliseconds = 3_000
/** What a connection that is given up has on its way is lost: for less than that it is not worth it. */
const SLOW = 4
/** Whoever asks for more has fewer by then, and the layer goes on meanwhile. */
const LONGEST_PAUSE: Milliseconds = 30_000

interface PiecesOptions {
  readonly segments: SegmentPolicy
  readonly slots: TransferSlots
  /** Of the whole download. */
  readonly priority: () => TransferPriority
  readonly owner: object
  readonly ingest: Ingest
  readonly runs: RangeRequests
  readonly size: () => Bytes | undefined
  /** One request, as far as it goes. */
  readonly fetch: (run: RangeRequest, signal: AbortSignal) => Promise<unknown>
  /** A run has ended. */
  readonly onChange: () => void
  readonly log: Pick<Logger, 'debug'>
}

interface Next extends RequestedRange {
  /** Whose rest it is, and whether that one is to leave all of it. */
  readonly from?: RangeRequest
}

export class SegmentScheduler {
  readonly #options: PiecesOptions
  /** So many were begun; undefined while upstream has not given a part. */
  #count: number | undefined
  /** Those that wait for a turn. */
  #waiting = 0
  #failures = 0
  #notBefore: Milliseconds = Number.NEGATIVE_INFINITY
  /** Bytes per millisecond of those that have ended. */
  #usual: number | undefined

  constructor(options: PiecesOptions) {
    this.#options = options
  }

  /** Some of it came, or is coming, in pieces. */
  get used(): boolean {
    return (this.#count ?? 0) > 1
  }

  /** Where a main run is to end. */
  endOf(start: Bytes): Bytes {
    const { segments } = this.#options
    const size = this.#options.size()
    if (size === undefined || !segments.cuts(size)) return Number.POSITIVE_INFINITY
    return start + segments.lengthOf(this.#count ?? 0, size - start)
  }

  /**
   * Whether a limit that it meets is one of several at once: then there will be fewer, and upstream is asked as ever.
   * With every complaint the window shrinks, so where upstream has had enough of us as a whole, there is a main run
   * before long that is alone, and has been all that may be for a while: what that one meets is a limit of all.
   */
  isSpare(run: RangeRequest): boolean {
    const { segments, runs } = this.#options
    return run.kind !== 'main' || (this.used && (runs.size > 1 || !segments.narrowest))
  }

  /** What the answer to a main run tells: it has the part it asked for, or all. */
  answered(run: RangeRequest, ranged: boolean, signal: AbortSignal): void {
    if (run.kind !== 'main' || !Number.isFinite(run.end)) return
    if (ranged) {
      this.#count = (this.#count ?? 0) + 1
      this.spread(signal)
      return
    }
    // It sends all of it: then all of it is taken, and nobody else is sent for a part.
    this.#options.segments.refused()
    this.#count = undefined
    run.end = Number.POSITIVE_INFINITY
  }

  /** Every second or so: what has become slow is seen. */
  look(signal: AbortSignal): void {
    for (const run of this.#options.runs.all) run.look(this.#options.segments.now)
    this.spread(signal)
  }

  /** Starts as many further pieces as may be under way. Cheap: called after every write. */
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
      // What comes next is what they wait for.
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

  /** Others go on; nothing new is begun for a while. Told of main runs, too. */
  failed(error: unknown, run: RangeRequest): void {
    const { segments } = this.#options
    segments.failed(error, run.beganAt, this.#isShutOut(run))
    this.#failures += 1
    const told = error instanceof UpstreamError ? error.retryAfterMs : undefined
    const pause = told ?? backoff(this.#failures)
    this.#notBefore = Math.max(this.#notBefore, segments.now + Math.min(pause, LONGEST_PAUSE))
  }

  /** Not so where nobody gets anything any more: then upstream is gone, and not full. */
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

  /** What is to be begun now: the rest of what holds the others up, or the first gap, or the rest of what is slow. */
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
   * What somebody else is to bring of that run's stretch, so that both have done at the same time; undefined where that
   * would not help.
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
