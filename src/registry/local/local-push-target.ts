/**
 * Writes to a repository that was, or is just being, pushed here.
 *
 * What is acknowledged is on the disk and in the index. A manifest is checked and committed under its repository's
 * lock, a blob adopted and linked under its digest's: the collector takes the same ones before it lets go of
 * anything.
 */
import { setImmediate as immediate } from 'node:timers/promises'
import type { Logger } from 'pino'
import { NEVER } from '../../base/condition.ts'
import type { PushSpace } from '../../cache/eviction/push-space.ts'
import { isNonDistributable, type Descriptor } from '../../oci/descriptor.ts'
import { algorithmOf, digestOf, type Digest, type DigestAlgorithm } from '../../oci/digest.ts'
import { OciError } from '../../oci/errors.ts'
import { turnFor } from '../../base/turns.ts'
import { parseManifest, type ManifestContent } from '../../oci/manifest.ts'
import { isDigestReference, type Reference, type RepositoryName, type Tag } from '../../oci/reference.ts'
import { subjectOfReferrersTag } from '../../oci/referrers.ts'
import type { BlobStore } from '../../storage/blobs/blob-store.ts'
import type { Ingest, IngestStore } from '../../storage/ingest/ingest.ts'
import type { BlobHolds } from '../../storage/locks/blob-holds.ts'
import type { DiskReserve } from '../../storage/files/disk-reserve.ts'
import { lockOfBlob, lockOfRepository, type KeyedLocks } from '../../storage/locks/keyed-locks.ts'
import {
  LOCAL,
  type EpochMs,
  type MetadataStore,
  type MetadataTransaction,
  type RepositoryKey,
} from '../../storage/metadata/metadata.ts'
import { BLOB_TYPE, type EventRequest, type Events, type RepositoryEvent } from '../notifications/event.ts'
import type { LocalNames } from '../naming/local-names.ts'
import { assertMayMove, type PushSettings } from '../naming/push-policy.ts'
import type { PushedContent } from './pushed-content.ts'
import type { KeptManifest, PushedManifest, PushTarget, Remains, UploadSession } from './push-target.ts'
import { ReferrersTags, type Kept } from './referrers-tag.ts'
import { refusal } from './storage-errors.ts'
import type { UploadHooks } from '../uploads/upload-link.ts'
import type { UploadSessions } from '../uploads/upload-sessions.ts'

/** What all local repositories share. */
export interface LocalContext {
  readonly store: BlobStore
  readonly bytes: PushedContent
  readonly ingests: IngestStore
  readonly metadata: MetadataStore
  readonly locks: KeyedLocks
  /** Nothing takes away what is just being pushed, though it was mirrored until now. */
  readonly holds: Pick<BlobHolds, 'hold' | 'has'>
  readonly localNames: Pick<LocalNames, 'add'>
  readonly uploads: UploadSessions
  readonly room: Pick<PushSpace, 'expect'>
  /** Room on a full disk for what frees some. */
  readonly reserve: Pick<DiskReserve, 'use'>
  readonly events: Pick<Events, 'queue'>
  readonly settings: Pick<PushSettings, 'immutable'>
  /** Whether what is pulled under that name includes that blob, and its bytes are here. Asks nobody else. */
  readonly readableHere: (name: RepositoryName, digest: Digest) => Promise<boolean>
  readonly log: Logger
  readonly now: () => EpochMs
}

/** What can still be done with a blob that must not be deleted. */
const READS = ['GET', 'HEAD']

/** Told of a repository that is to be released and still has some. */
const SOME_TAGS = 11

interface LocalPushesOptions {
  /** The request that all of it is done by. */
  readonly cause?: EventRequest | undefined
  /**
   * Asked again before a first commit takes the name: bytes take their time to come.
   *
   * @throws OciError DENIED when something of that name came from elsewhere meanwhile
   */
  readonly assertFree?: (() => Promise<void>) | undefined
}

export class LocalPushTarget implements PushTarget {
  readonly name: RepositoryName
  readonly #context: LocalContext
  readonly #key: RepositoryKey
  readonly #options: LocalPushesOptions
  readonly #referrersTags: ReferrersTags

  constructor(context: LocalContext, name: RepositoryName, options: LocalPushesOptions = {}) {
    this.name = name
    this.#context = context
    this.#key = { registry: LOCAL, name }
    this.#options = options
    this.#referrersTags = new ReferrersTags(context, this.#key)
  }

  startUpload(algorithm?: DigestAlgorithm): Promise<UploadSession> {
    return this.#context.uploads.start(this.name, algorithm, this.#hooks)
  }

  openUpload(id: string): Promise<UploadSession> {
    return this.#context.uploads.open(this.name, id, this.#hooks)
  }

