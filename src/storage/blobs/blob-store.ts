/**
 * Verified bytes by digest. Nothing unverified ever becomes visible here.
 */
import type { Bytes } from '../../base/units.ts'
import type { Digest } from '../../oci/digest.ts'
import type { VerifiedFile } from '../ingest/ingest.ts'

/** Milliseconds since 1970. */
type EpochMs = number

export interface BlobInfo {
  readonly digest: Digest
  readonly size: Bytes
}

/** As the list tells of it. */
export interface ListedBlob extends BlobInfo {
  /** By the clock of the disk. */
  readonly writtenAt: EpochMs
}

export interface BlobStore {
  /** `undefined` also when the file is there but unreadable as a blob (a folder, a wrong name). */
  stat(digest: Digest): Promise<BlobInfo | undefined>
  /** The reader survives a later `delete`. The caller disposes it. */
  open(digest: Digest): Promise<BlobReader | undefined>
  /**
   * Makes the file the blob `file.digest`: synced, renamed, its folder synced, in that order. Atomic and
   * idempotent; consumes the file. Durable when it resolves.
   *
   * @param commit what makes it known; when a full disk keeps it from that, the file goes back to its ingest, unless
   *   the blob was here before
   */
  adopt(file: VerifiedFile, commit?: () => Promise<void>): Promise<BlobInfo>
  delete(digest: Digest): Promise<void>
  list(): AsyncIterable<ListedBlob>
}

export interface BlobReader extends AsyncDisposable {
  readonly size: Bytes
  /** Of a file of this machine, for as long as the reader is not disposed. */
  readonly descriptor?: number | undefined
  /** Positional read; resolves to the bytes read, 0 only at or after the end. */
  read(buffer: Buffer, position: Bytes): Promise<Bytes>
}

/**
 * Bytes in order, for one response. What `http/` pumps, wherever they come from: a finished blob, a growing
 * file, a stream that could not be cached.
 */
export interface ByteSource extends AsyncDisposable {
  /**
   * Fills at most `buffer.length` bytes; waits while there is nothing yet. 0 is the end.
   *
   * @throws when the rest can never come (or must not: a digest that did not verify); the response must
   *   then be broken off, never ended
   */
  read(buffer: Buffer, signal: AbortSignal): Promise<Bytes>
  /** Where all of it lies in a file that does not change, while that is so; then nobody calls {@link read}. */
  readonly stored?: StoredRange | undefined
  /** Of bytes that are still coming into a file. */
  readonly growing?: GrowingRange | undefined
}

/** What may be given out of a growing file without being read; the source goes on where that ends. */
export interface GrowingRange {
  /**
   * What is there now, from where the source is on; waits while there is nothing. The promise holds for what is sent
   * at once: ask again then.
   *
   * @returns undefined when it is in no file (any more), and has to be read
   * @throws like {@link ByteSource.read}
   */
  there(signal: AbortSignal): Promise<StoredRange | undefined>
  /** So many bytes of it have been given out. */
  took(count: Bytes): void
}

/** A part of a file that does not change, as long as whoever gave it is not disposed. */
export interface StoredRange {
  readonly descriptor: number
  readonly start: Bytes
  /** Exclusive. */
  readonly end: Bytes
  /** Positional, in the file. */
  read(buffer: Buffer, position: Bytes): Promise<Bytes>
}
