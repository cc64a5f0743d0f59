/**
 * Inventory of what is here, for the operator who asks: about a few digests, or about everything, a part at a time.
 *
 * Each answer is what one moment holds, and little work: reads block the thread.
 */
import type { Bytes } from '../../base/units.ts'
import type { Digest } from '../../oci/digest.ts'
import type { Tag } from '../../oci/reference.ts'
import type { EpochMs, Page, ReferenceIndex, RepositoryKey } from './metadata.ts'

/** Bytes that the index knows. Whether their file is there is the disk's to say. */
export interface KnownBytes {
  readonly digest: Digest
  readonly size: Bytes
  readonly storedAt: EpochMs
  /** As far as that was written down. */
  readonly pulledAt: EpochMs
  /** When they were last compared with their digest. */
  readonly checkedAt: EpochMs
  /** A local repository holds them: they are never evicted. */
  readonly pushed: boolean
}

interface ListedTag {
  readonly tag: Tag
  readonly digest: Digest
  /** When upstream last confirmed a mirrored tag, or when a local one was pushed. */
  readonly checkedAt: EpochMs
}

/** The size of a manifest with all that it references, directly or not, and that is here. */
export interface Weight {
  readonly digest: Digest
  readonly bytes: Bytes
  /** The latest pull of it and of the manifests that it references. */
  readonly pulledAt: EpochMs
  readonly storedAt: EpochMs
}

export interface InventoryIndex extends ReferenceIndex {
  /** Digests that it does not know are left out. */
  blobs(digests: readonly Digest[]): Promise<KnownBytes[]>
  /** When its bytes were found wrong and put aside, for those that are. */
  quarantined(digests: readonly Digest[]): Promise<ReadonlyMap<Digest, EpochMs>>
  /** Blobs that were not pushed, and were pulled longer ago than that, as far as is written down; at most `limit` are counted. */
  colder(pulledAt: EpochMs, limit: number): Promise<number>
  /**
   * Repositories of which a manifest is here. In the order of what they are pulled by: local ones by their name,
   * mirrored ones, which come apart from them, behind their registry's key.
   */
  repositories(kind: 'local' | 'mirrored', page: Page): Promise<RepositoryKey[]>
  /** Lexical, without tombstones. */
  tags(repository: RepositoryKey, page: Page): Promise<ListedTag[]>
  /** Manifests that no tag and no manifest of that repository names. */
  untagged(
    repository: RepositoryKey,
    last: Digest | undefined,
  ): Promise<{ readonly found: readonly Digest[]; readonly next: Digest | undefined }>
  /** In no order; of what is not here, nothing. */
  weights(manifests: readonly Digest[]): Promise<Weight[]>
}
