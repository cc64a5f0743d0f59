/**
 * What the commands do, over the parts of a running server, or over a folder that nobody else uses.
 */
import { availableParallelism } from 'node:os'
import path from 'node:path'
import type { Logger } from 'pino'
import type { Config } from './config.ts'
import type { Operations } from './control/operations.ts'
import type { Digest } from './oci/digest.ts'
import { Collector } from './registry/gc.ts'
import { LocalNames } from './registry/local-names.ts'
import { LocalPushes, type LocalContext } from './registry/local-pushes.ts'
import { Pins } from './registry/pins.ts'
import { hiddenLocalNames } from './registry/registry.ts'
import { Removals } from './registry/removals.ts'
import { Uploads } from './registry/uploads.ts'
import { startError } from './start-error.ts'
import { DiskBlobStore } from './store/disk.ts'
import type { AuditIndex } from './store/audit.ts'
import { DiskBlobAudit } from './store/disk-audit.ts'
import { openIngests } from './store/disk-ingest.ts'
import { nodeFiles } from './store/files.ts'
import { Hashers } from './store/hasher.ts'
import { acquireRootLock } from './store/lock.ts'
import { InProcessLocks } from './store/locks.ts'
import { NewFile, openOutside } from './store/outside-file.ts'
import { openAudit, openSnapshot } from './store/sqlite-audit.ts'
import { indexSince, openMetadata } from './store/sqlite-metadata.ts'
import { createMetrics } from './telemetry/metrics.ts'
import { createNotifier } from './telling.ts'
import { backup } from './upkeep/backup.ts'
import { restore } from './upkeep/restore.ts'
import { verify } from './upkeep/verify.ts'

const DATABASE = 'metadata.sqlite'

const VERIFY_LANES = Math.min(availableParallelism(), 4)

/** What the operations work with; the same objects that everything else in the process uses. */
interface KeepingParts {
  readonly config: Config
  readonly local: LocalContext
  readonly collector: Collector
  readonly hashers: Hashers
  /** The same that the collector goes by. */
  readonly pins: Pins
  /** Somebody pulls and pushes meanwhile. */
  readonly serving: boolean
}

export function createOperations(parts: KeepingParts): Operations {
  const { config, local, collector, hashers, pins, serving } = parts
  const root = path.resolve(config.storage.root)
  const database = path.join(root, DATABASE)
  const disk = new DiskBlobAudit({ root, files: nodeFiles, hashers })
  const { store, ingests, metadata, locks, localNames, settings, now } = local
  const upstreamNames = new Set(config.upstreams.flatMap(({ key, aliases }) => [key, ...aliases]))
  const openIndex = (): AuditIndex => openAudit(database)
  const removals = new Removals({
    metadata: local.metadata,
    // Who may do that may change the configuration as well.
    openPushes: (name) => new LocalPushes({ ...local, settings: { immutable: [] } }, name),
    local: config.local,
  })
  return {
    gc: ({ dryRun }, signal) => collector.run({ dryRun, signal }),
    async *rm({ name, reference }) {
      yield await removals.remove(name, reference)
    },
    async *release({ name }) {
      yield await removals.release(name)
    },
    verify: (args, signal) =>
      verify({ disk, store, metadata, locks, openIndex, now, serving, lanes: VERIFY_LANES }, args, signal),
    backup: (args, signal) =>
      backup(
        {
          ...{ disk, store, pins, openIndex, now, serving },
          openSnapshot: () => openSnapshot(database),
          create: (target) => NewFile.create(nodeFiles, target),
        },
        args,
        signal,
      ),
    restore: (args, signal) =>
      restore(
        {
          ...{ disk, store, ingests, metadata, locks, localNames, settings, pins, now },
          hidden: (names) => hiddenLocalNames(names, upstreamNames, config.local),
          open: openOutside,
        },
        args,
        signal,
      ),
  }
}

/**
 * The operations without a server: the folder is ours until it is disposed.
 *
 * @throws StorageError LOCKED, StartError for what else keeps it from being used
 */
export async function openAlone(config: Config, log: Logger): Promise<Operations & AsyncDisposable> {
  const root = path.resolve(config.storage.root)
  await using opening = new AsyncDisposableStack()
  opening.use(acquireRootLock(root))
  try {
    const now = Date.now
    const hashers = opening.adopt(new Hashers(), (it) => it.close())
    const database = path.join(root, DATABASE)
    const metadata = opening.adopt(await openMetadata(database), (it) => it.close())
    const localNames = await LocalNames.load(metadata)
    const locks = new InProcessLocks()
    const store = new DiskBlobStore(root)
    const { sessionTtl: sessionTtlMs, gcGrace: graceMs } = config.push
    const ingests = opening.adopt(await openIngests({ root, hashers, sessionTtlMs }), (it) => it.close())
    const metrics = createMetrics()
    const port = (): number => config.server.port
    const notifier = opening.use(createNotifier({ config, metadata, port, metrics, log, now }))
    const uploads = new Uploads({ store, ingests, metadata, locks, localNames, log, now })
    const pins = new Pins()
    const pinned = (digest: Digest): boolean => pins.has(digest)
    const collector = new Collector({
      ...{ store, metadata, locks, pinned, graceMs, metrics, log, now },
      indexSince: await indexSince(database),
    })
    const local: LocalContext = {
      ...{ store, ingests, metadata, locks, localNames, uploads, log, now },
      events: notifier.events,
      settings: config.push,
      // Nobody mounts anything now.
      readableHere: () => Promise.resolve(false),
    }
    const closing = opening.move()
    return {
      ...createOperations({ config, local, collector, hashers, pins, serving: false }),
      [Symbol.asyncDispose]: () => closing.disposeAsync(),
    }
  } catch (error) {
    throw startError(error, { root, host: config.server.host, port: config.server.port })
  }
}
