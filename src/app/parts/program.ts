/**
 * Program without its port, composed in one visible order: for a server, and for a command that runs alone.
 *
 * Opening it needs the disk, never the network. In a command that runs alone nothing runs in the background, and no
 * upstream is asked before an operation asks it.
 */
import type { Logger } from 'pino'
import { isLoopback } from '../../base/loopback.ts'
import type { DiskSpace } from '../../cache/eviction/disk-space.ts'
import { StorageHealth } from '../../cache/resilience/storage-health.ts'
import { LiveConfig } from '../../config/live.ts'
import type { Config } from '../../config/schema.ts'
import { LocalPushTarget } from '../../registry/local/local-push-target.ts'
import { LocalRepository } from '../../registry/local/local-repository.ts'
import { MirrorRepository } from '../../registry/mirror-repository.ts'
import { NameRegistry } from '../../registry/registry.ts'
import type { Files } from '../../storage/files/files.ts'
import { HungDiskWatch, type DiskTimeouts } from '../../storage/files/hung-disk.ts'
import type { PartialLimits } from '../../storage/ingest/partial-file.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import type { OpenFiles } from '../../telemetry/open-files.ts'
import { refuseShadowedNames } from '../start-error.ts'
import { createEviction } from './eviction.ts'
import { createIntegrity, NO_INTEGRITY, refetch } from './integrity.ts'
import { createLocal, pushSettings } from './local.ts'
import { BUDGETS, createMirror } from './mirror.ts'
import { createNotifier } from './notifications.ts'
import { createOperations } from './operations.ts'
import { openStorage, type StorageOptions } from './storage.ts'
import { UpstreamSet } from './upstream-set.ts'

/** Parts that a test replaces. */
export interface ProgramOverrides {
  /** Wall clock, in milliseconds: decides freshness. */
  readonly now?: () => number
  /** The file system under blobs and partial files. */
  readonly files?: Files
  /** How long the disk may take for a change before it counts as hung. */
  readonly diskTimeouts?: DiskTimeouts
  /** How far a partial file may be ahead of its sync, and of its hash. */
  readonly partialLimits?: Partial<PartialLimits>
  /** The most bytes taken of a blob whose size no upstream tells. */
  readonly maxUntoldSize?: number
  readonly staleBudgetMs?: number
  readonly budgetMs?: number
  readonly diskSpace?: DiskSpace
}

interface ProgramOptions {
  /** Absent for a command that runs alone. */
  readonly serve?: ServeOptions
  /** {@link StorageOptions.lostIndex} */
  readonly lostIndex?: StorageOptions['lostIndex']
  readonly metrics: Metrics
  readonly log: Logger
  readonly overrides?: ProgramOverrides
}

/** Options of a server, which gives up a hung disk and watches its limit of open files; a command just waits. */
interface ServeOptions {
  readonly openFiles: OpenFiles
  /** Whether a request is being answered: the scrub pauses meanwhile. */
  readonly busy: () => boolean
  /** The server's port, once it listens. */
  readonly port: () => number
}

/**
 * All parts are closed by `closing`, in reverse order.
 *
 * @throws StorageError LOCKED, LOST_INDEX, or the system's error; StartError
 */
