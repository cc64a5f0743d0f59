/**
 * Import of a backup's blobs into the store, each verified by its digest, before any repository refers to them.
 *
 * The archive is untrusted, so it is read three times: for its list of contents, to check that it holds them, and
 * only then for those bytes alone. The first two passes seek past the bodies.
 *
 * The blobs are pinned until the restore is disposed, for the garbage collector would take unreferenced ones.
 */
import type { Bytes } from '../../base/units.ts'
import { createHash } from 'node:crypto'
import { algorithmOf, hexOf, type Digest } from '../../oci/digest.ts'
import { OperatorError } from '../../base/operator-error.ts'
import type { BlobAudit } from '../../storage/metadata/audit-index.ts'
import type { BlobStore } from '../../storage/blobs/blob-store.ts'
import type { IngestStore } from '../../storage/ingest/ingest.ts'
import { lockOfBlob, type KeyedLocks } from '../../storage/locks/keyed-locks.ts'
import { LOCAL, type MetadataStore } from '../../storage/metadata/metadata.ts'
import { releaseBuffers } from '../../storage/ingest/release-buffers.ts'
import { CONTENTS_FILE, digestOfName, MOST_CONTENTS, type Contents } from './format.ts'
import type { BlobHolds } from '../../storage/locks/blob-holds.ts'
import { isDiskFull } from '../../storage/storage-error.ts'
import { readContents } from './read-contents.ts'
import { readTar, TarError, type TarEntry, type TarSource } from './read-tar.ts'
import { Turns } from '../../base/turns.ts'

export interface Archive {
  readonly size: Bytes
  /** The file is sparse: its bytes may be many more than were ever written to a disk. */
  readonly hasHoles: boolean
  /** @param options.glancing the caller will skip most of it */
  chunks(options?: { glancing?: boolean }): TarSource
  read(position: Bytes, length: Bytes): Promise<Buffer<ArrayBuffer>>
}

interface PushSpaceExpectation {
  /** @throws an error with the code ENOSPC when the disk cannot give so much */
  expect(bytes: Bytes): Promise<ExpectedBytes>
}

/** A reservation of disk space for the bytes still to come, until it is disposed. */
interface ExpectedBytes extends Disposable {
  /** Must be called before so many bytes are written. @throws as `expect` does */
  arrive(bytes: Bytes): Promise<void>
}

export interface ReceiveTools {
  readonly disk: BlobAudit
  readonly store: BlobStore
  readonly ingests: IngestStore
  readonly metadata: MetadataStore
  readonly locks: KeyedLocks
  readonly holds: BlobHolds
  /** Restored content was pushed once, so it may take as much of the disk as a push. */
  readonly pushSpace: PushSpaceExpectation
  readonly signal: AbortSignal
}

/** Limit for the lock of a blob that is taken back; other holders keep it for moments only. */
const TAKE_BACK_MS = 30_000

export class Received implements AsyncDisposable {
  readonly #tools: ReceiveTools
  readonly #from: string
  readonly #archive: Archive
  readonly #pinned = new Map<Digest, Disposable>()
  /** The blobs whose files this restore has made: they are deleted if it fails. */
  readonly #added = new Set<Digest>()
  readonly #sizes = new Map<Digest, Bytes>()
  #wanted: ReadonlyMap<Digest, Bytes> = new Map()
  #lost: ReadonlySet<Digest> = new Set()
  #position: Bytes = 0
  #committed = false

  /** @param from the archive's name, for the operator */
  constructor(tools: ReceiveTools, from: string, archive: Archive) {
    this.#tools = tools
    this.#from = from
    this.#archive = archive
  }

  /** The byte up to which the last pass has read the archive. */
  get position(): Bytes {
    return this.#position
  }

