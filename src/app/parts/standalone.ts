/**
 * The mirror's half where no server runs: for who asks about an image, removes or refreshes it.
 *
 * No upstream hears of us before somebody refreshes.
 */
import type { Logger } from 'pino'
import { StorageHealth } from '../../cache/resilience/storage-health.ts'
import type { Config } from '../../config/schema.ts'
import type { EvictionParts } from './eviction.ts'
import { LiveConfig } from '../../config/live.ts'
import { BUDGETS, createMirror } from './mirror.ts'
import { pushSettings } from './local.ts'
import type { LocalContext } from '../../registry/local/local-context.ts'
import { NameRegistry } from '../../registry/registry.ts'
import type { Storage } from './storage.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import { createImageOperations, type ImageOperations } from './image-operations.ts'
import { UpstreamSet } from './upstream-set.ts'

interface TendingParts {
  readonly config: Config
  readonly state: Storage
  readonly local: LocalContext
  readonly evicting: EvictionParts
  readonly metrics: Metrics
  readonly log: Logger
  readonly now: () => number
}

/** What it opens is closed by `closing`. */
export function openStandalone(parts: TendingParts, closing: AsyncDisposableStack): ImageOperations {
  const { config, state, local, evicting, metrics, log, now } = parts
  const monotonic = (): number => performance.now()
  const live = new LiveConfig(config)
  const { evictor: room } = evicting
  const { staleBudgetMs, budgetMs } = BUDGETS
  const upstreams = closing.use(
    new UpstreamSet({ metrics, log, now, monotonic, shortestBudgetMs: staleBudgetMs }),
  )
  upstreams.apply(config)
  const health = new StorageHealth({ metrics, log, now })
  const mirror = createMirror(
    {
      ...{ live, state, health, room, evicting, metrics, log, now, staleBudgetMs, budgetMs },
      maxUntoldSize: undefined,
      suspect: () => undefined,
    },
    closing,
  )
  const nobodyPulls = (): never => {
    throw new Error('nobody pulls or pushes here')
  }
  const registry = new NameRegistry(
    {
      local: () => config.local,
      pushes: pushSettings(live, false),
      localNames: state.localNames,
      storageFailing: () => health.failing,
      storageFull: () => Promise.resolve(false),
      storageHangsSince: () => undefined,
      outOfFiles: () => false,
      served: nobodyPulls,
      quarantine: nobodyPulls,
      catalog: nobodyPulls,
      openLocal: nobodyPulls,
      openPushes: nobodyPulls,
      openMirror: nobodyPulls,
    },
    upstreams.entries,
  )
  return createImageOperations({ ...{ live, state, registry, mirror, evicting, local, serving: false, now } })
}
