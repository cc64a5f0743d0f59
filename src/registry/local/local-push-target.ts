/**
 * Push target: the writes to one local repository, which exists from its first push on.
 *
 * An acknowledged write is on the disk and in the index. A manifest is checked and committed under its repository's
 * lock, a blob adopted and linked under its digest's; the garbage collector takes the same locks before it deletes.
 */
import { setImmediate as immediate } from 'node:timers/promises'
import { NEVER } from '../../base/condition.ts'
import { isNonDistributable, type Descriptor } from '../../oci/descriptor.ts'
import { algorithmOf, digestOf, type Digest, type DigestAlgorithm } from '../../oci/digest.ts'
import { OciError } from '../../oci/errors.ts'
import { turnFor } from '../../base/turns.ts'
import type { ManifestContent } from '../../oci/manifest.ts'
import { isDigestReference, type Reference, type RepositoryName, type Tag } from '../../oci/reference.ts'
import { subjectOfReferrersTag } from '../../oci/referrers.ts'
import { lockOfBlob, lockOfRepository } from '../../storage/locks/keyed-locks.ts'
import type { RepositoryKey } from '../../storage/metadata/metadata.ts'
import { BLOB_TYPE } from '../notifications/event.ts'
import { assertMayMove } from '../naming/push-policy.ts'
import type { LocalContext } from './local-context.ts'
import { parsePushedManifest } from './pushed-manifest.ts'
import type { KeptManifest, PushedManifest, PushTarget, Remains, UploadSession } from './push-target.ts'
import { RepositoryCommits, type CommitOptions } from './repository-commits.ts'
import type { UploadHooks } from '../uploads/upload-link.ts'

/** `Allow` of a blob that must not be deleted. */
const READS = ['GET', 'HEAD']

/** Limit of the tags listed when a repository cannot be released because it still has some. */
const SOME_TAGS = 11

export class LocalPushTarget implements PushTarget {
  readonly name: RepositoryName
  readonly #context: LocalContext
  readonly #key: RepositoryKey
  readonly #commits: RepositoryCommits
  readonly #hooks: UploadHooks

  constructor(context: LocalContext, name: RepositoryName, options: CommitOptions = {}) {
    this.name = name
    this.#context = context
    const commits = new RepositoryCommits(context, name, options)
    this.#commits = commits
    this.#key = commits.key
    this.#hooks = {
      assertFree: () => commits.assertFree(),
      linked: (tx, digest, size) =>
        commits.tell(tx, { action: 'push', kind: 'blob', digest, size, mediaType: BLOB_TYPE }),
    }
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
    // The client pushes a manifest with the blob next: until then the blob must not be collected.
    await this.#commits.commit((tx) => tx.touchBlob(this.#key, digest, now()))
    return metadata.blobs.linked(this.#key, digest)
  }

  async mount(digest: Digest, from: RepositoryName | undefined): Promise<boolean> {
    const { bytes, locks, localNames, readableHere, now } = this.#context
    // A digest alone grants no access: the client has to name a repository from which it could pull the blob.
    if (from === undefined || !(await readableHere(from, digest))) return false
    using _kept = this.#context.holds.hold(digest)
    using _held = await locks.exclusive(lockOfBlob(digest), NEVER)
    const blob = await bytes.stat(digest)
    if (blob === undefined) return false
    await this.#commits.assertFree()
    localNames.add(this.name)
    await this.#commits.commit((tx) => {
      tx.putRepository(this.#key, now())
      tx.linkBlob(this.#key, digest, blob.size, now())
      const event = { action: 'mount', kind: 'blob', digest, mediaType: BLOB_TYPE } as const
      this.#commits.tell(tx, { ...event, size: blob.size, fromRepository: from })
    })
    return true
  }

