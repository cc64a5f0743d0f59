/** Mirror: composes what repositories that pull from an upstream need. */
import type { Logger } from 'pino'
import { AnswerCache } from '../../cache/lists/answer-cache.ts'
import { BlobCache } from '../../cache/blobs/blob-cache.ts'
import type { FinishAbandoned } from '../../cache/blobs/fill.ts'
import { UpstreamLists } from '../../cache/lists/upstream-lists.ts'
import { ManifestCache } from '../../cache/manifests/manifest-cache.ts'
import { ManifestStore } from '../../cache/manifests/manifest-store.ts'
import { Prefetch } from '../../cache/prefetch/prefetch.ts'
import { ReferrersPrefetch } from '../../cache/prefetch/prefetch-referrers.ts'
import type { DiskSpace } from '../../cache/eviction/disk-space.ts'
import type { StorageHealth } from '../../cache/resilience/storage-health.ts'
import { FailOpenMetadata } from '../../cache/resilience/fail-open-metadata.ts'
import { FailOpenBlobStore } from '../../cache/resilience/fail-open-blobs.ts'
import type { Config } from '../../config/schema.ts'
import type { EvictionParts } from './eviction.ts'
import type { LiveConfig } from '../../config/live.ts'
import type { Digest } from '../../oci/digest.ts'
import type { MirrorContext } from '../../registry/mirror-repository.ts'
import { ServedNames } from '../../registry/naming/served-names.ts'
import type { Storage } from './storage.ts'
import type { Metrics } from '../../telemetry/metrics.ts'

/** Time limits for upstream where a stale answer exists, and where none does. docs/architecture.md "Freshness". */
export const BUDGETS = { staleBudgetMs: 5_000, budgetMs: 15_000 }

/** Room for thousands of lists of a common size. */
const MOST_ANSWERS = 64 * 1024 * 1024

interface MirrorOptions {
  readonly live: LiveConfig
  readonly storage: Storage
  readonly health: StorageHealth
  readonly diskSpace: DiskSpace
  /** Called with a digest whose stored bytes cannot be right. */
  readonly suspect: (digest: Digest) => void
  readonly eviction: Pick<EvictionParts, 'accessTimes' | 'removal'>
  readonly metrics: Metrics
  readonly log: Logger
  readonly now: () => number
  /** {@link BUDGETS} */
  readonly staleBudgetMs: number
  readonly budgetMs: number
  readonly maxUntoldSize: number | undefined
}

/** The parts are closed by `closing`. */
export function createMirror(options: MirrorOptions, closing: AsyncDisposableStack): MirrorContext {
  const { live, storage, health, diskSpace, suspect, eviction, metrics, log, now } = options
  const { staleBudgetMs, budgetMs, maxUntoldSize } = options
  const { ingests, locks, holds } = storage
  const metadata = new FailOpenMetadata(storage.metadata, { metrics, log, now })
  const store = new FailOpenBlobStore(storage.store, { holds, health, metrics, log, now })
  const manifestStore = new ManifestStore({ store, ingests, metadata, locks, holds, diskSpace, suspect, now })
  eviction.removal.onManifest((digest) => manifestStore.forget(digest))
  const blobs = closing.adopt(
    new BlobCache({
      ...{
        store,
        ingests,
        metadata,
        locks,
        holds,
        health,
        diskSpace,
        suspect,
        metrics,
        log,
        now,
        maxUntoldSize,
      },
      named: (repository, digest) => manifestStore.namedBlob(repository, digest),
      isManifest: (repository, digest) => manifestStore.knows(repository, digest),
      finishAbandoned: () => finishAbandoned(live.config),
      headerBudgetMs: budgetMs,
    }),
    (it) => it.close(),
  )
  const freshness = () => {
    const { negativeTtl, staleIfError, staleIfDenied } = live.config.cache
    return {
      ...{ staleBudgetMs, budgetMs },
      negativeTtlMs: negativeTtl,
      staleIfErrorMs: staleIfError,
      staleIfDeniedMs: staleIfDenied,
    }
  }
  const maxWeight = () => answersShare(live.config)
  const answers = new AnswerCache({ metadata, diskSpace, maxWeight, log, now })
  const manifests = closing.adopt(
    new ManifestCache({ manifestStore: manifestStore, metadata, answers, health, freshness, log, now }),
    (it) => it.close(),
  )
  const listings = closing.adopt(
    new UpstreamLists({ metadata, answers, manifestStore: manifestStore, freshness, now }),
    (it) => it.close(),
  )
  const mode = () => live.config.cache.prefetch
  const referrers = closing.adopt(
    new ReferrersPrefetch({ metadata, manifests, lists: listings, blobs, answers, mode, metrics, log, now }),
    (it) => it.close(),
  )
  return {
    manifests,
    blobs,
    prefetch: new Prefetch({ blobs, referrers, mode, log }),
    lists: listings,
    accessTimes: eviction.accessTimes,
    served: new ServedNames(storage.index),
  }
}

/** Cached lists take no space from images: they get a small part of the smallest budget. */
function answersShare({ cache, upstreams }: Config): number {
  const budgets = [cache.maxSize, ...upstreams.map(({ maxSize }) => maxSize)]
  return Math.min(MOST_ANSWERS, ...budgets.map((it) => (it?.bytes ?? Infinity) / 16))
}

function finishAbandoned({ cache }: Config): FinishAbandoned {
  const policy = cache.finishAbandoned
  return typeof policy === 'string' ? policy : { fraction: policy.percent / 100 }
}
