/**
 * Audit of the storage: the index from end to end, and the files whatever they hold.
 *
 * A page shows the index at one moment; a repair looks again under the locks that pushes take.
 */
import type { Bytes } from '../../base/units.ts'
import type { Digest } from '../../oci/digest.ts'
import type { RepositoryName, Tag } from '../../oci/reference.ts'
import type { ChildDescriptor, EpochMs, StoredManifest, ReferenceIndex, RepositoryKey } from './metadata.ts'

/** A digest that the index knows as bytes. */
export interface KnownBlob {
  readonly digest: Digest
  /** undefined: the index does not say. */
  readonly size: Bytes | undefined
  /** A local repository holds it. */
  readonly pushed: boolean
  /** An upstream gave it. */
  readonly mirrored: boolean
}

export interface HeldManifest extends StoredManifest {
  readonly repository: RepositoryKey
}

export interface AuditIndex extends ReferenceIndex {
  /** Faults of the database itself, in its own words; with any, nothing else that the index says can be trusted. */
  problems(): Promise<readonly string[]>
  totals(): Promise<{ readonly blobs: number; readonly bytes: Bytes }>
  /** Digests of all bytes that the index says are here. Lexical, those after `last`. */
  digests(page: { readonly last: Digest | undefined; readonly limit: number }): Promise<KnownBlob[]>
  digest(digest: Digest): Promise<KnownBlob | undefined>
  /** By digest, then by repository: those after `last`. */
  manifests(page: {
    readonly last: Pick<HeldManifest, 'digest' | 'repository'> | undefined
    readonly limit: number
  }): Promise<HeldManifest[]>
  /** References of the manifest that its repository does not hold; none when the manifest is absent too. */
  lacking(repository: RepositoryKey, manifest: Digest): Promise<ChildDescriptor[]>
  /** Tags of local repositories that name no manifest there. */
  danglingTags(): AsyncIterable<{
    readonly repository: RepositoryKey
    readonly tag: Tag
    readonly digest: Digest
    readonly mediaType: string
  }>
}

/** When blobs were last checked, and which were found damaged. */
export interface ScrubIndex {
  /**
   * Blobs that were checked before `before`, the longest ago first; if there are none, those that a wrong clock says
   * were checked after `after`.
   */
  due(
    time: { readonly before: EpochMs; readonly after: EpochMs },
    limit: number,
  ): Promise<{ readonly digest: Digest; readonly checkedAt: EpochMs }[]>
  /** The time of the check that is longest ago. */
  oldestCheck(): Promise<EpochMs | undefined>
  /** The count of all, and the oldest, no more than `limit`. */
  quarantined(limit: number): Promise<{ readonly count: number; readonly first: readonly QuarantinedBlob[] }>
}

interface QuarantinedBlob {
  readonly digest: Digest
  readonly foundAt: EpochMs
  /** Path below the root of the file that was put aside; undefined: there is none. */
  readonly path: string | undefined
}

/** The local repositories as the index has them at one moment, whatever is written meanwhile. */
export interface LocalSnapshot extends Pick<ReferenceIndex, 'references'>, AsyncDisposable {
  /** Repositories that were emptied or deleted are among them: their names are taken. */
  repositories(): Promise<{ readonly name: RepositoryName; readonly deletedAt: EpochMs | undefined }[]>
  tags(name: RepositoryName): Promise<{ readonly tag: Tag; readonly digest: Digest }[]>
  manifests(name: RepositoryName): Promise<StoredManifest[]>
  /** The blobs that the repository may read; `size` is undefined where the index does not say. */
  links(name: RepositoryName): Promise<{ readonly digest: Digest; readonly size: Bytes | undefined }[]>
}

export type Checked =
  | { readonly is: 'absent' }
  | { readonly is: 'sound' | 'corrupt'; readonly size: Bytes; readonly file: FileIdentity }
  /** Something that is no file is in its place, or its disk has lost it: another check would tell no more. */
  | { readonly is: 'no file' | 'lost'; readonly why: string }
  /** Whether its bytes are right cannot be told now. */
  | { readonly is: 'unreadable'; readonly why: string }

/** Equal for two looks at one file that nothing has written to in between. */
export type FileIdentity = string

export interface BlobAudit {
  /**
   * Hashes the whole file.
   *
   * @param options.resting reads half of the time only, which leaves the disk to others
   * @param options.read is called after each piece; the next one is read when its promise has resolved
   */
  check(
    digest: Digest,
    options: {
      readonly signal: AbortSignal
      readonly resting: boolean
      readonly read?: (count: Bytes) => void | Promise<void>
    },
  ): Promise<Checked>
  /** Identity of the file in its place, without a look at the bytes; undefined: there is nothing, or no file. */
  identify(digest: Digest): Promise<FileIdentity | undefined>
  /**
   * Moves whatever lies in the blob's place to the quarantine. The caller must hold the digest's lock.
   *
   * @returns its new path below the root; undefined when there was nothing
   */
  quarantine(digest: Digest): Promise<string | undefined>
  quarantined(): Promise<{ readonly digest: Digest; readonly path: string; readonly size: Bytes }[]>
  /** Paths below the root of what lies among the blobs and is none. */
  foreign(): AsyncIterable<string>
  /** Counts of partial files. */
  leftovers(): Promise<Readonly<Record<'uploads' | 'downloads' | 'others', Leftovers>>>
}

export interface Leftovers {
  readonly files: number
  readonly bytes: Bytes
}
