/**
 * What the commands do, over the parts of a running server, or over a folder that nobody else uses.
 */
import { availableParallelism } from 'node:os'
import path from 'node:path'
import type { Logger } from 'pino'
import type { Share } from '../../cache/eviction/limits.ts'
import type { DiskBudget } from '../../cache/eviction/disk-budget.ts'
import type { Config } from '../../config/schema.ts'
import type { LiveConfig } from '../../config/live.ts'
import { parsePercent, parseSize } from '../../config/units.ts'
import type { Alone } from '../../admin/cli/process-io.ts'
import type { Operations } from '../../admin/operations.ts'
import { createEviction } from './eviction.ts'
import { createLocal } from './local.ts'
import type { Collector } from '../../storage/gc/collector.ts'
import { shadowedNames } from '../../registry/naming/shadowed-names.ts'
import type { LocalContext } from '../../registry/local/local-context.ts'
import { reservingGlob } from '../../registry/naming/push-policy.ts'
import { OperatorError } from '../../base/operator-error.ts'
import { startError } from '../start-error.ts'
import { openStorage, type Storage } from './storage.ts'
import { DiskBlobAudit } from '../../storage/blobs/disk-audit.ts'
import { nodeFiles } from '../../storage/files/files.ts'
import { finishIndex } from '../../storage/metadata/sqlite/index-identity.ts'
import { NewFile, OutsideFile } from '../../storage/files/atomic-file.ts'
import { StorageError } from '../../storage/storage-error.ts'
import { createMetrics } from '../../telemetry/metrics.ts'
import type { ImageOperations } from './image-operations.ts'
import { openStandalone } from './standalone.ts'
import { createNotifier } from './notifications.ts'
import { backup } from '../../admin/archive/write-archive.ts'
import { restore } from '../../admin/archive/restore-archive.ts'
import { verify } from '../../storage/integrity/verify.ts'

const VERIFY_LANES = Math.min(availableParallelism(), 4)

/** What the operations work with; the same objects that everything else in the process uses. */
interface KeepingParts {
  readonly live: Pick<LiveConfig, 'config'>
  readonly state: Storage
  readonly local: LocalContext
  readonly collector: Collector
  readonly evictor: DiskBudget
  /** What is done about single images. */
  readonly tending: ImageOperations
  /** Somebody pulls and pushes meanwhile. */
  readonly serving: boolean
}

export function createOperations(parts: KeepingParts): Operations {
  const { live, local, collector, evictor, tending, serving } = parts
  const { root, hashers, holds, index } = parts.state
  const disk = new DiskBlobAudit({ root, files: nodeFiles, hashers })
  const { store, ingests, metadata, locks, localNames, room, settings, now } = local
  return {
    gc: ({ dryRun }, signal) => collector.run({ dryRun, signal }),
    async *evict({ dryRun, to }, signal) {
      yield* evictor.evict({ dryRun, to: to === undefined ? undefined : shareOf(to) }, signal)
    },
    ...tending.operations,
    verify: (args, signal) =>
      verify(
        // Without room: a look that holds a blob must not wait for an eviction that waits for that blob.
        { disk, store, metadata: index, locks, now, serving, lanes: VERIFY_LANES },
        args,
        signal,
      ),
    backup: (args, signal) =>
      backup(
        {
          ...{ disk, store, holds, metadata: index, now, serving },
          create: (target) => NewFile.create(nodeFiles, target),
        },
        args,
        signal,
      ),
    restore: (args, signal) =>
      restore(
        {
          ...{ disk, store, ingests, metadata, locks, localNames, room, settings, holds, now },
          hidden: (names) => shadowedNames(live.config, names),
          denied: async (name) => {
            const glob = reservingGlob(name, live.config.push)
            if (glob !== undefined) return `push.deny (${glob}) reserves ${name}`
            return tending.pulledFromElsewhere(name)
          },
          open: (path) => OutsideFile.open(nodeFiles, path),
        },
        args,
        signal,
      ),
  }
}

/**
 * The operations without a server: the folder is ours until it is disposed.
 *
 * @param options.replaceLostIndex another index may take the place of one that was lost; it has to be finished then
 * @throws StorageError LOCKED, StartError for what else keeps it from being used
 */
export async function openAlone(
  config: Config,
  log: Logger,
  { replaceLostIndex = false } = {},
): Promise<Alone> {
  const root = path.resolve(config.storage.root)
  await using opening = new AsyncDisposableStack()
  try {
    const now = Date.now
    let replaced = false
    const lostIndex = (kept: string): void => {
      replaced = true
      log.warn({ kept }, 'the index was lost: another one takes its place')
    }
    const state = await openStorage(config, opening, replaceLostIndex ? { lostIndex } : {})
    const metrics = createMetrics()
    // What brings bytes here makes room for them, as it does while somebody serves.
    const evicting = createEviction({ live: { config }, state, metrics, log, now }, opening)
    const { evictor, pushRoom } = evicting
    state.fullDisk.makeRoom = (bytes) => evictor.reclaim(bytes)
    const port = (): number => config.server.port
    const notifier = opening.use(createNotifier({ config, metadata: state.index, port, metrics, log, now }))
    const { events } = notifier
    const settings = config.push
    // Nobody mounts anything now.
    const readableHere = (): Promise<boolean> => Promise.resolve(false)
    const { local, collector } = createLocal({
      ...{ config, state, room: pushRoom, events, settings, readableHere, metrics, log, now },
      // Whoever reads here looks at everything closely.
      suspect: () => undefined,
    })
    const tending = openStandalone({ config, state, local, evicting, metrics, log, now }, opening)
    const closing = opening.move()
    return {
      ...createOperations({ live: { config }, state, local, collector, evictor, tending, serving: false }),
      finishIndex: () => {
        if (replaced) finishIndex(state.database)
      },
      [Symbol.asyncDispose]: () => closing.disposeAsync(),
    }
  } catch (error) {
    // Whoever waits for its turn wants to know that.
    if (error instanceof StorageError && error.code === 'LOCKED') throw error
    throw startError(error, { root, host: config.server.host, port: config.server.port })
  }
}

/** @throws OperatorError */
function shareOf(text: string): Share {
  const percent = parsePercent(text)
  const bytes = parseSize(text)
  if (percent !== undefined || bytes !== undefined) return { bytes, percent }
  throw new OperatorError(`${text} is no size: say 20GiB, or 50% of the file system`)
}
