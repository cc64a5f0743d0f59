/**
 * Makes the index and the disk agree again after a process that ended in the midst of its work.
 *
 * Files that the index has never heard of are written down as nobody's, from the moment at which they are found: they
 * count, the next pull of theirs is a hit, and they go when they are evicted, as what was pulled at that moment, or
 * collected, when the grace period has passed since. Nobody was told that they are here: a push is answered when the
 * index has it. Not those from before the index: it was lost, and what was pushed may be in them. What was mirrored
 * and has no file, or one of another size, is forgotten: a miss that heals. What was pushed is left to the scrub,
 * whatever has become of it.
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
  /** When the index came into being: it cannot know the files that were there before. */
  readonly indexSince: EpochMs
  readonly log: Logger
  readonly now: () => EpochMs
}

/** The folders of the files: what lies in one is looked at in one go. */
const FOLDERS = ['sha256', 'sha512'].flatMap((algorithm) =>
  Array.from({ length: 256 }, (_, at) => `${algorithm}:${at.toString(16).padStart(2, '0')}`),
)

/** After a folder there is nothing for that many times as long as it took. */
const REST = 4

const OLDER = 'files are older than the index, and it does not know them: they stay until verify --rebuild'

/** What was set right. */
interface Reconciled {
  /** Files that the index did not know. */
  readonly found: number
  /** Rows without their file. */
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

  /** From end to end, for a fifth of the time: nobody waits for it. @throws the signal's reason */
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

  /** Under the lock of whoever writes it down, or takes it away: all was looked at without one. */
  async #alone(digest: Digest, signal: AbortSignal, action: () => Promise<void>): Promise<void> {
    const { locks, holds, log } = this.#options
    try {
      using _held = await locks.exclusive(lockOfBlob(digest), signal)
      // On its way, or being read: whoever does that finds out for himself.
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

/** The list goes through one folder after the other. */
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
