/**
 * The answers to a pull, before they become HTTP.
 *
 * Absent is `undefined`; a throw is an OciError (the client gets it as it is) or a bug.
 */
import type { Bytes } from '../base/units.ts'
import type { Digest } from '../oci/digest.ts'
import type { ByteSource } from '../storage/blobs/blob-store.ts'
import type { CacheMarks, CacheStatus } from './cache-status.ts'

export interface ManifestHead extends CacheMarks {
  readonly digest: Digest
  readonly size: Bytes
  readonly mediaType: string
}

export interface ManifestAnswer extends ManifestHead {
  readonly bytes: Buffer
}

export interface BlobHead {
  readonly digest: Digest
  readonly size: Bytes
  readonly cache: CacheStatus
}

/** Half-open. */
export interface ByteRange {
  readonly start: Bytes
  readonly end: Bytes
}

/** A blob that is here, or on its way. The caller disposes it, after the sources it opened. */
export interface BlobAnswer extends AsyncDisposable {
  readonly digest: Digest
  /** Undefined while unknown: the body ends when it ends. */
  readonly size: Bytes | undefined
  readonly cache: CacheStatus
  /** True while not every byte is verified: a range given out now is as upstream sent it. */
  readonly unverified: boolean
  /**
   * Resolves when the response's head may be sent: for a small body not before it is verified.
   *
   * @param range the whole blob when left out; only with a known size
   * @throws OciError BAD_GATEWAY or UNAVAILABLE
   */
  open(range: ByteRange | undefined, signal: AbortSignal): Promise<ByteSource>
}

export interface TagsAnswer extends CacheMarks {
  readonly tags: readonly string[]
  /** Query of the next page. */
  readonly next: URLSearchParams | undefined
}

export interface ReferrersAnswer extends CacheMarks {
  /** An image index. */
  readonly bytes: Buffer
  readonly filtersApplied: string | undefined
  readonly next: URLSearchParams | undefined
}
