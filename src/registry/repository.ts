/**
 * Interface of a repository to pull from: a local one, or the mirror of an upstream's.
 *
 * The seam between `http/` and everything below. Absent is `undefined`; a throw is an OciError (sent to the client
 * unchanged) or a bug.
 */
import type {
  BlobAnswer,
  BlobHead,
  ManifestAnswer,
  ManifestHead,
  ReferrersAnswer,
  TagsAnswer,
} from '../cache/answers.ts'
import type { Digest } from '../oci/digest.ts'
import type { Reference } from '../oci/reference.ts'

export type { BlobAnswer, BlobHead, ManifestAnswer, ManifestHead, ReferrersAnswer, TagsAnswer }

export interface Repository {
  readonly kind: 'local' | 'mirror'
  /** The upstream's key, or `local`: a log field and a metric label. */
  readonly registry: string

  headManifest(reference: Reference, signal: AbortSignal): Promise<ManifestHead | undefined>
  manifest(reference: Reference, signal: AbortSignal): Promise<ManifestAnswer | undefined>
  /** Whether a pull under this name could read the blob, and its bytes are here. Makes no request upstream. */
  holds(digest: Digest): Promise<boolean>
  headBlob(digest: Digest, signal: AbortSignal): Promise<BlobHead | undefined>
  /** @param options `ranged`: the client asked for parts; such a pull starts no prefetch */
  blob(digest: Digest, options: { ranged: boolean; signal: AbortSignal }): Promise<BlobAnswer | undefined>
  /** `query` as the client sent it, without `ns`. */
  tags(query: URLSearchParams, signal: AbortSignal): Promise<TagsAnswer | undefined>
  /** `undefined`: no referrers API here, so the client falls back to the tag schema. */
  referrers(
    subject: Digest,
    query: URLSearchParams,
    signal: AbortSignal,
  ): Promise<ReferrersAnswer | undefined>
}
