/** Blob store: verified bytes by digest. Nothing unverified ever becomes visible here. */
import type { Bytes } from '../../base/units.ts'
import type { Digest } from '../../oci/digest.ts'
import type { VerifiedFile } from '../ingest/ingest.ts'

/** Milliseconds since 1970. */
type EpochMs = number

export interface BlobInfo {
  readonly digest: Digest
  readonly size: Bytes
}

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
   * Makes the file the blob `file.digest`: synced, renamed, its folder synced, in that order. Atomic and idempotent;
   * consumes the file. Durable when it resolves.
   *
   * @param commit writes the blob to the index; when a full disk prevents that, the file goes back to its ingest,
   *   unless the blob was here before
   */
  adopt(file: VerifiedFile, commit?: () => Promise<void>): Promise<BlobInfo>
  delete(digest: Digest): Promise<void>
  list(): AsyncIterable<ListedBlob>
  /**
   * The path of a blob's file below the folder of all blobs, for a reader on this machine that opens it by itself.
   * Absent in a store that keeps no files: its bytes are had by {@link open} alone.
   */
  readonly localName?: (digest: Digest) => string
}

export interface BlobReader extends AsyncDisposable {
  readonly size: Bytes
  /** Absent unless the bytes are in a file of this machine; open until the reader is disposed. */
  readonly descriptor?: number | undefined
  /** Positional read; resolves to the bytes read, 0 only at or after the end. */
  read(buffer: Buffer, position: Bytes): Promise<Bytes>
}

/** Bytes in order, for one response: of a finished blob, a growing file, or a stream that could not be cached. */
export interface ByteSource extends AsyncDisposable {
  /**
   * Fills at most `buffer.length` bytes; waits while there is nothing yet. 0 is the end.
   *
   * @throws when the rest can never come (or must not: a digest that did not verify); the response must
   *   then be broken off, never ended
   */
  read(buffer: Buffer, signal: AbortSignal): Promise<Bytes>
  /** The range of a file that has all bytes and does not change; a response sent from there reads nothing. */
  readonly stored?: StoredRange | undefined
  /** Present while the bytes are still written to a file. */
  readonly growing?: GrowingRange | undefined
}

/** Bytes that can be sent from a growing file without being read; {@link ByteSource.read} goes on where they end. */
export interface GrowingRange {
  /**
   * The bytes that are there now, from the source's position on; waits while there are none. The sender sends them at
   * once, then asks again.
   *
   * @returns undefined when the bytes are in no file (any more), and have to be read
   * @throws like {@link ByteSource.read}
   */
  there(signal: AbortSignal): Promise<StoredRange | undefined>
  /** The sender has sent `count` bytes. */
  took(count: Bytes): void
}

/** A part of a file that does not change until the source that gave it is disposed. */
export interface StoredRange {
  readonly descriptor: number
  readonly start: Bytes
  /** Exclusive. */
  readonly end: Bytes
  /** Positional, in the file. */
  read(buffer: Buffer, position: Bytes): Promise<Bytes>
}
