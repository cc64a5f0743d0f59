/**
 * Tag lists and referrers of a mirrored repository: upstream's own words, a page at a time.
 *
 * Never an empty list for "cannot say": cosign and Renovate would believe it. Without a referrers API upstream
 * the answer is "absent", so that clients fall back to the tag schema.
 */
import type { Digest } from '../oci/digest.ts'
import type { RepositoryIndex } from '../store/metadata.ts'
import { UpstreamError, type Milliseconds, type TagPage, type Upstream } from '../upstream/upstream.ts'
import type { ReferrersAnswer, TagsAnswer } from './answers.ts'
import type { MirroredName } from './origin.ts'
import { refusalOf } from './refusals.ts'

export class Listings {
  readonly #repositories: RepositoryIndex
  readonly #budgetMs: Milliseconds

  constructor(options: { repositories: RepositoryIndex; budgetMs: Milliseconds }) {
    this.#repositories = options.repositories
    this.#budgetMs = options.budgetMs
  }

  /** @throws OciError UNAVAILABLE, DENIED or NAME_UNKNOWN */
  async tags(
    repository: MirroredName,
    query: URLSearchParams,
    signal: AbortSignal,
  ): Promise<TagsAnswer | undefined> {
    const page = await this.#ask(repository, signal, (upstream, limit) =>
      upstream.tags(repository.name, query, limit),
    )
    return page === undefined ? undefined : { ...inOrder(page, query), cache: 'miss' }
  }

  /** @throws OciError UNAVAILABLE, DENIED or NAME_UNKNOWN */
  async referrers(
    repository: MirroredName,
    subject: Digest,
    query: URLSearchParams,
    signal: AbortSignal,
  ): Promise<ReferrersAnswer | undefined> {
    const page = await this.#ask(repository, signal, async (upstream, limit) => {
      const found = await upstream.referrers(repository.name, subject, query, limit)
      if (found !== undefined && !isIndex(found.bytes)) {
        throw new UpstreamError('broken', upstream.key, 'its list of referrers is no index')
      }
      return found
    })
    return page === undefined ? undefined : { ...page, cache: 'miss' }
  }

  async #ask<T>(
    repository: MirroredName,
    client: AbortSignal,
    ask: (upstream: Upstream, limit: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const { upstream } = repository.origin
    const budget = AbortSignal.timeout(this.#budgetMs)
    try {
      return await ask(upstream, AbortSignal.any([client, budget]))
    } catch (error) {
      const late = error === budget.reason
      const failure = late ? new UpstreamError('unreachable', upstream.key, 'no answer in time') : error
      // What goes wrong with a list says nothing about pulls, so it is not remembered.
      throw await refusalOf(failure, repository, this.#repositories)
    }
  }
}

/**
 * Sorted where it is all there is; in pages, upstream's own order is what its cursors go by. A registry that knows
 * nothing of pages (Docker's, before its version 3) sends everything every time: then the pages are ours.
 */
function inOrder(page: TagPage, query: URLSearchParams): TagPage {
  const n = Number(query.get('n') ?? Infinity)
  if (n === 0) return { tags: [], next: undefined }
  if (page.next !== undefined || query.has('next_page')) return page
  const last = query.get('last')
  const isAll = last === null || page.tags.length > n || page.tags.includes(last)
  if (!isAll) return page
  const rest = page.tags.toSorted().filter((tag) => last === null || tag > last)
  const tags = rest.slice(0, n)
  const from = tags.at(-1)
  if (tags.length === rest.length || from === undefined) return { tags, next: undefined }
  return { tags, next: new URLSearchParams({ n: String(n), last: from }) }
}

/** Clients take whatever has no `manifests` for an empty list. */
function isIndex(bytes: Buffer): boolean {
  try {
    const document = JSON.parse(bytes.toString()) as { manifests?: unknown } | null
    return Array.isArray(document?.manifests)
  } catch {
    return false
  }
}