  /**
   * Checks, as far as the headers tell, that the archive holds each blob once and in its full length.
   *
   * @throws OperatorError when the archive is incomplete, or not written by entrepot
   */
  async look(): Promise<Contents> {
    return this.#told(async () => {
      const contents = await readContents(await this.#contentsBytes(), this.#tools.signal)
      this.#wanted = await sizesIn(contents)
      this.#lost = new Set(contents.lost)
      await this.#assertHeld(this.#lost)
      return contents
    })
  }

  /**
   * Stores the blobs that {@link look} has found.
   *
   * @throws OperatorError when a blob does not match its digest, or the disk has no room for all of them
   */
  async read(): Promise<void> {
    await this.#told(async () => {
      if (this.#archive.hasHoles) await this.#assertSound()
      using expected = await this.#tools.pushSpace.expect(await this.#missing())
      for await (const entry of readTar(this.#archive.chunks())) {
        this.#tools.signal.throwIfAborted()
        this.#position = entry.position
        const digest = digestOfName(entry.name)
        if (digest !== undefined && this.#wanted.has(digest)) await this.#takeBlob(digest, entry, expected)
      }
    })
  }

  /** The bytes that will be written, as far as the store tells now. */
  async #missing(): Promise<Bytes> {
    const { store, signal } = this.#tools
    let missing: Bytes = 0
    for (const [digest, size] of this.#wanted) {
      signal.throwIfAborted()
      if (!this.#lost.has(digest) && (await store.stat(digest)) === undefined) missing += size
    }
    return missing
  }

  async #told<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (cause) {
      if (isDiskFull(cause)) throw tooLarge(this.#from, cause)
      if (!(cause instanceof TarError)) throw cause
      throw damaged(this.#from, cause.message, cause)
    }
  }

  async *#glance(): AsyncGenerator<TarEntry, void, undefined> {
    const turns = new Turns()
    for await (const entry of readTar(this.#archive.chunks({ glancing: true }))) {
      this.#tools.signal.throwIfAborted()
      await turns.next()
      yield entry
    }
  }

  async #contentsBytes(): Promise<Buffer<ArrayBuffer>> {
    let found: { readonly position: Bytes; readonly size: Bytes } | undefined
    for await (const { name, position, size } of this.#glance()) {
      if (name !== CONTENTS_FILE) continue
      if (found !== undefined) throw new TarError(`there is more than one ${CONTENTS_FILE} in it`)
      found = { position, size }
    }
    if (found === undefined) throw new TarError(`there is no valid ${CONTENTS_FILE} in it`)
    if (found.size > MOST_CONTENTS) throw new TarError(`its ${CONTENTS_FILE} is too long`)
    return this.#archive.read(found.position, found.size)
  }

  async #assertHeld(lost: ReadonlySet<Digest>): Promise<void> {
    const found = new Set<Digest>()
    for await (const { name, size } of this.#glance()) {
      const digest = digestOfName(name)
      const wanted = digest === undefined ? undefined : this.#wanted.get(digest)
      if (digest === undefined || wanted === undefined) continue
      if (found.has(digest)) throw new TarError(`it has ${digest} twice`)
      if (wanted !== size) throw new TarError(`${digest} has another size`)
      found.add(digest)
    }
    const turns = new Turns()
    for (const digest of this.#wanted.keys()) {
      await turns.next()
      if (!found.has(digest) && !lost.has(digest)) throw new TarError(`it lacks ${digest}`)
    }
  }

  has(digest: Digest): boolean {
    return this.#sizes.has(digest)
  }

  /** Must be called when the index knows the blobs: they stay. */
  commit(): void {
    this.#committed = true
  }

  /** Deletes what was stored in vain. Never throws: the garbage collector finds the rest later. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const pin of this.#pinned.values()) pin[Symbol.dispose]()
    if (this.#committed) return
    for (const digest of this.#added) await this.#takeBack(digest).catch(() => undefined)
  }

  async #takeBack(digest: Digest): Promise<void> {
    const { store, metadata, locks, holds } = this.#tools
    using _held = await locks.exclusive(lockOfBlob(digest), AbortSignal.timeout(TAKE_BACK_MS))
    if (holds.has(digest) || (await metadata.blobs.size(digest)) !== undefined) return
    await store.delete(digest)
  }

  async #takeBlob(digest: Digest, { size, body }: TarEntry, expected: ExpectedBytes): Promise<void> {
    const { disk, holds, signal } = this.#tools
    this.#pinned.set(digest, holds.hold(digest))
    await this.#letGo(digest)
    const there = await disk.check(digest, { signal, resting: false })
    // The bytes in the archive are skipped, for the blob here has the same.
    if (there.is !== 'sound') await this.#store(digest, body, expected)
    else if (there.size !== size) throw new TarError(`${digest} has another size`)
    this.#sizes.set(digest, size)
  }

  /** Hashes everything before writing any of it: a hole of gigabytes costs the archive's author nothing. */
  async #assertSound(): Promise<void> {
    for await (const { name, body } of readTar(this.#archive.chunks())) {
      const digest = digestOfName(name)
      if (digest === undefined || !this.#wanted.has(digest)) continue
      const hash = createHash(algorithmOf(digest))
      for await (const chunk of body) {
        this.#tools.signal.throwIfAborted()
        hash.update(chunk)
        releaseBuffers([chunk])
      }
      if (hash.digest('hex') !== hexOf(digest)) throw new TarError(`the bytes of ${digest} are others`)
    }
  }

  /** Waits for the lock: an eviction that read the holds before this one is about to delete the blob. */
  async #letGo(digest: Digest): Promise<void> {
    const lock = await this.#tools.locks.exclusive(lockOfBlob(digest), this.#tools.signal)
    lock[Symbol.dispose]()
  }

  async #store(digest: Digest, body: AsyncIterable<Buffer>, expected: ExpectedBytes): Promise<void> {
    const { disk, ingests, locks, store, signal } = this.#tools
    const ingest = await ingests.open({ source: LOCAL, digest }, { fresh: true })
    try {
      let at = 0
      for await (const chunk of body) {
        signal.throwIfAborted()
        const { length } = chunk
        await expected.arrive(length)
        await ingest.write([chunk], at)
        at += length
        this.#position += length
        releaseBuffers([chunk])
      }
      const file = await ingest.verify(at)
      if (file === undefined) throw new TarError(`the bytes of ${digest} are others`)
      using _held = await locks.exclusive(lockOfBlob(digest), signal)
      const there = await disk.check(digest, { signal, resting: false })
      // The store would keep a file of the right size, whatever its bytes.
      if (there.is === 'corrupt') await disk.quarantine(digest)
      await store.adopt(file)
      if (there.is !== 'sound') this.#added.add(digest)
    } catch (error) {
      await ingest.discard()
      throw error
    }
  }
}

/** @throws TarError when the document contradicts itself */
async function sizesIn({ repositories, lost }: Contents): Promise<ReadonlyMap<Digest, Bytes>> {
  const sizes = new Map<Digest, Bytes>()
  // The size of a lost blob may have been lost as well.
  const unknown = new Set(lost)
  const turns = new Turns()
  for (const { manifests, blobs } of repositories) {
    for (const some of [manifests, blobs]) {
      for (const { digest, size } of some) {
        await turns.next()
        const before = sizes.get(digest)
        if (before !== undefined && before !== size && !unknown.has(digest)) {
          throw new TarError(`${digest} has another size`)
        }
        sizes.set(digest, size)
      }
    }
  }
  return sizes
}

function tooLarge(from: string, cause: unknown): OperatorError {
  return new OperatorError(
    `the disk has no room for what ${from} holds beside what cache.minFree keeps free; nothing was restored`,
    { cause },
  )
}

function damaged(from: string, why: string, cause?: unknown): OperatorError {
  return new OperatorError(
    `${from} is damaged, cut off, or no backup of ours: ${why}; nothing was restored`,
    {
      cause,
    },
  )
}
