/**
 * What keeps the mirror within its budget: the house-keeping between the index, the files and whoever pulls.
 */
import type { Logger } from 'pino'
import { EvictionCandidates } from '../../cache/eviction/candidates.ts'
import type { BudgetSettings, Share } from '../../cache/eviction/limits.ts'
import { EvictionOrder } from '../../cache/eviction/eviction-order.ts'
import { DiskBudget } from '../../cache/eviction/disk-budget.ts'
import { PushSpace } from '../../cache/eviction/push-space.ts'
import { Pins } from '../../cache/eviction/pins.ts'
import { AccessTimes } from '../../cache/eviction/access-times.ts'
import { Reconciliation } from '../../cache/eviction/reconcile.ts'
import { Removal } from '../../cache/eviction/removal.ts'
import { CacheUsage } from '../../cache/eviction/usage.ts'
import type { Config } from '../../config/schema.ts'
import type { LiveConfig } from '../../config/live.ts'
import type { Storage } from './storage.ts'
import type { Metrics } from '../../telemetry/metrics.ts'

interface EvictingOptions {
  readonly live: Pick<LiveConfig, 'config'>
  readonly state: Storage
  readonly metrics: Metrics
  readonly log: Logger
  readonly now: () => number
}

export interface EvictionParts {
  readonly evictor: DiskBudget
  readonly pushRoom: PushSpace
  readonly recency: AccessTimes
  readonly pinned: Pins
  readonly images: EvictionCandidates
  readonly removal: Removal
  /** Looks by itself from now on, and sets right what a crash has left. */
  start(): void
}

/** What it makes is closed by `closing`. It does nothing by itself before it is started. */
export function createEviction(options: EvictingOptions, closing: AsyncDisposableStack): EvictionParts {
  const { live, state, metrics, log, now } = options
  // The index itself, and not what makes room in it: that is us.
  const { root, index: metadata, ingests, store, locks, holds, files } = state
  const { eviction: index } = metadata
  const recency = closing.use(new AccessTimes({ metadata, log, now }))
  const pinned = new Pins(() => live.config.cache.pin, index)
  const images = new EvictionCandidates({ index, recency, pinned })
  const removal = new Removal({ store, metadata, index, locks, holds, now })
  const usage = new CacheUsage({ index, ingests, metrics })
  const eviction = new EvictionOrder({
    ...{ index, images, removal, ingests, now },
    expects: (download) => usage.expects(download),
  })
  const evictor = closing.use(
    new DiskBudget({
      ...{ usage, eviction, locks, metrics, log },
      settings: () => budgetOf(live.config),
      space: () => files.space(root),
      looked: (space) => state.reserve.refill(space),
    }),
  )
  const pushRoom = new PushSpace({
    headroom: () => evictor.headroom(),
    canFree: (bytes) => evictor.canFree(bytes),
    makeRoom: (bytes) => evictor.reclaim(bytes),
  })
  const start = (): void => {
    evictor.start()
    // Collections and deletions change what is pushed, and tell nobody here.
    const measure = async (): Promise<void> => {
      await usage.measure()
    }
    metrics.beforeScrape.add(measure)
    closing.defer(() => {
      metrics.beforeScrape.delete(measure)
    })
    const ending = new AbortController()
    const { indexSince } = state
    const reconciliation = new Reconciliation({
      ...{ store, metadata, index, locks, holds, indexSince, log, now },
    })
    const ended = reconciliation.run(ending.signal).then(
      () => evictor.changed(),
      (err: unknown) => {
        if (!ending.signal.aborted) log.debug({ err }, 'the index could not be compared with the disk')
      },
    )
    closing.defer(async () => {
      ending.abort(new Error('shutting down'))
      await ended
    })
  }
  return { evictor, pushRoom, recency, pinned, images, removal, start }
}

function budgetOf({ cache, upstreams }: Config): BudgetSettings {
  const limited = upstreams.flatMap(({ key, maxSize }): [string, Share][] =>
    maxSize === undefined ? [] : [[key, maxSize]],
  )
  return { maxSize: cache.maxSize, minFree: cache.minFree, upstreams: new Map(limited) }
}
