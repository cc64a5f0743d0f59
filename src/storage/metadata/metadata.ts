/**
 * Metadata store: what the bytes are called, in narrow indexes of which a consumer asks only for those it needs.
 *
 * SQL is the truth about names, the BlobStore about bytes. A repository is (registry, name): the same path on
 * two upstreams never collides. `registry` is the upstream's key, or {@link LOCAL} for what was pushed here.
 * Reads see what was committed; a write resolves when it is durable.
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
  /** Upstream said it is gone; the last digest is kept, the tag does not answer. */
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
   * What can be pulled here, by the name it is pulled under: local ones as they are, mirrored ones behind their
   * registry's key (`docker.io/library/nginx`). Lexical, without tombstones and those of which nothing is here.
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

/** The graph of manifests: what each references, and by which a digest is referenced; several indexes answer that. */
export interface ReferenceIndex {
  /** Everything that the manifest names, config first, in its order. */
  references(manifest: Digest): Promise<ChildDescriptor[]>
  /** Manifests that name the digest: of any repository, or of one; in any role, or as a manifest. */
  referencedBy(
    digest: Digest,
    among: { readonly repository?: RepositoryKey; readonly role?: 'manifest'; readonly limit?: number },
  ): Promise<Digest[]>
  /**
   * Manifests of every repository that are the digest, or lead to it in at most so many references, with their tags.
   *
   * @param limit of tags, and of manifests that have none
   */
  taggedManifests(digest: Digest, steps: number, limit?: number): Promise<TaggedManifest[]>
  /** Repositories that may read it as a blob, whoever gave it to them. */
  linkedIn(digest: Digest): Promise<RepositoryKey[]>
}

/** A manifest of one repository, and the tags that name it there. */
export interface TaggedManifest {
  readonly repository: RepositoryKey
  readonly manifest: Digest
  readonly tags: readonly Tag[]
}

export interface ManifestIndex extends Pick<ReferenceIndex, 'references'> {
  /** That this repository holds it; the bytes are in the BlobStore. */
  get(repository: RepositoryKey, digest: Digest): Promise<StoredManifest | undefined>
  /** Those that this repository holds, tagged or not. Lexical. */
  list(repository: RepositoryKey, page: Page): Promise<Digest[]>
  /** The descriptor by which a manifest *of this repository* references that digest, and as what. */
  descriptor(repository: RepositoryKey, digest: Digest): Promise<ChildDescriptor | undefined>
  /** Manifests of this repository whose subject is `subject`. */
  referrers(repository: RepositoryKey, subject: Digest): Promise<Descriptor[]>
}

export interface ChildDescriptor extends Descriptor {
  readonly role: 'config' | 'layer' | 'manifest'
}

export interface BlobIndex {
  /** That this repository may read it. */
  linked(repository: RepositoryKey, digest: Digest): Promise<boolean>
  /** When it was last uploaded, mounted, or said to be here; undefined when it is not linked. */
  linkedAt(repository: RepositoryKey, digest: Digest): Promise<EpochMs | undefined>
  /** That this upstream delivered those bytes to us, under whatever name. */
  deliveredBy(registry: string, digest: Digest): Promise<boolean>
  /** Size of the bytes that were verified, whatever has become of their file; undefined when nobody linked them. */
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
  /** The oldest ones, those with a higher number than `after`. */
  next(endpoint: string, limit: number, after?: number): Promise<readonly QueuedEvent[]>
  count(endpoint: string): Promise<number>
  /** All that something waits for. */
  endpoints(): Promise<readonly string[]>
  /** Calls `listener` after each commit that queued something, until it is disposed. */
  onQueued(listener: () => void): Disposable
}

export interface QueuedEvent {
  readonly id: number
  readonly body: string
  readonly queuedAt: EpochMs
}

/** Things that nothing references any more. Lists come in parts, each of which is little work. */
export interface GarbageIndex extends ReferenceIndex {
  /**
   * Manifests of local repositories that were let go before `before`: no tag and no index there names them, and
   * what they refer to is gone. Nor were they pushed, or said to be here, after it.
   */
  manifests(before: EpochMs, from?: GarbagePlace): Promise<GarbagePart>
  /** Blobs of local repositories, last uploaded, mounted or looked at before `before`, that no manifest there names. */
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

/** Where a part of a list ends, and the next begins. */
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
  /** When it was let go, or last looked at. */
  readonly since: EpochMs
}

