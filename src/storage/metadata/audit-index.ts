/**
 * Audit of the storage: the index from end to end, and the files whatever they hold.
 *
 * Each list is what one moment holds, in pages; a repair looks again under the locks that pushes take.
 */
import type { Bytes } from '../../base/units.ts'
import type { Digest } from '../../oci/digest.ts'
import type { RepositoryName, Tag } from '../../oci/reference.ts'
import type { ChildDescriptor, EpochMs, StoredManifest, ReferenceIndex, RepositoryKey } from './metadata.ts'

/** Bytes that the index speaks of. */
export interface KnownBlob {
  readonly digest: Digest
  /** undefined: it does not say. */
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
  /** Faults of the database itself, in its own words; where there is one, nothing else that it says can be believed. */
  problems(): Promise<readonly string[]>
  totals(): Promise<{ readonly blobs: number; readonly bytes: Bytes }>
  /** Every digest that the index speaks of as bytes that are here. Lexical, those after `last`. */
  digests(page: { readonly last: Digest | undefined; readonly limit: number }): Promise<KnownBlob[]>
  digest(digest: Digest): Promise<KnownBlob | undefined>
  /** By digest, then by repository: those after `last`. */
  manifests(page: {
    readonly last: Pick<HeldManifest, 'digest' | 'repository'> | undefined
    readonly limit: number
  }): Promise<HeldManifest[]>
  /** References of the manifest that its repository does not hold; none when the manifest is not there either. */
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
   * Blobs that were checked before `before`, the longest ago first; where there are none, those that were checked after
   * `after`: then the clock was wrong.
   */
  due(
    time: { readonly before: EpochMs; readonly after: EpochMs },
    limit: number,
  ): Promise<{ readonly digest: Digest; readonly checkedAt: EpochMs }[]>
  /** When the blob was checked whose check is longest ago. */
  oldestCheck(): Promise<EpochMs | undefined>
  /** All of them; the oldest first, no more than `limit`. */
  quarantined(limit: number): Promise<{ readonly count: number; readonly first: readonly QuarantinedBlob[] }>
}

interface QuarantinedBlob {
  readonly digest: Digest
  readonly foundAt: EpochMs
  /** Where the rest of it was put aside, below the root; undefined: there is no such file. */
  readonly path: string | undefined
}

/** The local repositories as the index has them at one moment, whatever is written meanwhile. */
export interface LocalSnapshot extends Pick<ReferenceIndex, 'references'>, AsyncDisposable {
  /** Repositories that were emptied or deleted are among them: their names are taken. */
  repositories(): Promise<{ readonly name: RepositoryName; readonly deletedAt: EpochMs | undefined }[]>
  tags(name: RepositoryName): Promise<{ readonly tag: Tag; readonly digest: Digest }[]>
  manifests(name: RepositoryName): Promise<StoredManifest[]>
  /** The blobs that it may read; `size` is undefined where the index does not say. */
  links(name: RepositoryName): Promise<{ readonly digest: Digest; readonly size: Bytes | undefined }[]>
}

export type Checked =
  | { readonly is: 'absent' }
  | { readonly is: 'sound' | 'corrupt'; readonly size: Bytes; readonly file: FileIdentity }
  /** Something that is no file is in its place, or its disk has lost it: another look would tell no more. */
  | { readonly is: 'no file' | 'lost'; readonly why: string }
  /** Whether its bytes are right cannot be told now. */
  | { readonly is: 'unreadable'; readonly why: string }

/** The same text: the same file, and nobody has written to it since. */
export type FileIdentity = string

/** The files, as they are. */
export interface BlobAudit {
  /**
   * Reads all of it.
   *
   * @param options.resting reads half of the time only, for the sake of everybody else
   * @param options.read told of every piece that was read; the next one is read when what it returns has resolved
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
   * Takes whatever lies there away from where it would be served, and keeps it. The digest's lock must be held.
   *
   * @returns where it is now, below the root; undefined when there was none
   */
  quarantine(digest: Digest): Promise<string | undefined>
  quarantined(): Promise<{ readonly digest: Digest; readonly path: string; readonly size: Bytes }[]>
  /** Whatever lies among the blobs and is none, by its path below the root. */
  foreign(): AsyncIterable<string>
  /** Partial files. */
  leftovers(): Promise<Readonly<Record<'uploads' | 'downloads' | 'others', Leftovers>>>
}

export interface Leftovers {
  readonly files: number
  readonly bytes: Bytes
}
