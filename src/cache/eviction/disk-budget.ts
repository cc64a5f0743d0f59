/**
 * Disk budget of the mirror (the evictor): when something has to go, and how much.
 *
 * A pull never waits for a budget, only for a disk that is full. One eviction runs at a time; a demand that comes
 * while it runs is served by the next. Looking takes a small share of the time, however large the index is.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import type { Logger } from 'pino'
import type { IngestIdentity } from '../../storage/ingest/ingest.ts'
import { EVICTION_LOCK, type KeyedLocks } from '../../storage/locks/keyed-locks.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import {
  bytesOf,
  limitsOf,
  roomFor,
  targetOf,
  type BudgetSettings,
  type Limits,
  type Share,
} from './limits.ts'
import type { Evicted, EvictionOrder, Goal } from './eviction-order.ts'
import type { SpaceReservation, DiskSpace } from './disk-space.ts'
import { sumOf, type CacheUsage, type Usage } from './usage.ts'
import { abandonable } from '../../base/condition.ts'

interface EvictorOptions {
  readonly usage: CacheUsage
  readonly eviction: Pick<EvictionOrder, 'pursue' | 'settle' | 'stranded' | 'dropStranded'>
  readonly locks: KeyedLocks
  readonly settings: () => BudgetSettings
  /** The file system that holds everything. */
  readonly space: () => Promise<{ readonly total: Bytes; readonly free: Bytes }>
  /** Called with the state of the disk after each look. Never rejects. */
  readonly looked?: (space: { readonly total: Bytes; readonly free: Bytes }) => Promise<void>
  readonly metrics: Pick<Metrics, 'evictions' | 'evictedBytes' | 'cacheLimit'>
  readonly log: Logger
}

/** Other programs fill the disk as well, and readers release their blobs without a call. */
const LOOK_EVERY_MS: Milliseconds = 30_000

/** Planning takes at most 1/20 of the time: it rests this many times as long as it took, unless a client waits. */
const REST = 20

/** Pins and limits may have changed by then. */
const LONGEST_REST_MS: Milliseconds = 300_000

/** The longest that a client waits for an eviction. */
const PATIENCE_MS: Milliseconds = 5_000

interface Standing {
  readonly usage: Usage
  readonly limits: Limits
  readonly free: Bytes
  readonly total: Bytes
}

export class DiskBudget implements DiskSpace, AsyncDisposable {
  readonly #options: EvictorOptions
  readonly #closing = new AbortController()
  #clock: NodeJS.Timeout | undefined
  /** The next look that no client waits for. */
  #soon: NodeJS.Timeout | undefined
  #restUntil = 0
  /** The last run failed: a failure is logged as a warning only once. */
  #failed = false
  #current: Promise<unknown> = Promise.resolve()
  #next: Promise<Bytes> | undefined
  /** The time until which a goal is not pursued again, by goal. */
  readonly #vainUntil = new Map<string, number>()
  readonly #again = new Set<NodeJS.Timeout>()
  /** Bytes that were demanded since the last run began. */
  #urgent: Bytes = 0

  constructor(options: EvictorOptions) {
    this.#options = options
  }

  start(): void {
    this.#clock ??= setInterval(() => this.changed(), LOOK_EVERY_MS).unref()
    this.changed()
  }

