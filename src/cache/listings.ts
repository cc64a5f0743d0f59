/**
 * Tag lists and referrers of a mirrored repository: upstream's own words, a page at a time.
 *
 * Never an empty list for "cannot say": cosign and Renovate would believe it. Without a referrers API upstream
 * the answer is "absent", so that clients fall back to the tag schema.
 */
import type { Digest } from '../oci/digest.ts'
import { UpstreamError, type Milliseconds, type Upstream } from '../upstream/upstream.ts'
import type { ReferrersAnswer, TagsAnswer } from './answers.ts'
import type { MirroredName } from './origin.ts'
import { refusal } from './refusals.ts'

export class Listings {
  readonly #budgetMs: Milliseconds

  constructor(options: { budgetMs: Milliseconds }) {
    this.#budgetMs = options.budgetMs
  }

  /** @throws OciError UNAVAILABLE or DENIED */
  async tags(
    repository: MirroredName,
    query: URLSearchParams,
    signal: AbortSignal,
  ): Promise<TagsAnswer | undefined> {
    const page = await this.#ask(repository, signal, (upstream, limit) =>
      upstream.tags(repository.name, query, limit),
    )
    return page === undefined ? undefined : { ...page, cache: 'miss' }
  }

  /** @throws OciError UNAVAILABLE or DENIED */
  async referrers(
    repository: MirroredName,
    subject: Digest,
    query: URLSearchParams,
    signal: AbortSignal,
  ): Promise<ReferrersAnswer | undefined> {
    const page = await this.#ask(repository, signal, (upstream, limit) =>
      upstream.referrers(repository.name, subject, query, limit),
    )
    return page === undefined ? undefined : { ...page, cache: 'miss' }
  }

  async #ask<T>(
    { origin }: MirroredName,
    client: AbortSignal,
    ask: (upstream: Upstream, limit: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const budget = AbortSignal.timeout(this.#budgetMs)
    try {
      return await ask(origin.upstream, AbortSignal.any([client, budget]))
    } catch (error) {
      const late = error === budget.reason
      throw refusal(late ? new UpstreamError('unreachable', origin.upstream.key, 'no answer in time') : error)
    }
  }
}
