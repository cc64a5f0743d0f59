/**
 * Ingest of one download or upload: a local file that is hashed while it is written and readable while it grows.
 *
 * Nothing is visible as a blob until `BlobStore.adopt` took it. Extents may be written in any order; only the prefix
 * is hashed. A sidecar beside the file records what was *synced*, and only that counts after a crash. Mirror fills
 * and pushes share it, so digests are verified in one place.
 */
import type { Bytes } from '../../base/units.ts'
import type { Digest, DigestAlgorithm } from '../../oci/digest.ts'
import type { RepositoryName } from '../../oci/reference.ts'

/** A growing file as its followers read it; another process's fill could stand behind it one day. */
export interface GrowingSource {
  /** End of the contiguous bytes that are readable from `position` on; `position` itself when there are none. */
  readableTo(position: Bytes): Bytes
  /** Positional read within what {@link readableTo} promised; resolves to bytes read, never 0 there. */
  read(buffer: Buffer, position: Bytes): Promise<Bytes>
  /** Present when the bytes are in a file of this machine; valid while the file is retained. */
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
  /** Calls fdatasync, unless nothing was written since the last. */
  sync(): Promise<void>
  /**
   * The BlobStore calls it once nothing is left at `path`: ends the ingest and removes its sidecars.
   *
   * @param known false: the index may not have heard of the blob
   */
  adopted(known: boolean): Promise<void>
}

export interface Ingest extends GrowingSource {
  readonly identity: IngestIdentity
  /** End of the contiguous bytes from 0. */
  readonly prefix: Bytes
  /** Start of the first extent at or after `position`; where a download must stop. Infinity: none. */
  nextExtent(position: Bytes): Bytes
  /** Bytes that an earlier process or fill had left on the disk when this ingest was opened. */
  readonly inherited: Bytes
  /**
   * Takes ownership of the buffers. Resolves when they are in the page cache and `readableTo` counts them.
   * Backpressure: it waits while the hasher is far behind. Concurrent calls must not overlap.
   *
   * @throws the system's error (ENOSPC, EROFS, EIO …); the ingest then takes no more
   */
  write(chunks: readonly Buffer[], position: Bytes): Promise<void>
  /**
   * Waits for the hash of [0, size) and compares. The prefix must be `size` long.
   *
   * @param signal ends the wait of an ingest in memory that holds only a range, and so has nothing to compare
   * @returns undefined when the digest is another
   */
  verify(size: Bytes, signal?: AbortSignal): Promise<VerifiedFile | undefined>
  /** Each follower calls it to read: the file is closed when the ingest has ended and the last follower has gone. */
  retain(): Disposable
  /** Syncs and leaves the partial for a later process (or a later fill of this one). Ends this ingest. */
  keep(): Promise<void>
  /** From now on nothing of it outlives the ingest: {@link keep} discards it, and no more sidecars are written. */
  disown(): void
  /** Removes the partial. Ends this ingest; what was retained stays readable. A no-op after adopt. */
  discard(): Promise<void>
  /**
   * Backpressure of an ingest in memory, which keeps buffers until they are read: waits for a follower far behind.
   *
   * @returns false when the follower takes nothing for so long that another fill may have upstream's connection
   * @throws the signal's reason
   */
  drained?(signal: AbortSignal): Promise<boolean>
}

/** An upload session; the client tells its digest at the end. */
export interface UploadIdentity {
  /** `<replica>.<22 random characters of base64url>`; part of a file's name. */
  readonly session: string
  readonly repository: RepositoryName
  /** The expected algorithm of the digest: a digest of another one costs a second read of the file. */
  readonly algorithm: DigestAlgorithm
}

/**
 * The bytes of an upload session, from 0 on without gaps.
 *
 * They survive the process, in whatever way it is killed; a power cut takes those that were not synced.
 */
export interface UploadIngest extends Pick<Ingest, 'prefix' | 'write' | 'read' | 'discard'> {
  readonly identity: UploadIdentity
  /** Truncates the session to `to`; no write may be running. @throws the system's error */
  rewind(to: Bytes): Promise<void>
  /** Like {@link Ingest.verify}, for all that was written. */
  verifyAs(digest: Digest): Promise<VerifiedFile | undefined>
  /**
   * Syncs and leaves the session, even without bytes, for {@link IngestStore.openUpload}. Ends this ingest.
   *
   * @param stranded the disk had no room for the rest: this session is dropped first when others need space
   */
  keep(stranded?: boolean): Promise<void>
}

/** An upload that became a blob which the index may not know: the process died in between, or the index failed. */
export interface AdoptedUpload {
  readonly repository: RepositoryName
  readonly digest: Digest
}

/** A partial download on the disk. */
export interface PartialDownload extends IngestIdentity {
  /** Disk space of the file; holes take none. */
  readonly bytes: Bytes
  /** Since when it has no writer; undefined while it has one. */
  readonly idleSince: number | undefined
  /** The file is removed when its last follower has gone. */
  readonly disowned: boolean
}

/** A partial upload on the disk. */
export interface PartialUpload extends UploadIdentity {
  readonly bytes: Bytes
  /** Since when it has no writer; undefined while it has one, which may pause. */
  readonly idleSince: number | undefined
  readonly stranded: boolean
}

/** Store of all ingests and their partial files. */
export interface IngestStore {
  /** Makes a session, which survives the process from now on; no other may have its name. */
  createUpload(identity: UploadIdentity): Promise<UploadIngest>
  /**
   * Resumes a session that was kept, or that an earlier process left: its prefix is hashed again, behind the writer.
   *
   * @returns undefined when that repository has no such session, or another request has it open
   */
  openUpload(session: string, repository: RepositoryName): Promise<UploadIngest | undefined>
  adoptedUpload(session: string): AdoptedUpload | undefined
  /** Called once the index knows the blob of {@link adoptedUpload}. */
  forgetAdopted(session: string): Promise<void>
  /**
   * Opens a new download, or the one that an earlier process left (its prefix is hashed again, behind the writer).
   * `fresh` never inherits.
   */
  open(identity: IngestIdentity, options?: { fresh?: boolean }): Promise<Ingest>
  downloads(): PartialDownload[]
  uploads(): PartialUpload[]
  /** Removes the partial file, unless it has a writer. @returns the disk space that was freed */
  dropUpload(session: string): Promise<Bytes>
  /** Removes the partial file, unless it has a writer. @returns the disk space that was freed */
  dropDownload(identity: IngestIdentity): Promise<Bytes>
  /** Bytes on disk of all partial files. */
  readonly bytes: Bytes
  close(): Promise<void>
}
