/**
 * A backup's bytes into the store, each verified by its digest. Nothing names them yet.
 *
 * An archive may come from anybody, so it is read three times: what it is and says that it holds, whether it holds
 * that, and only then the bytes of that alone. Most of it is passed over but for the last.
 *
 * They are pinned until the caller lets go: no collection may take what nobody asks for so far.
 */
import type { Bytes } from '../../base/units.ts'
import { createHash } from 'node:crypto'
import { algorithmOf, hexOf, type Digest } from '../../oci/digest.ts'
import { OperatorError } from '../../base/operator-error.ts'
import type { BlobAudit } from '../../storage/metadata/audit-index.ts'
import type { BlobStore } from '../../storage/blobs/blob-store.ts'
import type { IngestStore } from '../../storage/ingest/ingest.ts'
import type { KeyedLocks } from '../../storage/locks/keyed-locks.ts'
import { LOCAL, type MetadataStore } from '../../storage/metadata/metadata.ts'
import { releaseBuffers } from '../../storage/ingest/release-buffers.ts'
import { CONTENTS_FILE, digestOfName, MOST_CONTENTS, type Contents } from './format.ts'
import type { BlobHolds } from '../../storage/locks/blob-holds.ts'
import { isDiskFull } from '../../storage/storage-error.ts'
import { readContents } from './read-contents.ts'
import { readTar, TarError, type TarEntry, type TarSource } from './read-tar.ts'
import { Turns } from '../../base/turns.ts'

/** The file of a backup. */
export interface Archive {
  readonly size: Bytes
  /** Its bytes may be many more than anybody has ever written. */
  readonly hasHoles: boolean
  /** @param options.glancing little of it is looked at */
  chunks(options?: { glancing?: boolean }): TarSource
  read(position: Bytes, length: Bytes): Promise<Buffer<ArrayBuffer>>
}

interface DiskRoom {
  /** @throws an error with the code ENOSPC when the disk has not got so much to give */
  expect(bytes: Bytes): Promise<ExpectedBytes>
}

/** What is still to come, until it is disposed. */
interface ExpectedBytes extends Disposable {
  /** So many are about to be written. @throws as `expect` does */
  arrive(bytes: Bytes): Promise<void>
}

export interface ReceiveTools {
  readonly disk: BlobAudit
  readonly store: BlobStore
  readonly ingests: IngestStore
  readonly metadata: MetadataStore
  readonly locks: KeyedLocks
  readonly holds: BlobHolds
  /** What comes back was pushed once, and takes no more of the disk than a push may. */
  readonly room: DiskRoom
  readonly signal: AbortSignal
}

/** For the locks of what is taken back; each is held for moments. */
const TAKE_BACK_MS = 30_000

export class Received implements AsyncDisposable {
  readonly #tools: ReceiveTools
  readonly #from: string
  readonly #archive: Archive
  readonly #pinned = new Map<Digest, Disposable>()
  /** Those whose files are of our making. */
  readonly #added = new Set<Digest>()
  readonly #sizes = new Map<Digest, Bytes>()
  #wanted: ReadonlyMap<Digest, Bytes> = new Map()
  #lost: ReadonlySet<Digest> = new Set()
  #position: Bytes = 0
  #committed = false

  /** @param from what it is called, for the person */
  constructor(tools: ReceiveTools, from: string, archive: Archive) {
    this.#tools = tools
    this.#from = from
    this.#archive = archive
  }

  /** How far its bytes are read. */
  get position(): Bytes {
    return this.#position
  }

  /**
   * What it holds, as far as that can be told without its bytes: all of it is there, once, and as long as it should be.
   *
   * @throws OperatorError when it is not whole, or not ours
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
   * Stores what {@link look} has found.
   *
   * @throws OperatorError when some bytes are others, or the disk has no room for all of it
   */
  async read(): Promise<void> {
    await this.#told(async () => {
      if (this.#archive.hasHoles) await this.#assertSound()
      using expected = await this.#tools.room.expect(await this.#missing())
      for await (const entry of readTar(this.#archive.chunks())) {
        this.#tools.signal.throwIfAborted()
        this.#position = entry.position
        const digest = digestOfName(entry.name)
        if (digest !== undefined && this.#wanted.has(digest)) await this.#takeBlob(digest, entry, expected)
      }
    })
  }

  /** What will be written, as far as one can tell by now. */
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

  /** The index knows them now. */
  commit(): void {
    this.#committed = true
  }

  /** Takes back what nothing names. Never throws: a collection finds it later. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const pin of this.#pinned.values()) pin[Symbol.dispose]()
    if (this.#committed) return
    for (const digest of this.#added) await this.#takeBack(digest).catch(() => undefined)
  }

  async #takeBack(digest: Digest): Promise<void> {
    const { store, metadata, locks, holds } = this.#tools
    using _held = await locks.exclusive(`blob ${digest}`, AbortSignal.timeout(TAKE_BACK_MS))
    if (holds.has(digest) || (await metadata.blobs.size(digest)) !== undefined) return
    await store.delete(digest)
  }

  async #takeBlob(digest: Digest, { size, body }: TarEntry, expected: ExpectedBytes): Promise<void> {
    const { disk, holds, signal } = this.#tools
    this.#pinned.set(digest, holds.hold(digest))
    await this.#letGo(digest)
    const there = await disk.check(digest, { signal, resting: false })
    // Its bytes in the archive are passed over: those that are here are the same.
    if (there.is !== 'sound') await this.#store(digest, body, expected)
    else if (there.size !== size) throw new TarError(`${digest} has another size`)
    this.#sizes.set(digest, size)
  }

  /** Before any of it is written: a hole of gigabytes costs whoever made it nothing. */
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

  /** Who looked at the holds before it was held may be about to take it away, and has the lock until it has gone. */
  async #letGo(digest: Digest): Promise<void> {
    const lock = await this.#tools.locks.exclusive(`blob ${digest}`, this.#tools.signal)
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
      using _held = await locks.exclusive(`blob ${digest}`, signal)
      const there = await disk.check(digest, { signal, resting: false })
      // The store would keep a file of that size, whatever is in it.
      if (there.is === 'corrupt') await disk.quarantine(digest)
      await store.adopt(file)
      if (there.is !== 'sound') this.#added.add(digest)
    } catch (error) {
      await ingest.discard()
      throw error
    }
  }
}

/** @throws TarError where it contradicts itself */
async function sizesIn({ repositories, lost }: Contents): Promise<ReadonlyMap<Digest, Bytes>> {
  const sizes = new Map<Digest, Bytes>()
  // Of those the size may have been lost as well.
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
