/**
 * The tags that clients without the referrers API keep: where there is one for a subject, it follows what is pushed and
 * deleted here. It says what is to be kept besides; whoever commits the push commits that with it, under the lock of
 * the repository.
 *
 * `push.immutable` does not hold it here: the tag is a list that the specification lets grow, and what the list says is
 * no more than what the referrers API says. A client may not move or delete it under such a glob, as any other tag.
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

/** A manifest, and the tags that are to name it. */
export interface Kept {
  readonly digest: Digest
  readonly bytes: Buffer
  readonly content: ManifestContent
  readonly tags: Iterable<Tag>
}

export class ReferrersTags {
  /** What has rotted says nothing, and stands in nobody's way. */
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

  /** Where somebody keeps a referrers tag for its subject: that tag's index with this manifest in it. */
  async listed(
    digest: Digest,
    size: number,
    content: ManifestContent,
    tags: ReadonlySet<Tag>,
  ): Promise<Kept[]> {
    const { subject, mediaType, artifactType, annotations } = content
    // What a tag is to name is not for us to change.
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

  /** Of a manifest that goes: the same without it. */
  async unlisted(digest: Digest): Promise<Kept[]> {
    const bytes = await this.#bytes.manifest(digest)
    const subject = bytes === undefined ? undefined : parseManifest(bytes).subject
    return subject === undefined ? [] : this.#relisted(subject.digest, { remove: digest })
  }

  /**
   * Lists that those take the place of, and that nothing else leads to. They go at once: each push would leave one
   * behind, of megabytes in the end, and nobody asks for a list but by its tag.
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
