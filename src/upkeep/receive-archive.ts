/**
 * A backup's bytes into the store, each verified by its digest. Nothing names them yet.
 *
 * They are pinned until the caller lets go: no collection may take what nobody asks for so far.
 */
import type { Digest } from '../oci/digest.ts'
import { Refused } from '../registry/refused.ts'
import type { BlobAudit } from '../store/audit.ts'
import type { BlobStore, Bytes } from '../store/blob-store.ts'
import type { IngestStore } from '../store/ingest.ts'
import type { Locks } from '../store/locks.ts'
import { LOCAL, type MetadataStore } from '../store/metadata.ts'
import { giveBack } from '../store/young-garbage.ts'
import { CONTENTS_FILE, digestOfName, MOST_CONTENTS, parseContents, type Contents } from './layout.ts'
import type { Holds } from '../store/holds.ts'
import { readTar, TarError, type TarEntry } from './tar.ts'

export interface ReceiveTools {
  readonly disk: BlobAudit
  readonly store: BlobStore
  readonly ingests: IngestStore
  readonly metadata: MetadataStore
  readonly locks: Locks
  readonly holds: Holds
  readonly signal: AbortSignal
}

/** For the locks of what is taken back; each is held for moments. */
const TAKE_BACK_MS = 30_000

export class Received implements AsyncDisposable {
  readonly #tools: ReceiveTools
  readonly #pinned = new Map<Digest, Disposable>()
  /** Those whose files are of our making. */
  readonly #added = new Set<Digest>()
  readonly #sizes = new Map<Digest, Bytes>()
  #contents: Contents | undefined
  #committed = false

  constructor(tools: ReceiveTools) {
    this.#tools = tools
  }

  /**
   * Reads the archive to its end.
   *
   * @param from what it is called, for the person
   * @throws Refused when it is not whole, or not ours
   */
  async read(from: string, chunks: AsyncIterable<Buffer>): Promise<Contents> {
    try {
      for await (const entry of readTar(chunks)) await this.#take(entry)
    } catch (cause) {
      if (!(cause instanceof TarError)) throw cause
      throw damaged(from, cause.message, cause)
    }
    const contents = this.#contents
    if (contents === undefined) throw damaged(from, `there is no valid ${CONTENTS_FILE} in it`)
    const lost = new Set(contents.lost)
    for (const { manifests, blobs } of contents.repositories) {
      for (const { digest, size } of [...manifests, ...blobs]) {
        const found = this.#sizes.get(digest)
        if (found === undefined && !lost.has(digest)) throw damaged(from, `it lacks ${digest}`)
        if (found !== undefined && found !== size) throw damaged(from, `${digest} has another size`)
      }
    }
    return contents
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

  async #take(entry: TarEntry): Promise<void> {
    this.#tools.signal.throwIfAborted()
    const digest = digestOfName(entry.name)
    if (digest !== undefined) await this.#takeBlob(digest, entry)
    else if (entry.name === CONTENTS_FILE) this.#contents = await readContents(entry)
  }

  async #takeBlob(digest: Digest, { size, body }: TarEntry): Promise<void> {
    const { disk, holds, signal } = this.#tools
    if (this.#sizes.has(digest)) return
    this.#pinned.set(digest, holds.hold(digest))
    await this.#letGo(digest)
    const there = await disk.check(digest, { signal, resting: false })
    // Its bytes in the archive are passed over: those that are here are the same.
    if (there.is !== 'sound') await this.#store(digest, body)
    else if (there.size !== size) throw new TarError(`${digest} has another size`)
    this.#sizes.set(digest, size)
  }

  /** Who looked at the holds before it was held may be about to take it away, and has the lock until it has gone. */
  async #letGo(digest: Digest): Promise<void> {
    const lock = await this.#tools.locks.exclusive(`blob ${digest}`, this.#tools.signal)
    lock[Symbol.dispose]()
  }

  async #store(digest: Digest, body: AsyncIterable<Buffer>): Promise<void> {
    const { disk, ingests, locks, store, signal } = this.#tools
    const ingest = await ingests.open({ source: LOCAL, digest }, { fresh: true })
    try {
      let at = 0
      for await (const chunk of body) {
        signal.throwIfAborted()
        const { length } = chunk
        await ingest.write([chunk], at)
        at += length
        giveBack([chunk])
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

async function readContents({ size, body }: TarEntry): Promise<Contents | undefined> {
  if (size > MOST_CONTENTS) return undefined
  const chunks: Buffer[] = []
  for await (const chunk of body) chunks.push(chunk)
  return parseContents(Buffer.concat(chunks))
}

function damaged(from: string, why: string, cause?: unknown): Refused {
  return new Refused(`${from} is damaged, cut off, or no backup of ours: ${why}; nothing was restored`, {
    cause,
  })
}
