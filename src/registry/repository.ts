/**
 * What a pull means, whoever holds the repository: local, or the mirror of an upstream.
 *
 * The seam between `http/` and everything below. Absent is `undefined`; a throw is an OciError (told to the
 * client as it is) or a bug.
 */
import type { CacheStatus } from '../cache/cache-status.ts'
import type { Digest } from '../oci/digest.ts'
import type { Reference } from '../oci/reference.ts'
import type { ByteSource, Bytes } from '../store/blob-store.ts'

export interface Repository {
  readonly kind: 'local' | 'mirror'
  /** The upstream's key, or `local`: a log field and a metric label. */
  readonly registry: string

  headManifest(reference: Reference, signal: AbortSignal): Promise<ManifestHead | undefined>
  manifest(reference: Reference, signal: AbortSignal): Promise<ManifestAnswer | undefined>
  headBlob(digest: Digest, signal: AbortSignal): Promise<BlobHead | undefined>
  /** `ranged` is true when the client asked for parts: such pulls set nothing else in motion. */
  blob(digest: Digest, options: { ranged: boolean; signal: AbortSignal }): Promise<BlobAnswer | undefined>
  /** `query` as the client sent it, without `ns`. */
  tags(query: URLSearchParams, signal: AbortSignal): Promise<TagsAnswer | undefined>
  /** `undefined`: no referrers API here, so the client falls back to the tag schema. */
  referrers(subject: Digest, query: URLSearchParams, signal: AbortSignal): Promise<ReferrersAnswer | undefined>
}

export interface ManifestHead {
  readonly digest: Digest
  readonly size: Bytes
  readonly mediaType: string
  readonly cache: CacheStatus
  /** Says why a stale answer is stale; sent as `Warning: 299`. */
  readonly warning?: string
}

export interface ManifestAnswer extends ManifestHead {
  readonly bytes: Buffer
}

export interface BlobHead {
  readonly digest: Digest
  readonly size: Bytes
  readonly cache: CacheStatus
}

/** A blob that is here, or on its way. The caller disposes it, after the sources it opened. */
export interface BlobAnswer extends AsyncDisposable {
  readonly digest: Digest
  /** undefined: nobody knows yet, the body ends when it ends. */
  readonly size: Bytes | undefined
  readonly cache: CacheStatus
  /** True while not every byte is verified: a part given out now is as the upstream sent it. */
  readonly unverified: boolean
  /**
   * Resolves when the response's head may be sent: for a small body not before it is verified.
   *
   * @param range half-open; the whole blob when left out. Only with a known size.
   * @throws OciError BAD_GATEWAY or UNAVAILABLE
   */
  open(range: { start: Bytes; end: Bytes } | undefined, signal: AbortSignal): Promise<ByteSource>
}

export interface TagsAnswer {
  readonly tags: readonly string[]
  /** Query of the next page. */
  readonly next: URLSearchParams | undefined
  readonly cache: CacheStatus
}

export interface ReferrersAnswer {
  /** An image index. */
  readonly bytes: Buffer
  readonly filtersApplied: string | undefined
  readonly next: URLSearchParams | undefined
  readonly cache: CacheStatus
}
