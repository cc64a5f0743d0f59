/** Repository of an upstream: takes pulls only, through the cache. */
import type {
  BlobAnswer,
  BlobHead,
  ManifestAnswer,
  ManifestHead,
  ReferrersAnswer,
  TagsAnswer,
} from '../cache/answers.ts'
import type { BlobCache } from '../cache/blobs/blob-cache.ts'
import type { UpstreamLists } from '../cache/lists/upstream-lists.ts'
import type { ManifestCache } from '../cache/manifests/manifest-cache.ts'
import type { MirrorRef } from '../cache/origin.ts'
import type { AccessTimes } from '../cache/eviction/access-times.ts'
import type { Prefetch } from '../cache/prefetch/prefetch.ts'
import type { Digest } from '../oci/digest.ts'
import { OciError, type OciErrorCode } from '../oci/errors.ts'
import { isDigestReference, type Reference } from '../oci/reference.ts'
import type { PushRefusal } from './naming/push-policy.ts'
import type { Repository } from './repository.ts'
import type { ServedNames } from './naming/served-names.ts'

export interface MirrorContext {
  readonly manifests: ManifestCache
  readonly blobs: BlobCache
  readonly prefetch: Prefetch
  readonly lists: UpstreamLists
  readonly accessTimes: Pick<AccessTimes, 'touch'>
  /** Gets each name before its answer, also of a hit: the cached bytes may have come under another name. */
  readonly served: ServedNames
}

/** Errors that leave open whether the upstream has it. */
const CANNOT_SAY: ReadonlySet<OciErrorCode> = new Set(['DENIED', 'UNAVAILABLE'])

export class MirrorRepository implements Repository {
  readonly kind = 'mirror'
  readonly registry: string
  readonly #context: MirrorContext
  readonly #mirrored: MirrorRef
  readonly #pushRefusal: PushRefusal | undefined

  /** @param pushRefusal for a client whose HEAD may begin a push */
  constructor(context: MirrorContext, mirrored: MirrorRef, pushRefusal?: PushRefusal) {
    this.registry = mirrored.origin.upstream.key
    this.#context = context
    this.#mirrored = mirrored
    this.#pushRefusal = pushRefusal
  }

  async headManifest(reference: Reference, signal: AbortSignal): Promise<ManifestHead | undefined> {
    const found = await this.#head(
      () => this.#context.manifests.head(this.#mirrored, reference, signal),
      () => Promise.resolve(true),
    )
    // HEADs of digests do not count: a push begins with them, and the index does not record their answers either.
    if (found !== undefined && !isDigestReference(reference)) this.#context.served.add(this.#mirrored)
    return found
  }

  async manifest(reference: Reference, signal: AbortSignal): Promise<ManifestAnswer | undefined> {
    const found = await this.#context.manifests.get(this.#mirrored, reference, signal)
    if (found === undefined) return undefined
    this.#context.served.add(this.#mirrored)
    const { digest, bytes, content } = found.manifest
    this.#context.accessTimes.touch(digest)
    this.#context.prefetch.manifestServed(this.#mirrored, found.manifest)
    return {
      digest,
      bytes,
      size: bytes.length,
      mediaType: content.mediaType,
      cache: found.cache,
      ...(found.warning === undefined ? {} : { warning: found.warning }),
    }
  }

  headBlob(digest: Digest, signal: AbortSignal): Promise<BlobHead | undefined> {
    return this.#head(
      () => this.#context.blobs.head(this.#mirrored, digest, signal),
      () => this.#context.blobs.mayBePulled(this.#mirrored, digest),
    )
  }

  holds(digest: Digest): Promise<boolean> {
    return this.#context.blobs.holds(this.#mirrored, digest)
  }

  async blob(
    digest: Digest,
    { ranged, signal }: { ranged: boolean; signal: AbortSignal },
  ): Promise<BlobAnswer | undefined> {
    const answer = await this.#context.blobs.get(this.#mirrored, digest, signal)
    if (answer !== undefined) {
      this.#context.served.add(this.#mirrored)
      this.#context.accessTimes.touch(digest)
    }
    const cold = answer?.cache === 'miss' || answer?.cache === 'join'
    if (answer !== undefined && !ranged) this.#context.prefetch.blobServed(this.#mirrored, digest, cold)
    return answer
  }

  tags(query: URLSearchParams, signal: AbortSignal): Promise<TagsAnswer | undefined> {
    return this.#context.lists.tags(this.#mirrored, query, signal)
  }

  referrers(
    subject: Digest,
    query: URLSearchParams,
    signal: AbortSignal,
  ): Promise<ReferrersAnswer | undefined> {
    return this.#context.lists.referrers(this.#mirrored, subject, query, signal)
  }

  /**
   * A push begins with a HEAD, and continues only after a 404: where the push would be accepted, "cannot say" becomes
   * "not found". docs/architecture.md "Where pushes go".
   *
   * Where the push would be refused, a retry is useless to a pushing client. A client that asks for a blob which no
   * manifest here names has pulled no manifest here, so it is about to push, and gets the refusal.
   */
  async #head<T>(
    ask: () => Promise<T | undefined>,
    maybePull: () => Promise<boolean>,
  ): Promise<T | undefined> {
    try {
      return await ask()
    } catch (error) {
      if (!(error instanceof OciError) || !CANNOT_SAY.has(error.code)) throw error
      if (this.#pushRefusal === undefined) throw error
      const failure: OciError = error
      // An index that cannot be read takes no push either, so the upstream's failure is the answer.
      const refusal = await this.#pushRefusal().catch(() => failure)
      if (refusal === undefined) return undefined
      throw (await maybePull()) ? failure : refusal
    }
  }
}