  async putManifest(reference: Reference, pushed: PushedManifest): Promise<KeptManifest> {
    const { bytes } = pushed
    await turnFor(bytes.length)
    const content = parsePushedManifest(bytes, pushed.mediaType)
    const byDigest = isDigestReference(reference)
    const digest = digestOf(bytes, byDigest ? algorithmOf(reference) : 'sha256')
    if (byDigest && digest !== reference) {
      throw new OciError('DIGEST_INVALID', { expected: reference, found: digest })
    }
    const tags = new Set(byDigest ? pushed.tags : [reference, ...pushed.tags])

    using _held = await this.#lock()
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
    await this.#commits.keep(
      [
        { digest, bytes, content, tags },
        ...(await this.#commits.referrersTags.listed(digest, bytes.length, content, tags)),
      ],
      (tx) =>
        this.#commits.tell(tx, ...(tags.size === 0 ? [push] : [...tags].map((tag) => ({ ...push, tag })))),
    )
    return { digest, subject: content.subject?.digest }
  }

  async deleteManifest(reference: Reference): Promise<boolean> {
    const { metadata, now } = this.#context
    using _held = await this.#lock()
    if (isDigestReference(reference)) {
      if ((await metadata.manifests.get(this.#key, reference)) === undefined) return false
      for (const tag of await metadata.tags.of(this.#key, reference)) this.#assertMayUntag(tag)
      await this.#assertNotPinned(await this.#indexesOf(reference))
      const unlisted = await this.#commits.referrersTags.unlisted(reference)
      await this.#commits.keep(
        unlisted,
        (tx) => {
          tx.deleteManifest(this.#key, reference, now())
          this.#commits.tell(tx, { action: 'delete', kind: 'manifest', digest: reference })
        },
        true,
      )
      return true
    }
    const tag = await metadata.tags.get(this.#key, reference)
    if (tag === undefined || tag.deletedAt !== undefined) return false
    this.#assertMayUntag(reference)
    await this.#commits.commit((tx) => {
      tx.deleteTag(this.#key, reference, now())
      this.#commits.tell(tx, { action: 'delete', kind: 'manifest', tag: reference })
    }, true)
    return true
  }

  async deleteBlob(digest: Digest): Promise<boolean> {
    const { metadata } = this.#context
    using _held = await this.#lock()
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
    await this.#commits.commit((tx) => {
      tx.unlinkBlob(this.#key, digest)
      this.#commits.tell(tx, { action: 'delete', kind: 'blob', digest })
    }, true)
    return true
  }

  async deleteRepository(): Promise<boolean> {
    const { metadata, now } = this.#context
    using _held = await this.#lock()
    const known = await metadata.repositories.get(this.#key)
    if (known === undefined || known.deletedAt !== undefined) return false
    await this.#commits.commit((tx) => {
      tx.buryRepository(this.#key, now())
      this.#commits.tell(tx, { action: 'delete', kind: 'repository' })
    }, true)
    return true
  }

  async release(): Promise<Remains | undefined> {
    const { metadata } = this.#context
    using _held = await this.#lock()
    const tags = await metadata.tags.list(this.#key, { limit: SOME_TAGS })
    const manifests = await metadata.manifests.list(this.#key, { limit: 1 })
    if (tags.length > 0 || manifests.length > 0) return { tags }
    await this.#commits.commit((tx) => tx.releaseRepository(this.#key), true)
    return undefined
  }

  #lock(): Promise<Disposable> {
    return this.#context.locks.exclusive(lockOfRepository(this.name), NEVER)
  }

  /** @throws OciError MANIFEST_BLOB_UNKNOWN with the first blob that is not in this repository */
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

  /** A deletion counts as a move, because the tag could be pushed again elsewhere. */
  #assertMayUntag(tag: Tag): void {
    assertMayMove(this.name, tag, this.#context.settings)
  }

  /**
   * Whatever an immutable tag references, directly or through an index, is immutable too. A referrers tag does not
   * count: its list follows the deletes here.
   *
   * @throws OciError DENIED when an immutable tag references one of the manifests
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
      // A read of the index blocks the event loop.
      await immediate()
    }
  }

  #indexesOf(manifest: Digest): Promise<Digest[]> {
    const among = { repository: this.#key, role: 'manifest' } as const
    return this.#context.metadata.garbage.referencedBy(manifest, among)
  }
}
