/**
 * Manifest store: verbatim bytes by digest, in the blob store, with an LRU cache of the hot ones in memory.
 *
 * The key is the digest only. Which repository may read a manifest, and what a tag names, the index says each time.
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
 * - `here`: the whole manifest is here
 * - `lost`: it was here under this name, and is missing or damaged
 * - `told`: known from upstream's HEAD only
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
    // The parsed content of an index of thousands weighs several times as much as its bytes.
    sizeCalculation: ({ bytes, content }) => bytes.length + contentWeight(content),
  })

  /** Answered already, and being recorded: the index does not know them yet. */
  readonly #beingKept = new Set<{ readonly repository: MirrorRef; readonly manifest: Manifest }>()

  constructor(options: {
    store: BlobStore
    ingests: IngestStore
    metadata: MetadataStore
    locks: KeyedLocks
    holds: Pick<BlobHolds, 'hold'>
    diskSpace: Pick<DiskSpace, 'changed'>
    /** Has a manifest that does not match its digest verified, and deleted if it is corrupt. */
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

  /** To be called when it has been removed. */
  forget(digest: Digest): void {
    this.#hot.delete(digest)
  }

  /** Whether memory or a file of that size has it; its bytes are not read. */
  async has(digest: Digest, size: Bytes): Promise<boolean> {
    return this.#hot.has(digest) || (await this.#store.stat(digest))?.size === size
  }

  async #read(digest: Digest): Promise<Buffer | undefined> {
    await using reader = await this.#store.open(digest)
    if (reader === undefined || reader.size > MAX_MANIFEST_BYTES) return undefined
    return await readAll(reader, reader.size)
  }

  /** The bytes of a recorded manifest may have been lost. */
  async record(repository: MirrorRef, digest: Digest): Promise<ManifestRecord | undefined> {
    for (const { manifest } of this.#keptFor(repository)) {
      if (manifest.digest === digest) {
        return { digest, size: manifest.bytes.length, mediaType: manifest.content.mediaType }
      }
    }
    return this.#metadata.manifests.get(repositoryKey(repository), digest)
  }

  /** Describes a manifest that a HEAD told of; the record of a held one comes from its bytes, and counts more. */
  async described(repository: MirrorRef, told: ManifestRecord): Promise<Described> {
    const { digest } = told
    const held = await this.record(repository, digest)
    if (held === undefined) return { ...told, state: 'told' }
    return { ...held, state: (await this.has(digest, held.size)) ? 'here' : 'lost' }
  }

  /** Whether anything of this repository was served; otherwise a client may have made the name up. */
  async serves(repository: MirrorRef): Promise<boolean> {
    for (const _ of this.#keptFor(repository)) return true
    const known = await this.#metadata.repositories.get(repositoryKey(repository))
    return known?.servedAt !== undefined && known.deletedAt === undefined
  }

  /** The first manifest of this repository whose digest begins with `start`. */
  async heldWith(repository: MirrorRef, start: string): Promise<Digest | undefined> {
    for (const { manifest } of this.#keptFor(repository)) {
      if (manifest.digest.startsWith(start)) return manifest.digest
    }
    const { manifests } = this.#metadata
    const key = repositoryKey(repository)
    // A whole digest is no prefix of another.
    const whole = start as Digest
    if ((await manifests.get(key, whole)) !== undefined) return whole
    const [next] = await manifests.list(key, { last: start, limit: 1 })
    return next?.startsWith(start) === true ? next : undefined
  }

  /** The descriptor by which an index of this repository references that manifest. */
  async namedManifest(repository: MirrorRef, digest: Digest): Promise<Descriptor | undefined> {
    for (const { manifest } of this.#keptFor(repository)) {
      const found = manifest.content.manifests.find((descriptor) => descriptor.digest === digest)
      if (found !== undefined) return found
    }
    const named = await this.#metadata.manifests.descriptor(repositoryKey(repository), digest)
    return named?.role === 'manifest' ? named : undefined
  }

  /** True when it holds that manifest, or an index of it references one (that of BuildKit's cache lists layers). */
  async knows(repository: MirrorRef, digest: Digest): Promise<boolean> {
    if ((await this.record(repository, digest)) !== undefined) return true
    const named = await this.namedManifest(repository, digest)
    return named !== undefined && isManifestType(named.mediaType)
  }

  /** The descriptor by which a manifest of this repository references that config or layer. */
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
   * Records it durably: bytes, references, the repository and upstream that it is from, and the tag, if any.
   *
   * @throws the system's error when the disk or the database fails
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
    // Taken before the write: a slow disk does not make upstream's answer any newer.
    const at = this.#now()
    this.#hot.set(digest, { ...manifest, bytes: compactBuffer(bytes) })
    // Held until the index knows it: the garbage collector would find bytes without a reference.
    using _kept = this.#holds.hold(digest)
    using _held = await this.#locks.exclusive(lockOfBlob(digest), NEVER)
    // A damaged file is overwritten.
    if ((await this.#read(digest))?.equals(bytes) !== true) {
      const stores = { ingests: this.#ingests, store: this.#store }
      await storeWhole(stores, { source: key.registry, digest }, bytes)
    }
    // Writing the rows of an index of thousands takes a tenth of a second.
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

/** Layers lie in the same store, and a client may ask for one as a manifest. */
function contentOf(bytes: Buffer, mediaType: string | undefined): ManifestContent | undefined {
  try {
    return parseManifest(bytes, mediaType)
  } catch (error) {
    if (error instanceof OciError) return undefined
    throw error
  }
}
