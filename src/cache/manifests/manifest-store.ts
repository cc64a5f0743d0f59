/**
 * Manifests by digest: verbatim bytes, in the blob store like everything else, the hot ones in memory.
 *
 * Keyed by digest only. Which repository may read one, and what a tag names, is asked of the index each time.
 */
import { NEVER } from '../../base/condition.ts'
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { LRUCache } from 'lru-cache'
import { isManifestType, MAX_MANIFEST_BYTES, type Descriptor } from '../../oci/descriptor.ts'
import { algorithmOf, digestOf, type Digest } from '../../oci/digest.ts'
import { OciError } from '../../oci/errors.ts'
import { turnFor } from '../../base/turns.ts'
import { contentWeight, parseManifest, type ManifestContent } from '../../oci/manifest.ts'
import type { Tag } from '../../oci/reference.ts'
import type { BlobStore } from '../../storage/blobs/blob-store.ts'
import { readAll } from '../../storage/files/read-all.ts'
import type { BlobHolds } from '../../storage/locks/blob-holds.ts'
import type { IngestStore } from '../../storage/ingest/ingest.ts'
import { storeWhole } from '../../storage/ingest/store-whole.ts'
import { lockOfBlob, type KeyedLocks } from '../../storage/locks/keyed-locks.ts'
import type { ManifestRecord, MetadataStore } from '../../storage/metadata/metadata.ts'
import { repositoryKey, type MirrorRef } from '../origin.ts'
import { compactBuffer } from '../../base/compact-buffer.ts'
import type { DiskSpace } from '../eviction/disk-space.ts'

export interface Manifest {
  readonly digest: Digest
  readonly bytes: Buffer
  readonly content: ManifestContent
}

/**
 * A manifest of a repository, without its bytes.
 *
 * - `here`: all of it is
 * - `lost`: it was here under this name, and is not, or not whole
 * - `told`: upstream told of it
 */
export interface Described extends ManifestRecord {
  readonly state: 'here' | 'lost' | 'told'
}

const HOT_BYTES: Bytes = 64 * 1024 * 1024

