/**
 * Inventory of what is here, for an operator who asks about a few digests, or about everything in parts.
 *
 * Reads block the thread, so each answer is little work, and the state of one moment.
 */
import type { Bytes } from '../../base/units.ts'
import type { Digest } from '../../oci/digest.ts'
import type { Tag } from '../../oci/reference.ts'
import type { EpochMs, Page, ReferenceIndex, RepositoryKey } from './metadata.ts'

/** A blob in the index. Only the disk can tell whether its file is there. */
export interface KnownBytes {
  readonly digest: Digest
  readonly size: Bytes
  readonly storedAt: EpochMs
  /** The last pull that was written down. */
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
  /** Leaves out digests that the index does not know. */
  blobs(digests: readonly Digest[]): Promise<KnownBytes[]>
  /** When each digest was quarantined, without those that are not. */
  quarantined(digests: readonly Digest[]): Promise<ReadonlyMap<Digest, EpochMs>>
  /** Counts blobs that were not pushed and whose last pull, as written down, was before that; up to `limit`. */
  colder(pulledAt: EpochMs, limit: number): Promise<number>
  /**
   * Repositories of which a manifest is here, in the order of the names that they are pulled by: local ones by their
   * own, mirrored ones, which are a list apart, behind their registry's key.
   */
  repositories(kind: 'local' | 'mirrored', page: Page): Promise<RepositoryKey[]>
  /** Lexical, without tombstones. */
  tags(repository: RepositoryKey, page: Page): Promise<ListedTag[]>
  /** Manifests that no tag and no manifest of that repository references. */
  untagged(
    repository: RepositoryKey,
    last: Digest | undefined,
  ): Promise<{ readonly found: readonly Digest[]; readonly next: Digest | undefined }>
  /** In no order, without manifests that are not here. */
  weights(manifests: readonly Digest[]): Promise<Weight[]>
}
