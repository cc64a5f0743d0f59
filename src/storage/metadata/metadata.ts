/**
 * Metadata store: the names of the bytes, in narrow indexes of which a consumer asks only for those it needs.
 *
 * SQL is the truth about names, the BlobStore about bytes. A repository is (registry, name): the same path on two
 * upstreams never collides. `registry` is the upstream's key, or {@link LOCAL} for pushed content. Reads see what was
 * committed; a write resolves when it is durable.
 */
import type { Bytes } from '../../base/units.ts'
import type { Descriptor } from '../../oci/descriptor.ts'
import type { Digest } from '../../oci/digest.ts'
import type { ManifestContent } from '../../oci/manifest.ts'
import type { RepositoryName, Tag } from '../../oci/reference.ts'
import type { BlobInfo } from '../blobs/blob-store.ts'
import type { AuditIndex, LocalSnapshot, ScrubIndex } from './audit-index.ts'
import type { EvictionIndex } from './eviction-index.ts'
import type { InventoryIndex } from './inventory-index.ts'
import type { NewUpstreamAnswer, UpstreamAnswerIndex, UpstreamQuestion } from './upstream-answer-index.ts'

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
  /** When upstream said that it is gone: a tombstone, which keeps the last digest and answers no pull. */
  readonly deletedAt: EpochMs | undefined
}

export interface ManifestRecord {
  readonly digest: Digest
  readonly size: Bytes
  /** The content type under which it is served. */
  readonly mediaType: string
}

/** A manifest as a repository holds it. */
export interface StoredManifest extends ManifestRecord {
  readonly subject: Digest | undefined
  /** When it was last pushed, fetched, or said to be here. */
  readonly storedAt: EpochMs
  /** When the last tag, or manifest, that named it in its repository was deleted. */
  readonly releasedAt: EpochMs | undefined
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
  /** Names of all repositories of a registry, tombstones included; for the start's checks. */
  list(registry: string, page: Page): Promise<RepositoryName[]>
  /**
   * Repositories that can be pulled, by the name they are pulled under: local ones as they are, mirrored ones behind
   * their registry's key (`docker.io/library/nginx`). Lexical, without tombstones and those of which nothing is here.
   *
   * @param containing only names with that text in them
   */
  catalog(page: Page, containing?: string): Promise<string[]>
}

export interface TagIndex {
  /** Tombstones included. */
  get(repository: RepositoryKey, tag: Tag): Promise<TagRecord | undefined>
  /** Lexical, without tombstones. */
  list(repository: RepositoryKey, page: Page): Promise<Tag[]>
  /** Tags of that manifest. Lexical, without tombstones. */
  of(repository: RepositoryKey, manifest: Digest): Promise<Tag[]>
  /** Tags whose manifest this repository holds, and when each was last confirmed. Lexical, without tombstones. */
  held(repository: RepositoryKey, limit: number): Promise<Pick<TagRecord, 'tag' | 'checkedAt'>[]>
}

/** The graph of manifests: what each references, and what references a digest; several indexes answer that. */
export interface ReferenceIndex {
  /** All references of the manifest, config first, in its order. */
  references(manifest: Digest): Promise<ChildDescriptor[]>
  /** Manifests that reference the digest: of any repository, or of one; in any role, or as a manifest. */
  referencedBy(
    digest: Digest,
    among: { readonly repository?: RepositoryKey; readonly role?: 'manifest'; readonly limit?: number },
  ): Promise<Digest[]>
  /**
   * Manifests of every repository that are the digest, or reach it in at most so many references, with their tags.
   *
   * @param limit counts tags, and manifests that have none
   */
  taggedManifests(digest: Digest, steps: number, limit?: number): Promise<TaggedManifest[]>
  /** Repositories that may read it as a blob. */
  linkedIn(digest: Digest): Promise<RepositoryKey[]>
}

export interface TaggedManifest {
  readonly repository: RepositoryKey
  readonly manifest: Digest
  readonly tags: readonly Tag[]
}

export interface ManifestIndex extends Pick<ReferenceIndex, 'references'> {
  /** The record of a manifest that this repository holds; its bytes are in the BlobStore. */
  get(repository: RepositoryKey, digest: Digest): Promise<StoredManifest | undefined>
  /** Manifests that this repository holds, tagged or not. Lexical. */
  list(repository: RepositoryKey, page: Page): Promise<Digest[]>
  /** The descriptor by which a manifest *of this repository* references that digest, and as what. */
  descriptor(repository: RepositoryKey, digest: Digest): Promise<ChildDescriptor | undefined>
  /** The referrers of `subject` in this repository. */
  referrers(repository: RepositoryKey, subject: Digest): Promise<Descriptor[]>
}

