/**
 * A repository of an upstream: pulls only, through the cache.
 */
import type {
  BlobAnswer,
  BlobHead,
  ManifestAnswer,
  ManifestHead,
  ReferrersAnswer,
  TagsAnswer,
} from '../cache/answers.ts'
import type { BlobCache } from '../cache/blob-cache.ts'
import type { Listings } from '../cache/listings.ts'
import type { ManifestCache } from '../cache/manifest-cache.ts'
import { repositoryKey, type MirroredName } from '../cache/origin.ts'
import type { Recency } from '../cache/recency.ts'
import type { Prefetch } from '../cache/prefetch.ts'
import type { Digest } from '../oci/digest.ts'
import { OciError } from '../oci/errors.ts'
import type { Reference } from '../oci/reference.ts'
import type { RepositoryIndex } from '../store/metadata.ts'
import type { Repository } from './repository.ts'

/** What all mirrored repositories share. */
export interface MirrorContext {
  readonly manifests: ManifestCache
  readonly blobs: BlobCache
  readonly prefetch: Prefetch
  readonly listings: Listings
  readonly repositories: RepositoryIndex
  /** Told of all that is pulled. */
  readonly recency: Pick<Recency, 'touch'>
}

export class MirrorRepository implements Repository {
  readonly kind = 'mirror'
  readonly registry: string
  readonly #context: MirrorContext
  readonly #mirrored: MirroredName
  readonly #maybeFirstPush: boolean

  /**
   * @param maybeFirstPush the name came to the default upstream only because nobody else claims it: it may be
   *   the first push of a new local name, which begins with HEADs that must come back 404
   */
  constructor(context: MirrorContext, mirrored: MirroredName, maybeFirstPush: boolean) {
    this.registry = mirrored.origin.upstream.key
    this.#context = context
    this.#mirrored = mirrored
    this.#maybeFirstPush = maybeFirstPush
  }

  headManifest(reference: Reference, signal: AbortSignal): Promise<ManifestHead | undefined> {
    return this.#head(() => this.#context.manifests.head(this.#mirrored, reference, signal))
  }

  async manifest(reference: Reference, signal: AbortSignal): Promise<ManifestAnswer | undefined> {
    const found = await this.#context.manifests.get(this.#mirrored, reference, signal)
    if (found === undefined) return undefined
    const { digest, bytes, content } = found.manifest
    this.#context.recency.touch(digest)
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
    return this.#head(() => this.#context.blobs.head(this.#mirrored, digest, signal))
  }

  holds(digest: Digest): Promise<boolean> {
    return this.#context.blobs.holds(this.#mirrored, digest)
  }

  async blob(
    digest: Digest,
    { ranged, signal }: { ranged: boolean; signal: AbortSignal },
  ): Promise<BlobAnswer | undefined> {
    const answer = await this.#context.blobs.get(this.#mirrored, digest, signal)
    if (answer !== undefined) this.#context.recency.touch(digest)
    const cold = answer?.cache === 'miss' || answer?.cache === 'join'
    if (cold && !ranged) this.#context.prefetch.coldBlob(this.#mirrored, digest)
    return answer
  }

  tags(query: URLSearchParams, signal: AbortSignal): Promise<TagsAnswer | undefined> {
    return this.#context.listings.tags(this.#mirrored, query, signal)
  }

  referrers(
    subject: Digest,
    query: URLSearchParams,
    signal: AbortSignal,
  ): Promise<ReferrersAnswer | undefined> {
    return this.#context.listings.referrers(this.#mirrored, subject, query, signal)
  }

  /** DESIGN "Where pushes go": so that a first push can begin, "cannot say" is "not there" for a HEAD. */
  async #head<T>(ask: () => Promise<T | undefined>): Promise<T | undefined> {
    try {
      return await ask()
    } catch (error) {
      const cannotSay = error instanceof OciError && (error.code === 'DENIED' || error.code === 'UNAVAILABLE')
      if (!this.#maybeFirstPush || !cannotSay) throw error
      const known = await this.#context.repositories.get(repositoryKey(this.#mirrored))
      if (known?.servedAt !== undefined) throw error
      return undefined
    }
  }
}
