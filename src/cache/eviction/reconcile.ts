/**
 * Reconciliation: makes the index and the disk agree again after a crash.
 *
 * A file that the index does not know is recorded without an owner at the moment at which it is found: it counts, the
 * next pull of it is a hit, and it goes when it is evicted, as pulled at that moment, or is collected when the grace
 * period has passed since. No client relies on it: a push is answered only when the index has it. Files older than
 * the index stay unrecorded: the index was lost, and they may hold pushed content. Mirrored rows without a file, or
 * with one of another size, are deleted: a miss that heals. Pushed rows are left to the scrub.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { Digest } from '../../oci/digest.ts'
import type { BlobStore, ListedBlob } from '../../storage/blobs/blob-store.ts'
import type { EvictionIndex } from '../../storage/metadata/eviction-index.ts'
import type { BlobHolds } from '../../storage/locks/blob-holds.ts'
import { lockOfBlob, type KeyedLocks } from '../../storage/locks/keyed-locks.ts'
import { LOCAL, type EpochMs, type MetadataStore } from '../../storage/metadata/metadata.ts'

interface ReconciliationOptions {
  readonly store: Pick<BlobStore, 'list' | 'stat' | 'delete'>
  readonly metadata: Pick<MetadataStore, 'transaction' | 'blobs'>
  readonly index: EvictionIndex
  readonly locks: KeyedLocks
  readonly holds: Pick<BlobHolds, 'has'>
  /** When the index was created: it cannot know the files that were there before. */
  readonly indexSince: EpochMs
  readonly log: Logger
  readonly now: () => EpochMs
}

const FOLDERS = ['sha256', 'sha512'].flatMap((algorithm) =>
  Array.from({ length: 256 }, (_, at) => `${algorithm}:${at.toString(16).padStart(2, '0')}`),
)

/** After a folder it rests this many times as long as the folder took. */
const REST = 4

const OLDER = 'files are older than the index, and it does not know them: they stay until verify --rebuild'

interface Reconciled {
  /** Files that the index did not know. */
  readonly found: number
  /** Rows whose file was missing or of another size. */
  readonly lost: number
}

export class Reconciliation {
  readonly #options: ReconciliationOptions
  #older = 0
  #found = 0
  #lost = 0

  constructor(options: ReconciliationOptions) {
    this.#options = options
  }

  /** Goes through everything once, in a fifth of the time: no client waits for it. @throws the signal's reason */
  async run(signal: AbortSignal): Promise<Reconciled> {
    const { log } = this.#options
    const left = new Set(FOLDERS)
    let began = performance.now()
    for await (const [folder, files] of byFolder(this.#options.store.list())) {
      left.delete(folder)
      await this.#compare(folder, files, signal)
      await sleep(REST * (performance.now() - began), undefined, { signal, ref: false })
      began = performance.now()
    }
    for (const folder of left) await this.#compare(folder, new Map(), signal)
    if (this.#older > 0) log.warn({ files: this.#older }, OLDER)
    const done = { found: this.#found, lost: this.#lost }
    if (done.found + done.lost > 0) log.info(done, 'the index and the disk agree again')
    return done
  }

  async #compare(folder: string, files: ReadonlyMap<Digest, ListedBlob>, signal: AbortSignal): Promise<void> {
    const { index, indexSince, log } = this.#options
    signal.throwIfAborted()
    const known = await index.known(folder, `${folder}g`)
    const strays = new Map(files)
    for (const { digest, size, pushed } of known) {
      strays.delete(digest)
      if (!pushed && files.get(digest)?.size !== size)
        await this.#alone(digest, signal, () => this.#lose(digest))
    }
    for (const { digest, writtenAt } of strays.values()) {
      if (writtenAt < indexSince) this.#older += 1
      else await this.#alone(digest, signal, () => this.#find(digest))
    }
    log.trace({ folder, files: files.size }, 'compared')
  }

  /** Acts under the lock of the blob's writers and removers: the comparison was made without one. */
  async #alone(digest: Digest, signal: AbortSignal, action: () => Promise<void>): Promise<void> {
    const { locks, holds, log } = this.#options
    try {
      using _held = await locks.exclusive(lockOfBlob(digest), signal)
      // Its holder is writing or reading it, and finds out itself.
      if (!holds.has(digest)) await action()
    } catch (err) {
      signal.throwIfAborted()
      log.debug({ err, digest }, 'it cannot be said whether that blob is here')
    }
  }

  async #find(digest: Digest): Promise<void> {
    const { store, metadata, now } = this.#options
    const file = await store.stat(digest)
    if (file === undefined || (await metadata.blobs.size(digest)) !== undefined) return
    await metadata.transaction((tx) => tx.recordBlob(digest, file.size, now()))
    this.#found += 1
  }

  async #lose(digest: Digest): Promise<void> {
    const { store, metadata, index, now } = this.#options
    const known = await index.mirrored(digest)
    const file = await store.stat(digest)
    if (known === undefined || file?.size === known.size) return
    const holding = await index.taggedManifests(digest, 0)
    if (holding.some(({ repository }) => repository.registry === LOCAL)) return
    await metadata.transaction((tx) => {
      for (const { repository } of holding) tx.deleteManifest(repository, digest, now())
      tx.forgetBlob(digest)
    })
    if (file !== undefined) await store.delete(digest)
    this.#lost += 1
  }
}

/** Groups the list, which goes through one folder after the other. */
async function* byFolder(
  list: AsyncIterable<ListedBlob>,
): AsyncGenerator<[folder: string, files: Map<Digest, ListedBlob>]> {
  let folder: string | undefined
  let files = new Map<Digest, ListedBlob>()
  for await (const it of list) {
    const its = it.digest.slice(0, it.digest.indexOf(':') + 3)
    if (folder !== undefined && its !== folder) {
      yield [folder, files]
      files = new Map()
    }
    folder = its
    files.set(it.digest, it)
  }
  if (folder !== undefined) yield [folder, files]
}