export interface ChildDescriptor extends Descriptor {
  readonly role: 'config' | 'layer' | 'manifest'
}

export interface BlobIndex {
  /** Whether this repository may read it. */
  linked(repository: RepositoryKey, digest: Digest): Promise<boolean>
  /** When it was last uploaded, mounted, or said to be here; undefined when it is not linked. */
  linkedAt(repository: RepositoryKey, digest: Digest): Promise<EpochMs | undefined>
  /** Whether this upstream delivered those bytes, under whatever name. */
  deliveredBy(registry: string, digest: Digest): Promise<boolean>
  /** The verified size, whatever has become of the file; undefined for bytes that the index does not know. */
  size(digest: Digest): Promise<Bytes | undefined>
}

/** Upload sessions that became a blob. */
export interface FinishedUploadIndex {
  get(session: string): Promise<FinishedUpload | undefined>
}

interface FinishedUpload {
  readonly name: RepositoryName
  readonly digest: Digest
  readonly finishedAt: EpochMs
}

/** Events on their way to one end-point, in the order in which they happened. */
export interface EventQueue {
  /** The oldest events whose number is above `after`. */
  next(endpoint: string, limit: number, after?: number): Promise<readonly QueuedEvent[]>
  count(endpoint: string): Promise<number>
  /** The end-points with queued events. */
  endpoints(): Promise<readonly string[]>
  /** Calls `listener` after each commit that queued something, until it is disposed. */
  onQueued(listener: () => void): Disposable
}

export interface QueuedEvent {
  readonly id: number
  readonly body: string
  readonly queuedAt: EpochMs
}

/** Content that nothing references any more, in lists whose parts are little work each. */
export interface GarbageIndex extends ReferenceIndex {
  /**
   * Manifests of local repositories that were released before `before`: no tag and no index there references them,
   * and their subject is gone. Nor did a client push them, or hear that they are here, after it.
   */
  manifests(before: EpochMs, from?: GarbagePlace): Promise<GarbagePart>
  /** Links of local repositories, last uploaded, mounted or told of before `before`, that no manifest there needs. */
  links(before: EpochMs, from?: GarbagePlace): Promise<GarbagePart>
  /** Bytes that no repository holds and no upstream gave, and that came, or were found, before `before`. */
  blobs(
    before: EpochMs,
    from?: Digest,
  ): Promise<{ readonly found: readonly BlobInfo[]; readonly next: Digest | undefined }>
  /** Whether a repository holds these bytes, or an upstream gave them. */
  isHeld(digest: Digest): Promise<boolean>
  /** Whether an upstream gave these bytes. */
  isDelivered(digest: Digest): Promise<boolean>
}

/** The end of a part of a list, after which the next begins. */
export interface GarbagePlace {
  readonly repository: RepositoryKey
  readonly digest: Digest
}

export interface GarbagePart {
  readonly found: readonly Garbage[]
  /** Undefined: that was the last part. */
  readonly next: GarbagePlace | undefined
}

export interface Garbage {
  readonly repository: RepositoryKey
  readonly digest: Digest
  readonly size: Bytes
  /** When it was released, or last looked at. */
  readonly since: EpochMs
}

/** A transaction: writes that are committed all or none. They are called with facts, and read nothing. */
export type MetadataTransaction = NameWrites & BlobWrites & UpstreamAnswerWrites & QueueWrites

export interface NameWrites {
  putRepository(repository: RepositoryKey, servedAt: EpochMs): void
  putManifest(
    repository: RepositoryKey,
    digest: Digest,
    size: Bytes,
    content: ManifestContent,
    at: EpochMs,
  ): void
  /** Its manifest is no longer released, and the answer that upstream has no such tag is forgotten. */
  putTag(repository: RepositoryKey, record: TagRecord): void
  /** Sets `checkedAt`, if the tag still names `digest`. */
  confirmTag(repository: RepositoryKey, tag: Tag, digest: Digest, checkedAt: EpochMs): void
  /** Makes the tag a tombstone; a no-op when it is unknown. */
  buryTag(repository: RepositoryKey, tag: Tag, deletedAt: EpochMs): void
  /** Forgets the tag. A manifest that no tag of the repository names then is released: collected in the end. */
  deleteTag(repository: RepositoryKey, tag: Tag, at: EpochMs): void
  /** A client was just told that it is here: it stays for another grace period. A no-op when it is not held. */
  touchManifest(repository: RepositoryKey, digest: Digest, at: EpochMs): void
  /**
   * Deletes it with all its tags, and releases the manifests that it references and its referrers.
   *
   * @param storedBy only if it was last pushed, or said to be here, by then
   */
  deleteManifest(repository: RepositoryKey, digest: Digest, at: EpochMs, storedBy?: EpochMs): void
  /** Forgets it, without its tags, and releases nothing, for another manifest references the same. */
  dropManifest(repository: RepositoryKey, digest: Digest): void
  /** Makes the repository a tombstone: its name stays taken, everything that it held is released. */
  buryRepository(repository: RepositoryKey, deletedAt: EpochMs): void
  /** Forgets even the tombstone: the name is free again. */
  releaseRepository(repository: RepositoryKey): void
}