/** All that is written together or not at all. It is called with the facts; it reads nothing. */
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
  /** A manifest that a tag names is not released any more. That upstream had no such tag is forgotten. */
  putTag(repository: RepositoryKey, record: TagRecord): void
  /** `checkedAt` of a tag that still names `digest`. */
  confirmTag(repository: RepositoryKey, tag: Tag, digest: Digest, checkedAt: EpochMs): void
  /** A tombstone; nothing when the tag is unknown. */
  buryTag(repository: RepositoryKey, tag: Tag, deletedAt: EpochMs): void
  /** Forgets it. A manifest that no tag of the repository names then is released: collected in the end. */
  deleteTag(repository: RepositoryKey, tag: Tag, at: EpochMs): void
  /** It was just said to be here, so it stays for another grace period. Nothing when it is not held. */
  touchManifest(repository: RepositoryKey, digest: Digest, at: EpochMs): void
  /**
   * With all its tags. Manifests it names, and those that refer to it, are let go with it.
   *
   * @param storedBy only if it was last pushed, or said to be here, by then
   */
  deleteManifest(repository: RepositoryKey, digest: Digest, at: EpochMs, storedBy?: EpochMs): void
  /** Forgets it, without its tags; nothing is let go with it, for another manifest names the same. */
  dropManifest(repository: RepositoryKey, digest: Digest): void
  /** A tombstone for the whole repository: its name stays taken, everything it held is let go. */
  buryRepository(repository: RepositoryKey, deletedAt: EpochMs): void
  /** Forgets even the tombstone: the name is free again. */
  releaseRepository(repository: RepositoryKey): void
}

export interface BlobWrites {
  linkBlob(repository: RepositoryKey, digest: Digest, size: Bytes, at: EpochMs): void
  /** Only where the blob is known to be here: a link does not bring it. */
  linkKnownBlob(repository: RepositoryKey, digest: Digest, at: EpochMs): void
  /** It was just said to be here, so it stays for another grace period. Nothing when it is not linked. */
  touchBlob(repository: RepositoryKey, digest: Digest, at: EpochMs): void
  /** @param linkedAt only if it was last linked, or touched, then */
  unlinkBlob(repository: RepositoryKey, digest: Digest, linkedAt?: EpochMs): void
  /** `registry` gave us these bytes. */
  recordDelivery(registry: string, digest: Digest, size: Bytes, at: EpochMs): void
  /** That its bytes are here, and so many. As with all that says so, a quarantine ends with it. */
  recordBlob(digest: Digest, size: Bytes, at: EpochMs): void
  /** These were read from end to end, and are what their digests say. */
  markChecked(digests: readonly Digest[], at: EpochMs): void
  /**
   * Pushed bytes are damaged, or gone. Nothing when nobody has it pushed any more; it ends when the last lets go.
   *
   * @param damage `path` is where what is left of it was put aside; undefined: there was nothing. The date of an
   *   earlier one stays, and where nothing is left now, its place as well.
   */
  putQuarantine(
    digest: Digest,
    damage: { readonly size: Bytes; readonly path: string | undefined },
    at: EpochMs,
  ): void
  /** Nothing when it is not known, or was pulled later. */
  markPulled(digest: Digest, at: EpochMs): void
  /** After a blob's file turned out to be gone or torn. */
  forgetBlob(digest: Digest): void
}

export interface UpstreamAnswerWrites {
  /** In place of the answer that this question had before. */
  putUpstreamAnswer(
    repository: RepositoryKey,
    question: UpstreamQuestion,
    answer: NewUpstreamAnswer,
    at: EpochMs,
  ): void
  /** Upstream has said the same again. Nothing when there is no answer, or when its body came at another time. */
  confirmUpstreamAnswer(
    repository: RepositoryKey,
    question: UpstreamQuestion,
    storedAt: EpochMs,
    checkedAt: EpochMs,
  ): void
  forgetUpstreamAnswer(repository: RepositoryKey, question: UpstreamQuestion): void
  /**
   * Forgets until the rest weighs no more than that: first what is about nothing that is here, then what was confirmed
   * longest ago.
   */
  trimUpstreamAnswers(toWeight: Bytes): void
}

export interface QueueWrites {
  /** Beside it only the newest ones are kept, and of them those that were finished after `before`. */
  putFinishedUpload(session: string, upload: FinishedUpload, before: EpochMs): void
  /** They get their numbers in this order, after all that were committed before. */
  queueEvents(events: readonly { readonly endpoint: string; readonly body: string }[], at: EpochMs): void
  /** Events of that end-point with a number of at most `upTo`. */
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
  /** It has all that was committed before the call, and nothing of what comes later. */
  snapshot(): Promise<LocalSnapshot>
  /** When this index came into being: it cannot know the files that were there before. */
  createdAt(): Promise<EpochMs>
  /**
   * Commits what `fill` says, durably, in one transaction. `fill` is called once, synchronously; what several
   * callers queue meanwhile shares one sync.
   */
  transaction(fill: (tx: MetadataTransaction) => void): Promise<void>
  close(): Promise<void>
}
