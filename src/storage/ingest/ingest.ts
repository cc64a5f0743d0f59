/**
 * Bytes on their way in: one local file, hashed while it is written, readable while it grows.
 *
 * Nothing here is visible as a blob until `BlobStore.adopt` took it. Extents may be written in any order; the
 * prefix [0, n) is what is hashed. A sidecar beside the file records what was *synced*, so that after a crash
 * only that counts. Shared by mirror fills and pushes: digest verification exists exactly once.
 */
import type { Bytes } from '../../base/units.ts'
import type { Digest, DigestAlgorithm } from '../../oci/digest.ts'
import type { RepositoryName } from '../../oci/reference.ts'

/** What followers depend on; another process's fill could stand behind it one day. */
export interface GrowingSource {
  /** End of the contiguous bytes that are readable from `position` on; `position` itself when there are none. */
  readableTo(position: Bytes): Bytes
  /** Positional read within what {@link readableTo} promised; resolves to bytes read, never 0 there. */
  read(buffer: Buffer, position: Bytes): Promise<Bytes>
  /** Of a file of this machine, for as long as it is retained. */
  readonly descriptor?: number | undefined
}

/** Which download a partial file belongs to: bytes of one upstream are never mixed with another's. */
export interface IngestIdentity {
  /** Upstream key, or `local` for pushes. */
  readonly source: string
  readonly digest: Digest
}

declare const verified: unique symbol
/** Only `Ingest.verify` makes one. */
export interface VerifiedFile {
  readonly [verified]: true
  readonly digest: Digest
  readonly size: Bytes
  readonly path: string
  /** fdatasync, unless nothing was written since the last. */
  sync(): Promise<void>
  /**
   * For the BlobStore, once nothing is left at `path`: ends the ingest and removes what belonged to it.
   *
   * @param known false: it is not certain that the index has heard of the blob
   */
  adopted(known: boolean): Promise<void>
}

export interface Ingest extends GrowingSource {
  readonly identity: IngestIdentity
  /** End of the contiguous bytes from 0. */
  readonly prefix: Bytes
  /** Start of the first extent at or after `position`; where a download must stop. Infinity: none. */
  nextExtent(position: Bytes): Bytes
  /** Bytes that were on disk when this ingest was opened: left by an earlier process. */
  readonly inherited: Bytes
  /**
   * Takes ownership of the buffers. Resolves when they are in the page cache and `readableTo` counts them.
   * Slows down while the hasher is far behind. Concurrent calls must not overlap.
   *
   * @throws the system's error (ENOSPC, EROFS, EIO …); the ingest then takes no more
   */
  write(chunks: readonly Buffer[], position: Bytes): Promise<void>
  /**
   * Waits for the hash of [0, size) and compares. The prefix must be `size` long.
   *
   * @param signal ends the wait where there is nothing to compare
   * @returns undefined when the digest is another
   */
  verify(size: Bytes, signal?: AbortSignal): Promise<VerifiedFile | undefined>
  /** Followers that read it; the file is closed when it is finished and the last has gone. */
  retain(): Disposable
  /** Syncs and leaves the partial for a later process (or a later fill of this one). Ends this ingest. */
  keep(): Promise<void>
  /** Nothing of it is to outlive it from now on: what would be kept is discarded, and nothing more is synced. */
  disown(): void
  /** Removes the partial. Ends this ingest; what was retained stays readable. A no-op after adopt. */
  discard(): Promise<void>
  /**
   * Back-pressure of an ingest in memory, which keeps its buffers until they are read: waits for a reader far behind.
   *
   * @returns false when the reader takes nothing for so long that somebody else may have upstream's connection
   * @throws the signal's reason
   */
  drained?(signal: AbortSignal): Promise<boolean>
}

/** An upload: its digest is told at its end. */
export interface UploadIdentity {
  /** `<replica>.<22 random characters of base64url>`; part of a file's name. */
  readonly session: string
  readonly repository: RepositoryName
  /** Its digest will probably be of this one; of another it takes a second reading. */
  readonly algorithm: DigestAlgorithm
}

/**
 * Bytes of an upload session, from 0 on without gaps.
 *
 * What was written outlives the process, killed in whatever way; a power cut, only as far as it was synced.
 */
export interface UploadIngest extends Pick<Ingest, 'prefix' | 'write' | 'read' | 'discard'> {
  readonly identity: UploadIdentity
  /** Takes back all that was written from `to` on; nobody may be writing. @throws the system's error */
  rewind(to: Bytes): Promise<void>
  /** Like {@link Ingest.verify}, of all that was written. */
  verifyAs(digest: Digest): Promise<VerifiedFile | undefined>
  /**
   * Syncs and leaves the session for {@link IngestStore.openUpload}, also without bytes. Ends this ingest.
   *
   * @param stranded there was no room for more of it: it is the first to go when somebody else needs some
   */
  keep(stranded?: boolean): Promise<void>
}

/** An upload whose bytes became a blob of which the index may not know: the process died in between, or the index failed. */
export interface AdoptedUpload {
  readonly repository: RepositoryName
  readonly digest: Digest
}

/** A part of a blob that is on the disk, as the disk sees it. */
export interface PartialDownload extends IngestIdentity {
  /** What the disk gives it; holes cost nothing. */
  readonly bytes: Bytes
  /** Since when nobody writes it; undefined: somebody does. */
  readonly idleSince: number | undefined
  /** It will not outlive those who read it. */
  readonly disowned: boolean
}

/** An upload that has bytes, as the disk sees it. */
export interface PartialUpload extends UploadIdentity {
  readonly bytes: Bytes
  /** Since when nobody writes it; undefined: somebody does, or may go on at any moment. */
  readonly idleSince: number | undefined
  readonly stranded: boolean
}

/** The folder of partial files. */
export interface IngestStore {
  /** A new session; there is no other of that name. It outlives the process from now on. */
  createUpload(identity: UploadIdentity): Promise<UploadIngest>
  /**
   * One that was kept, or that an earlier process left: its prefix is hashed again, behind the writer.
   *
   * @returns undefined when there is none of that repository, or somebody else has it open
   */
  openUpload(session: string, repository: RepositoryName): Promise<UploadIngest | undefined>
  adoptedUpload(session: string): AdoptedUpload | undefined
  /** Of {@link adoptedUpload}: the index knows. */
  forgetAdopted(session: string): Promise<void>
  /**
   * A new one, or the one an earlier process left (its prefix is hashed again, behind the writer).
   * `fresh` never inherits.
   */
  open(identity: IngestIdentity, options?: { fresh?: boolean }): Promise<Ingest>
  downloads(): PartialDownload[]
  uploads(): PartialUpload[]
  /** Of one that nobody writes. @returns what the disk got back */
  dropUpload(session: string): Promise<Bytes>
  /** Of one that nobody writes. @returns what the disk got back */
  dropDownload(identity: IngestIdentity): Promise<Bytes>
  /** Bytes on disk of all partial files. */
  readonly bytes: Bytes
  close(): Promise<void>
}
