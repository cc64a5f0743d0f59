/**
 * What the bytes are called. Narrow indexes; a consumer asks only for the ones it needs.
 *
 * SQL is the truth about names, the BlobStore about bytes. A repository is (registry, name): the same path on
 * two upstreams never collides. `registry` is the upstream's key, or {@link LOCAL} for what was pushed here.
 * Reads see what was committed; a write resolves when it is durable.
 */
import type { Descriptor } from '../oci/descriptor.ts'
import type { Digest } from '../oci/digest.ts'
import type { ManifestContent } from '../oci/manifest.ts'
import type { RepositoryName, Tag } from '../oci/reference.ts'
import type { Bytes } from './blob-store.ts'

/** The registry of pushed repositories; no upstream may have this key. */
export const LOCAL = 'local'

/** Unix time. */
export type EpochMs = number

export interface RepositoryKey {
  readonly registry: string
  readonly name: RepositoryName
}

export interface TagRecord {
  readonly tag: Tag
  readonly digest: Digest
  readonly size: Bytes
  readonly mediaType: string
  /** When upstream last confirmed it. */
  readonly checkedAt: EpochMs
  /** Upstream said it is gone; the last digest is kept, the tag does not answer. */
  readonly deletedAt: EpochMs | undefined
}

export interface ManifestRecord {
  readonly digest: Digest
  readonly size: Bytes
  /** What it is served as. */
  readonly mediaType: string
}

export interface Page {
  /** Exclusive; need not exist. */
  readonly last?: string
  readonly limit: number
}

export interface RepositoryIndex {
  get(
    repository: RepositoryKey,
  ): Promise<{ readonly servedAt: EpochMs | undefined; readonly deletedAt: EpochMs | undefined } | undefined>
  /** Names of all repositories of a registry that begin with `prefix`; for the start's checks. */
  list(registry: string, page: Page): Promise<RepositoryName[]>
}

export interface TagIndex {
  /** Tombstones included. */
  get(repository: RepositoryKey, tag: Tag): Promise<TagRecord | undefined>
  /** Lexical, without tombstones. */
  list(repository: RepositoryKey, page: Page): Promise<Tag[]>
}

export interface ManifestIndex {
  /** That this repository holds it; the bytes are in the BlobStore. */
  get(repository: RepositoryKey, digest: Digest): Promise<ManifestRecord | undefined>
  /** The descriptor by which a manifest *of this repository* names that digest, and as what. */
  named(repository: RepositoryKey, digest: Digest): Promise<ChildDescriptor | undefined>
  /** What it names, config first, in the manifest's order. */
  children(manifest: Digest): Promise<ChildDescriptor[]>
  /** Manifests of this repository whose subject is `subject`. */
  referrers(repository: RepositoryKey, subject: Digest): Promise<Descriptor[]>
}

export interface ChildDescriptor extends Descriptor {
  readonly role: 'config' | 'layer' | 'manifest'
}

export interface BlobIndex {
  /** That this repository may read it. */
  linked(repository: RepositoryKey, digest: Digest): Promise<boolean>
  /** That this upstream delivered those bytes to us, under whatever name. */
  deliveredBy(registry: string, digest: Digest): Promise<boolean>
  /** Of the bytes that were verified, whatever has become of their file; undefined when nobody linked them. */
  size(digest: Digest): Promise<Bytes | undefined>
}

/** All that is written together or not at all. Called with the facts; holds no reads. */
export interface MetadataTransaction {
  putRepository(repository: RepositoryKey, servedAt: EpochMs): void
  putManifest(
    repository: RepositoryKey,
    digest: Digest,
    size: Bytes,
    content: ManifestContent,
    at: EpochMs,
  ): void
  putTag(repository: RepositoryKey, record: TagRecord): void
  /** `checkedAt` of a tag that still names `digest`. */
  confirmTag(repository: RepositoryKey, tag: Tag, digest: Digest, checkedAt: EpochMs): void
  /** A tombstone; nothing when the tag is unknown. */
  buryTag(repository: RepositoryKey, tag: Tag, deletedAt: EpochMs): void
  linkBlob(repository: RepositoryKey, digest: Digest, size: Bytes, at: EpochMs): void
  /** `registry` gave us these bytes. */
  recordDelivery(registry: string, digest: Digest, size: Bytes, at: EpochMs): void
  /** After a blob's file turned out to be gone or torn. */
  forgetBlob(digest: Digest): void
}

export interface MetadataStore {
  readonly repositories: RepositoryIndex
  readonly tags: TagIndex
  readonly manifests: ManifestIndex
  readonly blobs: BlobIndex
  /**
   * Commits what `fill` says, durably, in one transaction. `fill` is called once, synchronously; what several
   * callers queue meanwhile shares one sync.
   */
  transaction(fill: (tx: MetadataTransaction) => void): Promise<void>
  close(): Promise<void>
}
