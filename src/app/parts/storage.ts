/** Opened storage: the folder with its lock, its files, and the index over them. */
import path from 'node:path'
import type { Config } from '../../config/schema.ts'
import { LocalNames } from '../../registry/naming/local-names.ts'
import { DiskBlobStore } from '../../storage/blobs/disk-blob-store.ts'
import { openIngests } from '../../storage/ingest/disk-ingest.ts'
import { nodeFiles, type Files } from '../../storage/files/files.ts'
import {
  withDiskFullRetry,
  metadataWithReserve,
  metadataWithDiskFullRetry,
  type MakeRoom,
} from '../../storage/files/disk-full-retry.ts'
import { Hashers } from '../../storage/ingest/hasher.ts'
import { withHungDiskTimeouts, type HungDiskWatch } from '../../storage/files/hung-disk.ts'
import { BlobHolds } from '../../storage/locks/blob-holds.ts'
import { acquireRootLock } from '../../storage/locks/root-lock.ts'
import { InProcessKeyedLocks, type KeyedLocks } from '../../storage/locks/keyed-locks.ts'
import { replaceLostIndex } from '../../storage/metadata/sqlite/lost-index.ts'
import type { MetadataStore } from '../../storage/metadata/metadata.ts'
import type { PartialLimits } from '../../storage/ingest/partial-file.ts'
import { DiskReserve } from '../../storage/files/disk-reserve.ts'
import { openMetadata } from '../../storage/metadata/sqlite/open.ts'
import { StorageError } from '../../storage/storage-error.ts'
import type { WriterOptions } from '../../storage/metadata/sqlite/writer.ts'

const DATABASE = 'metadata.sqlite'

export interface Storage {
  readonly root: string
  readonly files: Files
  /** The path of the index. */
  readonly database: string
  /** When the index was created. */
  readonly indexSince: number
  readonly hashers: Hashers
  /** The index for operations that free space: on a full disk it writes into the reserve. */
  readonly index: MetadataStore
  /** The same index for pulls and pushes: on a full disk it evicts and tries again. */
  readonly metadata: MetadataStore
  /** Disk space kept back for operations that free some; {@link index} uses it, too. */
  readonly reserve: DiskReserve
  /** Frees space on a full disk for files and the index; it frees nothing until the eviction is set here. */
  readonly fullDisk: { makeRoom: MakeRoom }
  readonly localNames: LocalNames
  readonly locks: KeyedLocks
  readonly holds: BlobHolds
  readonly store: DiskBlobStore
  readonly ingests: Awaited<ReturnType<typeof openIngests>>
}

export interface StorageOptions {
  readonly files?: Files | undefined
  /** Notices that the disk hangs. Default: every write waits until it answers. */
  readonly diskWatch?: HungDiskWatch | undefined
  readonly partialLimits?: Partial<PartialLimits> | undefined
  /** Called with the time since when the index takes no writes, and with undefined when it takes them again. */
  readonly onIndexStuck?: WriterOptions['onStuck']
  /** Called with the error when a partial file could not be cleaned up. */
  readonly report?: (error: unknown) => void
  /** Monotonic clock, for durations. */
  readonly monotonic?: () => number
  /**
   * Allows a new index in place of a lost one. Called with the path where the lost one is kept; until `finishIndex`
   * no other process can start. Left out: a lost index is an error.
   */
  readonly lostIndex?: ((kept: string) => void) | undefined
}

/** All parts are closed by `closing`, in reverse order. @throws StorageError LOCKED, LOST_INDEX, or a system error */
export async function openStorage(
  config: Config,
  closing: AsyncDisposableStack,
  options: StorageOptions = {},
): Promise<Storage> {
  const { files: plain = nodeFiles, diskWatch, partialLimits, report, monotonic } = options
  const root = path.resolve(config.storage.root)
  const reserve = await DiskReserve.open(path.join(root, 'reserve'))
  // The reserve comes first: with it, content can be deleted however full the disk is.
  closing.use(await reserve.use(() => Promise.resolve().then(() => acquireRootLock(root))))
  const hashers = closing.adopt(new Hashers(), (it) => it.close())
  const database = path.join(root, DATABASE)
  const plainIndex = closing.adopt(await reserve.use(() => openIndex(database, options)), (it) => it.close())
  const index = metadataWithReserve(plainIndex, reserve)
  const fullDisk: Storage['fullDisk'] = { makeRoom: () => Promise.resolve(false) }
  const makeRoom: MakeRoom = (bytes) => fullDisk.makeRoom(bytes)
  const answering = diskWatch === undefined ? plain : withHungDiskTimeouts(plain, diskWatch)
  const files = withDiskFullRetry(answering, makeRoom)
  const metadata = metadataWithDiskFullRetry(plainIndex, makeRoom)
  const localNames = await LocalNames.load(index)
  const locks = new InProcessKeyedLocks()
  const holds = new BlobHolds(monotonic)
  const store = new DiskBlobStore(root, files)
  const ingests = closing.adopt(
    await openIngests({
      ...{ root, files, hashers },
      sessionTtlMs: config.push.sessionTtl,
      ...(partialLimits === undefined ? {} : { limits: partialLimits }),
      ...(report === undefined ? {} : { report }),
    }),
    (it) => it.close(),
  )
  return {
    root,
    files,
    database,
    indexSince: await plainIndex.createdAt(),
    hashers,
    index,
    metadata,
    reserve,
    fullDisk,
    localNames,
    locks,
    holds,
    store,
    ingests,
  }
}

async function openIndex(
  database: string,
  { lostIndex, onIndexStuck: onStuck }: StorageOptions,
): Promise<MetadataStore> {
  const watched = onStuck === undefined ? {} : { onStuck }
  try {
    return await openMetadata(database, watched)
  } catch (error) {
    const isLost = error instanceof StorageError && error.code === 'LOST_INDEX'
    if (!isLost || lostIndex === undefined) throw error
    lostIndex(await replaceLostIndex(database))
    return openMetadata(database, { ...watched, unfinished: true })
  }
}
