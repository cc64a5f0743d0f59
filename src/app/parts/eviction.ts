/** Eviction: composes the parts that keep the mirror within its disk budget. */
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

interface EvictionOptions {
  readonly live: Pick<LiveConfig, 'config'>
  readonly storage: Storage
  readonly metrics: Metrics
  readonly log: Logger
  readonly now: () => number
}

export interface EvictionParts {
  readonly diskBudget: DiskBudget
  readonly pushSpace: PushSpace
  readonly accessTimes: AccessTimes
  readonly pins: Pins
  readonly candidates: EvictionCandidates
  readonly removal: Removal
  /** Begins to measure and evict in the background, and corrects the index after a crash. */
  start(): void
}

/** The parts are closed by `closing`, and do nothing in the background before `start`. */
export function createEviction(options: EvictionOptions, closing: AsyncDisposableStack): EvictionParts {
  const { live, storage, metrics, log, now } = options
  // The index without the retry on a full disk: that retry calls the eviction.
  const { root, index: metadata, indexSince, ingests, store, locks, holds, files } = storage
  const { eviction: index } = metadata
  const accessTimes = closing.use(new AccessTimes({ metadata, log, now }))
  const pins = new Pins(() => live.config.cache.pin, index)
  const candidates = new EvictionCandidates({ index, accessTimes: accessTimes, pins: pins })
  const removal = new Removal({ store, metadata, index, locks, holds, now })
  const usage = new CacheUsage({ index, ingests, metrics })
  const eviction = new EvictionOrder({
    ...{ index, images: candidates, removal, ingests, now },
    expects: (download) => usage.expects(download),
  })
  const diskBudget = closing.use(
    new DiskBudget({
      ...{ usage, eviction, locks, metrics, log },
      settings: () => budgetOf(live.config),
      space: () => files.space(root),
      looked: (space) => storage.reserve.refill(space),
    }),
  )
  const pushSpace = new PushSpace({
    headroom: () => diskBudget.headroom(),
    canFree: (bytes) => diskBudget.canFree(bytes),
    makeRoom: (bytes) => diskBudget.reclaim(bytes),
  })
  const start = (): void => {
    diskBudget.start()
    // The collector and deletions change the size of pushed content without a call to this part.
    const measure = async (): Promise<void> => {
      await usage.measure()
    }
    metrics.beforeScrape.add(measure)
    closing.defer(() => {
      metrics.beforeScrape.delete(measure)
    })
    const ending = new AbortController()
    const reconciliation = new Reconciliation({
      ...{ store, metadata, index, locks, holds, indexSince, log, now },
    })
    const ended = reconciliation.run(ending.signal).then(
      () => diskBudget.changed(),
      (err: unknown) => {
        if (!ending.signal.aborted) log.debug({ err }, 'the index could not be compared with the disk')
      },
    )
    closing.defer(async () => {
      ending.abort(new Error('shutting down'))
      await ended
    })
  }
  return { diskBudget, pushSpace, accessTimes, pins, candidates, removal, start }
}

function budgetOf({ cache, upstreams }: Config): BudgetSettings {
  const limited = upstreams.flatMap(({ key, maxSize }): [string, Share][] =>
    maxSize === undefined ? [] : [[key, maxSize]],
  )
  return { maxSize: cache.maxSize, minFree: cache.minFree, upstreams: new Map(limited) }
}