  changed(): void {
    if (this.#closing.signal.aborted || this.#soon !== undefined) return
    const wait = Math.min(Math.max(this.#restUntil - performance.now(), 0), LOOK_EVERY_MS)
    this.#soon = setTimeout(() => {
      this.#soon = undefined
      void this.#run().catch(() => undefined)
    }, wait).unref()
  }

  async reserve(what: IngestIdentity, size: Bytes | undefined): Promise<SpaceReservation> {
    const { usage, space, eviction, log } = this.#options
    const wanted = size ?? 0
    let admission = usage.admit(what, wanted, 'keep')
    try {
      const limits = await this.#limits()
      if (wanted > roomFor(what.source, limits)) {
        admission[Symbol.dispose]()
        admission = usage.admit(what, wanted, 'transient')
      } else this.changed()
      const lacking = async (): Promise<Bytes> => limits.minFree - (await space()).free + usage.outstanding
      if ((await lacking()) <= 0) return admission
      await abandonable(this.#run(), AbortSignal.timeout(PATIENCE_MS)).catch(() => undefined)
      const left = await lacking()
      if (left <= 0) return admission
      if ((await eviction.dropStranded(left)) > 0 && (await lacking()) <= 0) return admission
    } catch (err) {
      // Where the free space cannot be read, the download is let in: it finds out by writing.
      log.debug({ err }, 'the room on the disk is not known')
      return admission
    }
    admission[Symbol.dispose]()
    return { as: 'none', [Symbol.dispose]: () => undefined }
  }

  async reclaim(bytes: Bytes): Promise<boolean> {
    if (this.#closing.signal.aborted) return false
    this.#urgent += bytes
    try {
      return (await this.#run()) > 0
    } catch {
      return false
    }
  }

  /** True when all that may go amounts to so many bytes. */
  async canFree(bytes: Bytes): Promise<boolean> {
    const { eviction } = this.#options
    const { signal } = this.#closing
    let left = bytes - eviction.stranded()
    if (left <= 0) return true
    for await (const it of eviction.pursue({ why: 'disk full', bytes: left }, true, signal)) left -= it.bytes
    return left <= 0
  }

  /** The free bytes that a push may take; negative when less than `minFree` is left. */
  async headroom(): Promise<Bytes> {
    const { space, settings } = this.#options
    const { total, free } = await space()
    return free - limitsOf(settings(), total).minFree
  }

  async standing(): Promise<Standing> {
    const { usage, space, settings } = this.#options
    const { total, free } = await space()
    return { usage: await usage.measure(), limits: limitsOf(settings(), total), free, total }
  }

  /**
   * Evicts now, and yields what goes. What was yielded has gone; a caller that leaves early keeps the rest.
   *
   * @param to evicts down to so much; undefined: to where eviction stops by itself
   */
  async *evict(
    { dryRun, to }: { readonly dryRun: boolean; readonly to: Share | undefined },
    signal: AbortSignal,
  ): AsyncGenerator<Evicted, void, undefined> {
    const { usage, limits, total } = await this.standing()
    const target = to === undefined ? targetOf(limits.total) : bytesOf(to, total)
    const goals: Goal[] = [{ why: 'asked', bytes: usedOf(usage) - target }]
    if (to === undefined) goals.push(...upstreamGoals(usage, limits))
    for (const goal of goals)
      yield* this.#pursue(goal, dryRun, AbortSignal.any([signal, this.#closing.signal]))
    if (!dryRun) await this.#options.usage.measure()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#clock)
    clearTimeout(this.#soon)
    for (const it of this.#again) clearTimeout(it)
    this.#closing.abort(new Error('shutting down'))
    await Promise.allSettled([this.#current, this.#next])
  }

  async #limits(): Promise<Limits> {
    const { space, settings } = this.#options
    return limitsOf(settings(), (await space()).total)
  }

  /** A run that has begun does not know later demands, so another follows it. @returns the bytes that it freed */
  #run(): Promise<Bytes> {
    this.#next ??= this.#current.then(
      () => this.#begin(),
      () => this.#begin(),
    )
    return this.#next
  }

  #begin(): Promise<Bytes> {
    this.#next = undefined
    const run = this.#look()
    this.#current = run
    return run
  }

  async #look(): Promise<Bytes> {
    const { locks, eviction, usage, log } = this.#options
    const { signal } = this.#closing
    const urgent = this.#urgent
    this.#urgent = 0
    // Only planning counts as cost: an eviction takes its time while more comes, and must not put off the next look.
    let cost = 0
    try {
      using _alone = await locks.exclusive(EVICTION_LOCK, signal)
      await eviction.settle(signal)
      let freed = 0
      if (urgent > 0) freed += await eviction.dropStranded(urgent)
      const began = performance.now()
      const goals = await this.#goals(urgent).finally(() => (cost = performance.now() - began))
      for (const goal of goals) {
        const bytes = goal.registry === undefined ? goal.bytes - freed : goal.bytes
        if (bytes <= 0 || this.#isVain(goal)) continue
        const from = performance.now()
        let got = 0
        for await (const it of this.#pursue({ ...goal, bytes }, false, signal)) got += it.bytes
        freed += got
        if (got < bytes) this.#restFrom(goal, performance.now() - from)
      }
      if (freed > 0) await usage.measure()
      if (urgent === 0) await this.#options.looked?.(await this.#options.space())
      this.#failed = false
      return freed
    } catch (err) {
      // An unreadable index is logged by the pulls that meet it; the warning is for errors of the file system.
      const level = err instanceof Error && 'syscall' in err && !this.#failed ? 'warn' : 'debug'
      if (!signal.aborted) log[level]({ err }, 'the eviction failed')
      this.#failed = true
      throw err
    } finally {
      this.#restUntil = performance.now() + REST * cost
    }
  }

  /** True while a short time ago all candidates of this goal were not enough. */
  #isVain({ why, registry }: Goal): boolean {
    return why !== 'disk full' && (this.#vainUntil.get(`${why} ${registry ?? ''}`) ?? 0) > performance.now()
  }

  /** Blobs that were in use or pinned may be free after the rest. Other goals do not wait for it. */
  #restFrom({ why, registry }: Goal, tookMs: Milliseconds): void {
    const rest = Math.min(REST * tookMs, LONGEST_REST_MS)
    this.#vainUntil.set(`${why} ${registry ?? ''}`, performance.now() + rest)
    const again = setTimeout(() => {
      this.#again.delete(again)
      this.changed()
    }, rest).unref()
    this.#again.add(again)
  }

  /** The most pressing first; a goal of the whole mirror counts what the goals before it freed. */
  async #goals(urgent: Bytes): Promise<Goal[]> {
    const { usage, limits, free } = await this.standing()
    const { total, minFree } = limits
    const used = usedOf(usage)
    const lacks = minFree + usage.outstanding - free
    this.#show(limits)
    return [
      { why: 'disk full' as const, bytes: urgent },
      // A little more than is lacking: else the next download would need an eviction again.
      { why: 'minFree' as const, bytes: lacks > 0 ? lacks + (minFree - targetOf(minFree)) : 0 },
      { why: 'budget' as const, bytes: used > total ? used - targetOf(total) : 0 },
      ...upstreamGoals(usage, limits),
    ]
  }

  async *#pursue(goal: Goal, dryRun: boolean, signal: AbortSignal): AsyncGenerator<Evicted> {
    if (goal.bytes <= 0) return
    const { eviction, metrics, log } = this.#options
    const { why, registry } = goal
    const total = { entries: 0, bytes: 0 }
    try {
      for await (const it of eviction.pursue(goal, dryRun, signal)) {
        total.entries += 1
        total.bytes += it.bytes
        yield it
      }
    } finally {
      if (!dryRun && total.entries > 0) {
        metrics.evictions.inc({ reason: why.replace(' ', '_') }, total.entries)
        metrics.evictedBytes.inc({ reason: why.replace(' ', '_') }, total.bytes)
        log.info({ ...total, why, ...(registry === undefined ? {} : { upstream: registry }) }, 'evicted')
      }
    }
  }

  #show({ total, upstreams }: Limits): void {
    const { cacheLimit } = this.#options.metrics
    cacheLimit.reset()
    cacheLimit.set({ upstream: '' }, total)
    for (const [upstream, bytes] of upstreams) cacheLimit.set({ upstream }, bytes)
  }
}

function usedOf({ budgeted, indexed }: Usage): Bytes {
  return sumOf(budgeted) + indexed
}

function upstreamGoals({ budgeted }: Usage, { upstreams }: Limits): Goal[] {
  return Array.from(upstreams).flatMap(([registry, limit]) => {
    const used = budgeted.get(registry) ?? 0
    return used > limit ? [{ why: 'upstream' as const, registry, bytes: used - targetOf(limit) }] : []
  })
}
