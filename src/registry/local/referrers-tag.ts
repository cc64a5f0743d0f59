/**
 * Referrers tags, the fallback of clients without the referrers API: where a subject has one, pushes and deletes here
 * keep it up to date. The results are manifests to store; the caller commits them together with the push, under the
 * repository's lock.
 *
 * `push.immutable` does not apply to these updates: the specification lets the list grow, and it says no more than the
 * referrers API. It does apply to a client that moves or deletes the tag.
 *
 * Spec: distribution-spec § Referrers tag schema.
 */
import { MAX_MANIFEST_BYTES, MEDIA_TYPES } from '../../oci/descriptor.ts'
import { algorithmOf, digestOf, type Digest } from '../../oci/digest.ts'
import { parseManifest, type ManifestContent } from '../../oci/manifest.ts'
import type { Tag } from '../../oci/reference.ts'
import type { MetadataStore, RepositoryKey } from '../../storage/metadata/metadata.ts'
import type { PushedContent } from './pushed-content.ts'
import { referrersTag, subjectOfReferrersTag, withReferrer } from '../../oci/referrers.ts'

/** A manifest to store, and the tags to point at it. */
export interface Kept {
  readonly digest: Digest
  readonly bytes: Buffer
  readonly content: ManifestContent
  readonly tags: Iterable<Tag>
}

export class ReferrersTags {
  /** A damaged index reads as absent, and so does not block the push. */
  readonly #bytes: Pick<PushedContent, 'manifest'>
  readonly #metadata: MetadataStore
  readonly #key: RepositoryKey

  constructor(
    { bytes, metadata }: { bytes: Pick<PushedContent, 'manifest'>; metadata: MetadataStore },
    key: RepositoryKey,
  ) {
    this.#bytes = bytes
    this.#metadata = metadata
    this.#key = key
  }

  /** If the subject has a referrers tag: the tag's index with this manifest added. */
  async listed(
    digest: Digest,
    size: number,
    content: ManifestContent,
    tags: ReadonlySet<Tag>,
  ): Promise<Kept[]> {
    const { subject, mediaType, artifactType, annotations } = content
    // The client is pushing that referrers tag itself, so its content is the client's.
    if (subject === undefined || tags.has(referrersTag(subject.digest))) return []
    const add = {
      mediaType,
      digest,
      size,
      ...(artifactType === undefined ? {} : { artifactType }),
      ...(annotations === undefined ? {} : { annotations }),
    }
    return this.#relisted(subject.digest, { add })
  }

  /** The index without the manifest that is being deleted. */
  async unlisted(digest: Digest): Promise<Kept[]> {
    const bytes = await this.#bytes.manifest(digest)
    const subject = bytes === undefined ? undefined : parseManifest(bytes).subject
    return subject === undefined ? [] : this.#relisted(subject.digest, { remove: digest })
  }

  /**
   * Old indexes under those tags that nothing else references. They are deleted at once: every push would leave one
   * behind, up to megabytes each, and clients request the index only by its tag.
   */
  async replaced(manifests: readonly Kept[]): Promise<Digest[]> {
    const { tags, garbage, manifests: held } = this.#metadata
    const kept = new Set(manifests.map(({ digest }) => digest))
    const gone: Digest[] = []
    for (const tag of manifests.flatMap((it) => [...it.tags])) {
      if (subjectOfReferrersTag(tag) === undefined) continue
      const before = await tags.get(this.#key, tag)
      if (before === undefined || kept.has(before.digest) || before.mediaType !== MEDIA_TYPES.ociIndex)
        continue
      const { digest } = before
      const others = (await tags.of(this.#key, digest)).filter((it) => it !== tag)
      if (others.length > 0 || (await garbage.referencedBy(digest, { repository: this.#key })).length > 0)
        continue
      if ((await held.referrers(this.#key, digest)).length === 0) gone.push(digest)
    }
    return gone
  }

  async #relisted(subject: Digest, change: Parameters<typeof withReferrer>[1]): Promise<Kept[]> {
    const tag = referrersTag(subject)
    const record = await this.#metadata.tags.get(this.#key, tag)
    if (record === undefined || record.deletedAt !== undefined) return []
    const index = await this.#bytes.manifest(record.digest)
    const bytes = index === undefined ? undefined : withReferrer(index, change)
    if (bytes === undefined || bytes.length > MAX_MANIFEST_BYTES) return []
    const content = parseManifest(bytes, record.mediaType)
    return [{ digest: digestOf(bytes, algorithmOf(record.digest)), bytes, content, tags: [tag] }]
  }
}