export interface BlobWrites {
  linkBlob(repository: RepositoryKey, digest: Digest, size: Bytes, at: EpochMs): void
  /** Links the blob only if the index knows it: a link brings no bytes. */
  linkKnownBlob(repository: RepositoryKey, digest: Digest, at: EpochMs): void
  /** A client was just told that it is here: it stays for another grace period. A no-op when it is not linked. */
  touchBlob(repository: RepositoryKey, digest: Digest, at: EpochMs): void
  /** @param linkedAt only if it was last linked, or touched, then */
  unlinkBlob(repository: RepositoryKey, digest: Digest, linkedAt?: EpochMs): void
  /** Records that `registry` gave these bytes. */
  recordDelivery(registry: string, digest: Digest, size: Bytes, at: EpochMs): void
  /** Records that the bytes are here. As every write that says so, it ends their quarantine. */
  recordBlob(digest: Digest, size: Bytes, at: EpochMs): void
  /** Records that these were read from end to end, and are what their digests say. */
  markChecked(digests: readonly Digest[], at: EpochMs): void
  /**
   * Records that pushed bytes are damaged, or gone. A no-op when no local repository holds them; the quarantine ends
   * when the last one lets go.
   *
   * @param damage `path` is where the rest was put aside; undefined: there was none. An earlier quarantine keeps its
   *   date, and where there is no rest now, its path.
   */
  putQuarantine(
    digest: Digest,
    damage: { readonly size: Bytes; readonly path: string | undefined },
    at: EpochMs,
  ): void
  /** A no-op when it is unknown, or was pulled later. */
  markPulled(digest: Digest, at: EpochMs): void
  /** Forgets a blob whose file is gone or torn, or is about to be deleted. */
  forgetBlob(digest: Digest): void
}

export interface UpstreamAnswerWrites {
  /** Replaces the answer that this question had before. */
  putUpstreamAnswer(
    repository: RepositoryKey,
    question: UpstreamQuestion,
    answer: NewUpstreamAnswer,
    at: EpochMs,
  ): void
  /** Records that upstream said the same again. A no-op when there is no answer, or its body came at another time. */
  confirmUpstreamAnswer(
    repository: RepositoryKey,
    question: UpstreamQuestion,
    storedAt: EpochMs,
    checkedAt: EpochMs,
  ): void
  forgetUpstreamAnswer(repository: RepositoryKey, question: UpstreamQuestion): void
  /**
   * Forgets answers until the rest weighs no more than that: first those about nothing that is here, then those that
   * were confirmed longest ago.
   */
  trimUpstreamAnswers(toWeight: Bytes): void
}

export interface QueueWrites {
  /** Keeps beside it only the newest ones, of those that were finished after `before`. */
  putFinishedUpload(session: string, upload: FinishedUpload, before: EpochMs): void
  /** The events get their numbers in this order, after all that were committed before. */
  queueEvents(events: readonly { readonly endpoint: string; readonly body: string }[], at: EpochMs): void
  /** Drops events of that end-point with a number of at most `upTo`. */
  dropEvents(endpoint: string, upTo: number): void
}

export interface MetadataStore {
  readonly repositories: RepositoryIndex
  readonly tags: TagIndex
  readonly manifests: ManifestIndex
  readonly blobs: BlobIndex
  readonly events: EventQueue
  readonly garbage: GarbageIndex
  readonly eviction: EvictionIndex
  readonly inventory: InventoryIndex
  readonly upstreamAnswers: UpstreamAnswerIndex
  readonly finishedUploads: FinishedUploadIndex
  readonly audit: AuditIndex
  readonly scrub: ScrubIndex
  /** Sees all that was committed before the call, and nothing of what comes later. */
  snapshot(): Promise<LocalSnapshot>
  /** When this index came into being: it cannot know the files that were there before. */
  createdAt(): Promise<EpochMs>
  /**
   * Commits what `fill` says, durably, in one transaction. `fill` is called once, synchronously; what several callers
   * queue meanwhile shares one sync (group commit).
   */
  transaction(fill: (tx: MetadataTransaction) => void): Promise<void>
  close(): Promise<void>
}
