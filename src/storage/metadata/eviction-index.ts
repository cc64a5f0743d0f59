/**
 * Index of what is mirrored, for the eviction of what was not pulled for longest.
 *
 * An image is a manifest that no other manifest here names, with all it refers to. Reads block the thread: lists come
 * in parts, and each answer is what one moment holds. Before anything is evicted it is looked up again under its lock.
 */
import type { Bytes } from '../../base/units.ts'
import type { Digest } from '../../oci/digest.ts'
import type { EpochMs, ReferenceIndex } from './metadata.ts'

/** Bytes in the index: of blobs, and of the answers of upstreams that it keeps itself. */
interface StoredBytes {
  /** By the registry that they are reckoned to, which is the first that gave them; empty: nobody did. */
  readonly mirrored: ReadonlyMap<string, Bytes>
  /** Held by a local repository, whoever else gave them. */
  readonly pushed: Bytes
  /** Bytes that the index itself needs of the disk, without those answers, and without what it will give back. */
  readonly index: Bytes
}

/** Bytes that were not pushed. */
export interface MirroredBlob {
  readonly digest: Digest
  readonly size: Bytes
  /** As far as that was written down. */
  readonly pulledAt: EpochMs
  /** As in {@link StoredBytes}. */
  readonly registry: string
}

/** The place of a blob in the order in which they were pulled. */
export interface ColdPlace {
  readonly pulledAt: EpochMs
  readonly digest: Digest
}

export interface ColdPart {
  readonly found: readonly MirroredBlob[]
  /** All that was pulled before it has been told of; undefined: everything has. */
  readonly next: ColdPlace | undefined
}

export interface EvictionIndex extends ReferenceIndex {
  stored(): Promise<StoredBytes>
  /** Images, by their manifests, and blobs that no manifest names; least recently pulled first. */
  coldest(after?: ColdPlace): Promise<ColdPart>
  /** Like {@link coldest}: configs and layers that manifests name. */
  coldestParts(after?: ColdPlace): Promise<ColdPart>
  /** undefined: it is not known, or was pushed. */
  mirrored(digest: Digest): Promise<MirroredBlob | undefined>
  /** The references of the manifest that are mirrored here: its child manifests, or its config and layers. */
  contents(manifest: Digest, role: 'manifest' | 'blob'): Promise<MirroredBlob[]>
  /** Manifests of any repository whose subject it is. */
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