export class ManifestStore {
  readonly #store: BlobStore
  readonly #ingests: IngestStore
  readonly #metadata: MetadataStore
  readonly #locks: KeyedLocks
  readonly #holds: Pick<BlobHolds, 'hold'>
  readonly #diskSpace: Pick<DiskSpace, 'changed'>
  readonly #suspect: (digest: Digest) => void
  readonly #now: () => Milliseconds
  readonly #hot = new LRUCache<Digest, Manifest>({
    maxSize: HOT_BYTES,
    // What is read of one that names thousands weighs several times as much as its bytes.
    sizeCalculation: ({ bytes, content }) => bytes.length + contentWeight(content),
  })

  /** Given out already, and just being written down: the index does not know them yet. */
  readonly #beingKept = new Set<{ readonly repository: MirrorRef; readonly manifest: Manifest }>()

  constructor(options: {
    store: BlobStore
    ingests: IngestStore
    metadata: MetadataStore
    locks: KeyedLocks
    holds: Pick<BlobHolds, 'hold'>
    diskSpace: Pick<DiskSpace, 'changed'>
    /** Looks more closely at what is not what its name says, and takes it away. */
    suspect: (digest: Digest) => void
    now: () => Milliseconds
  }) {
    this.#store = options.store
    this.#ingests = options.ingests
    this.#metadata = options.metadata
    this.#locks = options.locks
    this.#holds = options.holds
    this.#diskSpace = options.diskSpace
    this.#suspect = options.suspect
    this.#now = options.now
  }

  /**
   * `undefined` when the bytes are not here (any more), were damaged, or are no manifest.
   *
   * @param mediaType what this repository's upstream calls it; counts only where the document does not say
   */
  async get(digest: Digest, mediaType?: string): Promise<Manifest | undefined> {
    const hot = this.#hot.get(digest)
    if (hot !== undefined) {
      if (mediaType === undefined || mediaType === hot.content.mediaType) return hot
      const content = contentOf(hot.bytes, mediaType)
      return content === undefined ? undefined : { ...hot, content }
    }
    const bytes = await this.#read(digest)
    if (bytes === undefined) return undefined
    await turnFor(bytes.length)
    if (digestOf(bytes, algorithmOf(digest)) !== digest) {
      this.#suspect(digest)
      return undefined
    }
    const content = contentOf(bytes, mediaType)
    if (content === undefined) return undefined
    const manifest = { digest, bytes, content }
    this.#hot.set(digest, manifest)
    return manifest
  }

  /** It has been taken away. */
  forget(digest: Digest): void {
    this.#hot.delete(digest)
  }

  /** Whether a file of that size, or the memory, has it: not a look at its bytes. */
  async has(digest: Digest, size: Bytes): Promise<boolean> {
    return this.#hot.has(digest) || (await this.#store.stat(digest))?.size === size
  }

  async #read(digest: Digest): Promise<Buffer | undefined> {
    await using reader = await this.#store.open(digest)
    if (reader === undefined || reader.size > MAX_MANIFEST_BYTES) return undefined
    return await readAll(reader, reader.size)
  }

  /** What this repository holds by that digest; its bytes may have been lost. */
  async record(repository: MirrorRef, digest: Digest): Promise<ManifestRecord | undefined> {
    for (const { manifest } of this.#keptFor(repository)) {
      if (manifest.digest === digest) {
        return { digest, size: manifest.bytes.length, mediaType: manifest.content.mediaType }
      }
    }
    return this.#metadata.manifests.get(repositoryKey(repository), digest)
  }

  /** What is known of a manifest that upstream told of: one that is held was read, and says itself what it is. */
  async described(repository: MirrorRef, told: ManifestRecord): Promise<Described> {
    const { digest } = told
    const held = await this.record(repository, digest)
    if (held === undefined) return { ...told, state: 'told' }
    return { ...held, state: (await this.has(digest, held.size)) ? 'here' : 'lost' }
  }

  /** Whether anything of this repository was served: else it may be a name that somebody made up. */
  async serves(repository: MirrorRef): Promise<boolean> {
    for (const _ of this.#keptFor(repository)) return true
    const known = await this.#metadata.repositories.get(repositoryKey(repository))
    return known?.servedAt !== undefined && known.deletedAt === undefined
  }

  /** The first that this repository holds whose digest begins like that. */
  async heldWith(repository: MirrorRef, start: string): Promise<Digest | undefined> {
    for (const { manifest } of this.#keptFor(repository)) {
      if (manifest.digest.startsWith(start)) return manifest.digest
    }
    const { manifests } = this.#metadata
    const key = repositoryKey(repository)
    // A whole digest is no other's start.
    const whole = start as Digest
    if ((await manifests.get(key, whole)) !== undefined) return whole
    const [next] = await manifests.list(key, { last: start, limit: 1 })
    return next?.startsWith(start) === true ? next : undefined
  }

  /** The descriptor by which an index of this repository names that manifest. */
  async namedManifest(repository: MirrorRef, digest: Digest): Promise<Descriptor | undefined> {
    for (const { manifest } of this.#keptFor(repository)) {
      const found = manifest.content.manifests.find((descriptor) => descriptor.digest === digest)
      if (found !== undefined) return found
    }
    const named = await this.#metadata.manifests.descriptor(repositoryKey(repository), digest)
    return named?.role === 'manifest' ? named : undefined
  }

  /** It holds that manifest, or an index of it names one: what BuildKit's cache lists there are layers. */
  async knows(repository: MirrorRef, digest: Digest): Promise<boolean> {
    if ((await this.record(repository, digest)) !== undefined) return true
    const named = await this.namedManifest(repository, digest)
    return named !== undefined && isManifestType(named.mediaType)
  }

  /** The descriptor by which a manifest of this repository names that config or layer. */
  async namedBlob(repository: MirrorRef, digest: Digest): Promise<Descriptor | undefined> {
    for (const { manifest } of this.#keptFor(repository)) {
      const { config, layers } = manifest.content
      const found = [config, ...layers].find((descriptor) => descriptor?.digest === digest)
      if (found !== undefined) return found
    }
    const named = await this.#metadata.manifests.descriptor(repositoryKey(repository), digest)
    return named === undefined || named.role === 'manifest' ? undefined : named
  }

  *#keptFor({ origin, name }: MirrorRef): Iterable<{ readonly manifest: Manifest }> {
    for (const kept of this.#beingKept) {
      if (kept.repository.origin === origin && kept.repository.name === name) yield kept
    }
  }

  /**
   * Writes it down, durably: the bytes, what they mention, that this repository has them from this upstream,
   * and the tag when it came by one.
   *
   * @throws the system's error when the disk or the database will not
   */
  async keep(repository: MirrorRef, manifest: Manifest, tag: Tag | undefined): Promise<void> {
    const kept = { repository, manifest }
    this.#beingKept.add(kept)
    try {
      await this.#keep(repository, manifest, tag)
    } finally {
      this.#beingKept.delete(kept)
    }
  }

  async #keep(repository: MirrorRef, manifest: Manifest, tag: Tag | undefined): Promise<void> {
    const key = repositoryKey(repository)
    const { digest, bytes, content } = manifest
    // A slow disk does not make what upstream said any newer.
    const at = this.#now()
    this.#hot.set(digest, { ...manifest, bytes: compactBuffer(bytes) })
    // Until the index knows it: a collector would find bytes that nobody names.
    using _kept = this.#holds.hold(digest)
    using _held = await this.#locks.exclusive(lockOfBlob(digest), NEVER)
    // A file that has rotted there is written over.
    if ((await this.#read(digest))?.equals(bytes) !== true) {
      const stores = { ingests: this.#ingests, store: this.#store }
      await storeWhole(stores, { source: key.registry, digest }, bytes)
    }
    // The rows of one that names thousands are a tenth of a second's work.
    await turnFor(bytes.length)
    await this.#metadata.transaction((tx) => {
      tx.putRepository(key, at)
      tx.recordDelivery(key.registry, digest, bytes.length, at)
      tx.putManifest(key, digest, bytes.length, content, at)
      if (tag !== undefined) {
        tx.putTag(key, {
          tag,
          digest,
          size: bytes.length,
          mediaType: content.mediaType,
          checkedAt: at,
          deletedAt: undefined,
        })
      }
    })
    this.#diskSpace.changed()
  }
}

/** Layers lie in the same store, and a client may ask for one as if it were a manifest. */
function contentOf(bytes: Buffer, mediaType: string | undefined): ManifestContent | undefined {
  try {
    return parseManifest(bytes, mediaType)
  } catch (error) {
    if (error instanceof OciError) return undefined
    throw error
  }
}