export async function openProgram(config: Config, options: ProgramOptions, closing: AsyncDisposableStack) {
  const { serve, lostIndex, metrics, log, overrides = {} } = options
  const { files, partialLimits, maxUntoldSize } = overrides
  const { staleBudgetMs = BUDGETS.staleBudgetMs, budgetMs = BUDGETS.budgetMs, now = Date.now } = overrides
  const monotonic = overrides.now ?? (() => performance.now())
  const serving = serve !== undefined
  const openFiles = serve?.openFiles
  const live = new LiveConfig(config)
  const tools = { metrics, log, now }

  // Disk and index.
  const diskWatch = serving
    ? new HungDiskWatch({ timeouts: overrides.diskTimeouts, onChange: (since) => logHungDisk(log, since) })
    : undefined
  const hangsSince = (): number | undefined => diskWatch?.hangsSince
  let indexStuckSince: number | undefined
  const health = new StorageHealth({ ...tools, ...(openFiles && { openFiles }), hangsSince })
  const serverStorage = {
    report: (error: unknown): void => health.cleanupFailed(error),
    onIndexStuck: (since: number | undefined): void => {
      indexStuckSince = since
      logStuckIndex(log, since)
    },
  }
  const storage = await openStorage(config, closing, {
    ...{ files, diskWatch, partialLimits, monotonic, lostIndex },
    ...(serving ? serverStorage : {}),
  })
  const { index, localNames } = storage
  if (serving) refuseShadowedNames(config, localNames)

  // Only a server looks closely at stored bytes, which takes time and fetches damaged ones again.
  const integrity = serving
    ? createIntegrity(
        {
          ...{ live, storage, ...tools },
          busy: () => mirror.blobs.busy || serve.busy(),
          refetch: (lost) => refetch(lost, { entries: upstreams.entries, mirror, index, log }),
        },
        closing,
      )
    : NO_INTEGRITY
  const { suspect, quarantine } = integrity

  // Mirror.
  const upstreams = closing.use(
    new UpstreamSet({ ...tools, openFiles, monotonic, shortestBudgetMs: staleBudgetMs }),
  )
  upstreams.apply(config)
  const eviction = createEviction({ live, storage, ...tools }, closing)
  const { diskBudget, pushSpace } = eviction
  const diskSpace = overrides.diskSpace ?? diskBudget
  storage.fullDisk.makeRoom = (bytes) => diskSpace.reclaim(bytes)
  const mirror = createMirror(
    {
      ...{ live, storage, health, diskSpace, suspect, eviction, ...tools },
      ...{ staleBudgetMs, budgetMs, maxUntoldSize },
    },
    closing,
  )

  // Local repositories.
  const { host, accelRedirect } = config.server
  // Behind nginx every request comes from this machine, whichever client sent it.
  const pushes = pushSettings(live, accelRedirect === undefined && isLoopback(host))
  const notifier = closing.use(
    createNotifier({ config, metadata: index, ...tools, port: serve?.port ?? (() => config.server.port) }),
  )
  const { local, collector } = createLocal({
    ...{ config, storage, pushSpace, suspect, ...tools },
    events: notifier.events,
    settings: pushes,
    readableHere: (name, digest) => registry.holds(name, digest),
  })
  // The collector counts from a time that is at most this much older than the last answer "it is here".
  const touchEveryMs = Math.min(3_600_000, config.push.gcGrace / 24)

  // Names of repositories.
  const registry: NameRegistry = new NameRegistry(
    {
      local: () => live.config.local,
      pushes,
      localNames,
      storageFailing: () => health.failing,
      storageFull: () => pushSpace.isFull(),
      storageHangsSince: () => hangsSince() ?? indexStuckSince,
      outOfFiles: () => openFiles?.exhausted === true,
      quarantine,
      served: (mirrored) => mirror.served.has(mirrored),
      catalog: (page) => index.repositories.catalog(page),
      openLocal: (name) =>
        new LocalRepository({ bytes: local.bytes, metadata: index, touchEveryMs, log, now }, name),
      openPushes: (name, { cause }, assertFree) => new LocalPushTarget(local, name, { cause, assertFree }),
      openMirror: (mirrored, pushRefusal) => new MirrorRepository(mirror, mirrored, pushRefusal),
    },
    upstreams.entries,
  )
  const { explainer, operations } = createOperations({
    ...{ live, storage, registry, mirror, eviction, local, collector, serving, now },
  })
  return {
    ...{ live, storage, upstreams, diskSpace, eviction, mirror, integrity, notifier, collector, registry },
    ...{ explainer, operations },
  }
}

function logHungDisk(log: Logger, since: number | undefined): void {
  if (since === undefined) log.info('the disk answers again')
  else log.error({ since: new Date(since).toISOString() }, 'the disk does not answer: nothing is kept')
}

function logStuckIndex(log: Logger, since: number | undefined): void {
  if (since === undefined) log.info('the index takes writes again')
  else log.error({ since: new Date(since).toISOString() }, 'the index takes no writes')
}