  async finishedUpload(id: string, digest: Digest): Promise<boolean> {
    const { uploads, bytes, metadata, now } = this.#context
    if (!(await uploads.finishedAs(this.name, id, digest, this.#hooks))) return false
    if ((await bytes.stat(digest)) === undefined) return false
    // Whoever hears that it is here names it in a manifest next: until then it is not collected.
    await this.#commit((tx) => tx.touchBlob(this.#key, digest, now()))
    return metadata.blobs.linked(this.#key, digest)
  }

  async mount(digest: Digest, from: RepositoryName | undefined): Promise<boolean> {
    const { bytes, locks, localNames, readableHere, now } = this.#context
    // A digest alone opens nothing: without a repository that holds it there is nothing to go by.
    if (from === undefined || !(await readableHere(from, digest))) return false
    using _kept = this.#context.holds.hold(digest)
    using _held = await locks.exclusive(lockOfBlob(digest), NEVER)
    const blob = await bytes.stat(digest)
    if (blob === undefined) return false
    await this.#options.assertFree?.()
    localNames.add(this.name)
    await this.#commit((tx) => {
      tx.putRepository(this.#key, now())
      tx.linkBlob(this.#key, digest, blob.size, now())
      const { size } = blob
      this.#tell(tx, {
        action: 'mount',
        kind: 'blob',
        digest,
        size,
        mediaType: BLOB_TYPE,
        fromRepository: from,
      })
    })
    return true
  }

  async putManifest(reference: Reference, pushed: PushedManifest): Promise<KeptManifest> {
    const { locks } = this.#context
    const { bytes } = pushed
    await turnFor(bytes.length)
    const content = parseManifest(bytes, pushed.mediaType)
    assertTakable(content)
    assertDeclared(content, pushed.mediaType)
    const byDigest = isDigestReference(reference)
    const digest = digestOf(bytes, byDigest ? algorithmOf(reference) : 'sha256')
    if (byDigest && digest !== reference) {
      throw new OciError('DIGEST_INVALID', { expected: reference, found: digest })
    }
    const tags = new Set(byDigest ? pushed.tags : [reference, ...pushed.tags])

    using _held = await locks.exclusive(lockOfRepository(this.name), NEVER)
    await this.#assertHeld(content)
    for (const tag of tags) await this.#assertMayTag(tag, digest)
    const { mediaType, config, layers, manifests } = content
    const references = [...(config === undefined ? [] : [config]), ...layers, ...manifests]
    const push = {
      action: 'push',
      kind: 'manifest',
      digest,
      mediaType,
      size: bytes.length,
      references,
    } as const
    await this.#keep(
      [
        { digest, bytes, content, tags },
        ...(await this.#referrersTags.listed(digest, bytes.length, content, tags)),
      ],
      (tx) => this.#tell(tx, ...(tags.size === 0 ? [push] : [...tags].map((tag) => ({ ...push, tag })))),
    )
    return { digest, subject: content.subject?.digest }
  }

  async deleteManifest(reference: Reference): Promise<boolean> {
    const { locks, metadata, now } = this.#context
    using _held = await locks.exclusive(lockOfRepository(this.name), NEVER)
    if (isDigestReference(reference)) {
      if ((await metadata.manifests.get(this.#key, reference)) === undefined) return false
      for (const tag of await metadata.tags.of(this.#key, reference)) this.#assertMayUntag(tag)
      await this.#assertNotPinned(await this.#indexesOf(reference))
      const unlisted = await this.#referrersTags.unlisted(reference)
      await this.#keep(
        unlisted,
        (tx) => {
          tx.deleteManifest(this.#key, reference, now())
          this.#tell(tx, { action: 'delete', kind: 'manifest', digest: reference })
        },
        true,
      )
      return true
    }
    const tag = await metadata.tags.get(this.#key, reference)
    if (tag === undefined || tag.deletedAt !== undefined) return false
    this.#assertMayUntag(reference)
    await this.#free((tx) => {
      tx.deleteTag(this.#key, reference, now())
      this.#tell(tx, { action: 'delete', kind: 'manifest', tag: reference })
    })
    return true
  }

  async deleteBlob(digest: Digest): Promise<boolean> {
    const { locks, metadata } = this.#context
    using _held = await locks.exclusive(lockOfRepository(this.name), NEVER)
    if (!(await metadata.blobs.linked(this.#key, digest))) return false
    const parents = await metadata.garbage.referencedBy(digest, { repository: this.#key })
    await this.#assertNotPinned(parents)
    if (parents.length > 0) {
      throw new OciError(
        'UNSUPPORTED',
        { digest, manifest: parents[0] },
        { message: 'a manifest of this repository names the blob; delete the manifest first', allow: READS },
      )
    }
    await this.#free((tx) => {
      tx.unlinkBlob(this.#key, digest)
      this.#tell(tx, { action: 'delete', kind: 'blob', digest })
    })
    return true
  }

  async deleteRepository(): Promise<boolean> {
    const { locks, metadata, now } = this.#context
    using _held = await locks.exclusive(lockOfRepository(this.name), NEVER)
    const known = await metadata.repositories.get(this.#key)
    if (known === undefined || known.deletedAt !== undefined) return false
    await this.#free((tx) => {
      tx.buryRepository(this.#key, now())
      this.#tell(tx, { action: 'delete', kind: 'repository' })
    })
    return true
  }

  async release(): Promise<Remains | undefined> {
    const { locks, metadata } = this.#context
    using _held = await locks.exclusive(lockOfRepository(this.name), NEVER)
    const tags = await metadata.tags.list(this.#key, { limit: SOME_TAGS })
    const manifests = await metadata.manifests.list(this.#key, { limit: 1 })
    if (tags.length > 0 || manifests.length > 0) return { tags }
    await this.#free((tx) => tx.releaseRepository(this.#key))
    return undefined
  }

  /** In the commit that makes it so. */
  #tell(tx: MetadataTransaction, ...happenings: readonly Omit<RepositoryEvent, 'repository'>[]): void {
    const repository = this.name
    this.#context.events.queue(
      tx,
      happenings.map((it) => ({ ...it, repository })),
      this.#options.cause,
    )
  }

  /** @throws OciError when the index does not take it */
  async #commit(fill: (tx: MetadataTransaction) => void): Promise<void> {
    try {
      await this.#context.metadata.transaction(fill)
    } catch (error) {
      throw refusal(error)
    }
  }

  /** Like {@link #commit}, of what can be collected then: also when the disk is full. */
  async #free(fill: (tx: MetadataTransaction) => void): Promise<void> {
    const { metadata, reserve } = this.#context
    try {
      await reserve.use(() => metadata.transaction(fill))
    } catch (error) {
      throw refusal(error)
    }
  }

  readonly #hooks: UploadHooks = {
    assertFree: () => this.#options.assertFree?.() ?? Promise.resolve(),
    linked: (tx, digest, size) => {
      this.#tell(tx, { action: 'push', kind: 'blob', digest, size, mediaType: BLOB_TYPE })
    },
  }

  /**
   * Durably, all of it or nothing; what is stored and not committed is collected.
   *
   * @param frees something can be collected then: also when the disk is full
   */
  async #keep(
    manifests: readonly Kept[],
    also?: (tx: MetadataTransaction) => void,
    frees = false,
  ): Promise<void> {
    const replaced = await this.#referrersTags.replaced(manifests)
    const write = (tx: MetadataTransaction): void => {
      also?.(tx)
      for (const digest of replaced) tx.dropManifest(this.#key, digest)
    }
    await this.#commitAll(manifests, write, frees)
    for (const digest of replaced) await this.#freeBytes(digest)
  }

  /** The bytes of what nobody names any more, without a grace period. What fails is left to the collector. */
  async #freeBytes(digest: Digest): Promise<void> {
    const { store, metadata, locks, holds, log } = this.#context
    try {
      using _held = await locks.exclusive(lockOfBlob(digest), NEVER)
      if (holds.has(digest) || (await metadata.garbage.isHeld(digest))) return
      await metadata.transaction((tx) => tx.forgetBlob(digest))
      await store.delete(digest)
    } catch (err) {
      log.debug({ err, digest }, 'a list that was replaced is left to the collector')
    }
  }

  async #commitAll(
    manifests: readonly Kept[],
    also: (tx: MetadataTransaction) => void,
    frees: boolean,
  ): Promise<void> {
    const { room, reserve, locks, holds, localNames, now } = this.#context
    // Until the index knows them: a collector would find bytes that nobody names.
    using held = new DisposableStack()
    const byDigest = new Map(manifests.map(({ digest, bytes }) => [digest, bytes]))
    // In order, so that no two pushes ever wait for each other.
    for (const [digest, bytes] of [...byDigest].sort(([one], [other]) => (one < other ? -1 : 1))) {
      held.use(holds.hold(digest))
      held.use(await locks.exclusive(lockOfBlob(digest), NEVER))
      try {
        using _expected = frees ? undefined : await room.expect(bytes.length)
        const store = (): Promise<void> => this.#store(digest, bytes)
        await (frees ? reserve.use(store) : store())
      } catch (error) {
        throw refusal(error)
      }
    }
    await this.#options.assertFree?.()
    localNames.add(this.name)
    const write = (tx: MetadataTransaction): void => {
      const at = now()
      tx.putRepository(this.#key, at)
      also(tx)
      for (const { digest, bytes, content, tags } of manifests) {
        const size = bytes.length
        tx.putManifest(this.#key, digest, size, content, at)
        const { mediaType } = content
        for (const tag of tags) {
          tx.putTag(this.#key, { tag, digest, size, mediaType, checkedAt: at, deletedAt: undefined })
        }
      }
    }
    await (frees ? this.#free(write) : this.#commit(write))
  }

  /** @throws OciError MANIFEST_BLOB_UNKNOWN naming the first blob that is not in this repository */
  async #assertHeld({ config, layers }: ManifestContent): Promise<void> {
    const checked = new Set<Digest>()
    for (const descriptor of [config, ...layers]) {
      if (descriptor === undefined || isNonDistributable(descriptor) || checked.has(descriptor.digest))
        continue
      checked.add(descriptor.digest)
      await this.#assertBlob(descriptor)
    }
  }

  async #assertBlob({ digest, size }: Descriptor): Promise<void> {
    const { metadata, bytes } = this.#context
    const linked = await metadata.blobs.linked(this.#key, digest)
    const blob = linked ? await bytes.stat(digest) : undefined
    if (blob === undefined) {
      throw new OciError('MANIFEST_BLOB_UNKNOWN', { name: this.name, digest })
    }
    if (blob.size !== size) {
      throw new OciError(
        'MANIFEST_INVALID',
        { digest, size, found: blob.size },
        { message: 'a blob has another size' },
      )
    }
  }

  async #assertMayTag(tag: Tag, digest: Digest): Promise<void> {
    const before = await this.#context.metadata.tags.get(this.#key, tag)
    if (before === undefined || before.deletedAt !== undefined || before.digest === digest) return
    assertMayMove(this.name, tag, this.#context.settings)
  }

  /** A tag that is deleted and pushed again has moved. */
  #assertMayUntag(tag: Tag): void {
    assertMayMove(this.name, tag, this.#context.settings)
  }

  /**
   * What an immutable tag leads to is as immutable as the tag. A referrers tag is not asked: its list follows what is
   * deleted here.
   *
   * @throws OciError DENIED when such a tag names one of them, or an index that leads to one
   */
  async #assertNotPinned(manifests: readonly Digest[]): Promise<void> {
    const { metadata, settings } = this.#context
    if (settings.immutable.length === 0) return
    const seen = new Set(manifests)
    for (const manifest of seen) {
      for (const tag of await metadata.tags.of(this.#key, manifest)) {
        if (subjectOfReferrersTag(tag) === undefined) this.#assertMayUntag(tag)
      }
      for (const parent of await this.#indexesOf(manifest)) seen.add(parent)
      // A read blocks the thread.
      await immediate()
    }
  }

  #indexesOf(manifest: Digest): Promise<Digest[]> {
    const among = { repository: this.#key, role: 'manifest' } as const
    return this.#context.metadata.garbage.referencedBy(manifest, among)
  }

  /** @throws the system's error when the disk does not take it */
  async #store(digest: Digest, bytes: Buffer): Promise<void> {
    const { store, ingests } = this.#context
    let ingest: Ingest | undefined
    try {
      ingest = await ingests.open({ source: LOCAL, digest }, { fresh: true })
      await ingest.write([bytes], 0)
      const file = await ingest.verify(bytes.length)
      if (file === undefined) throw new Error('a manifest changed on its way to the disk')
      await store.adopt(file)
    } catch (error) {
      await ingest?.discard()
      throw error
    }
  }
}

/**
 * Whoever made a schema 1 manifest knows it by the digest of what was signed, which is not that of its bytes: it could
 * only be kept under one that nobody asks for. What layers it has is written in a way of its own, which we do not read.
 *
 * @throws OciError MANIFEST_INVALID, upon which a client that may choose tries another format
 */
function assertTakable({ kind, mediaType, ...named }: ManifestContent): void {
  const { config, subject, layers, manifests } = named
  if ([config, subject, ...layers, ...manifests].some((it) => it !== undefined && it.size === undefined)) {
    throw new OciError('MANIFEST_INVALID', { reason: 'malformed size' })
  }
  if (kind !== 'schema1') return
  throw new OciError(
    'MANIFEST_INVALID',
    { mediaType },
    {
      message:
        'manifests of Docker schema 1 are not taken, for their digest is not that of their bytes; ' +
        'push the image as OCI, or as Docker schema 2',
    },
  )
}

/** @throws OciError MANIFEST_INVALID when the document and its `Content-Type` do not agree */
function assertDeclared(content: ManifestContent, declared: string | undefined): void {
  const bare = declared?.split(';')[0]?.trim().toLowerCase()
  if (bare === undefined || bare === '' || bare === content.mediaType.toLowerCase()) return
  throw new OciError(
    'MANIFEST_INVALID',
    { contentType: bare, mediaType: content.mediaType },
    { message: 'Content-Type and mediaType of the manifest differ' },
  )
}
