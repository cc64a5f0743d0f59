/**
 * Eviction index: mirrored content in the order of its last pull (LRU).
 *
 * An image is a manifest that no other manifest here references, with all it references. Reads block the thread, so
 * lists come in parts, each the state of one moment. The eviction looks up each entry again under its lock.
 */
import type { Bytes } from '../../base/units.ts'
import type { Digest } from '../../oci/digest.ts'
import type { EpochMs, ReferenceIndex } from './metadata.ts'

/** Sizes in the index: of blobs, and of the answers of upstreams that it keeps itself. */
interface StoredBytes {
  /** By the registry that is charged for them, which is the first that gave them; empty: none did. */
  readonly mirrored: ReadonlyMap<string, Bytes>
  /** Held by a local repository, even if an upstream gave them too. */
  readonly pushed: Bytes
  /** Disk space of the index itself, without those answers, and without the pages that a vacuum will free. */
  readonly index: Bytes
}

/** A blob that was not pushed. */
export interface MirroredBlob {
  readonly digest: Digest
  readonly size: Bytes
  /** The last pull that was written down. */
  readonly pulledAt: EpochMs
  /** As in {@link StoredBytes}. */
  readonly registry: string
}

/** A blob's place in the order of last pulls. */
export interface ColdPlace {
  readonly pulledAt: EpochMs
  readonly digest: Digest
}

export interface ColdPart {
  readonly found: readonly MirroredBlob[]
  /** Where the next part begins; undefined: this was the last. */
  readonly next: ColdPlace | undefined
}

export interface EvictionIndex extends ReferenceIndex {
  stored(): Promise<StoredBytes>
  /** Images, by their manifests, and blobs that no manifest references; least recently pulled first. */
  coldest(after?: ColdPlace): Promise<ColdPart>
  /** Like {@link coldest}, for configs and layers that manifests reference. */
  coldestParts(after?: ColdPlace): Promise<ColdPart>
  /** undefined: it is unknown, or was pushed. */
  mirrored(digest: Digest): Promise<MirroredBlob | undefined>
  /** The references of the manifest that are mirrored here: its child manifests, or its config and layers. */
  contents(manifest: Digest, role: 'manifest' | 'blob'): Promise<MirroredBlob[]>
  /** The referrers of the subject, in any repository. */
  referring(subject: Digest): Promise<Digest[]>
  /** The subject of the manifest, where it is here. */
  subjects(manifest: Digest): Promise<Digest[]>
  /** Blobs that the index knows between two digests, neither of them. */
  known(after: string, until: string): Promise<KnownFile[]>
}

/** A row of the index, to be compared with a file. */
interface KnownFile {
  readonly digest: Digest
  readonly size: Bytes
  readonly pushed: boolean
}
