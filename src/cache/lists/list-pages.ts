/**
 * Pagination upstream: puts the pages of a list together, all its tags or all referrers of a manifest.
 *
 * It is bounded in pages and bytes. Cursors are opaque and followed as upstream gave them; one that leads to a page
 * that was read already ends the list.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { MEDIA_TYPES } from '../../oci/descriptor.ts'
import type { Digest } from '../../oci/digest.ts'
import { jsonInTurns, sortedInTurns } from '../../base/large-list.ts'
import type { RepositoryName } from '../../oci/reference.ts'
import { UpstreamError, type Upstream } from '../../upstream/upstream.ts'
import { withTimeLimit } from '../time-limit.ts'
import { MAX_KEPT_BODY } from './answer-cache.ts'

/** Every registry gives so many at once; many refuse more. */
const PAGE_SIZE = '1000'
/** The most pages of a list that are fetched, however little of it the client wants. */
const MAX_PAGES = 100
/** The most pages in a row without a new item; a registry may filter after it has cut the page. */
const MAX_FRUITLESS = 3

/** JSON of a tag beside its letters: two quotes and a comma. */
const JSON_OF_A_TAG: Bytes = 3

/** Answers by which registries refuse the size of a page. */
const REFUSES_PAGE_SIZE: readonly (number | undefined)[] = [400, 405, 416, 422, 501]

/**
 * - `absent`: upstream has no such list
 * - `unchanged`: upstream confirmed the ETag
 * - `too large`: the list is larger than is cached
 */
export type Collected =
  | { readonly is: 'list'; readonly body: Buffer; readonly etag: string | undefined }
  | { readonly is: 'absent' }
  | { readonly is: 'unchanged' }
  | { readonly is: 'too large' }

export interface CollectOptions {
  readonly upstream: Upstream
  readonly name: RepositoryName
  /** ETag of the cached list. */
  readonly etag: string | undefined
  readonly pageTimeoutMs: Milliseconds
  /** Called with the number of pages that have come, after each. */
  readonly onPage: (pages: number) => void
  readonly signal: AbortSignal
}

/** @returns a JSON array of strings, sorted by code unit, without duplicates */
export async function collectTags(options: CollectOptions): Promise<Collected> {
  const { upstream, name } = options
  const tags = new Set<string>()
  const end = await followPages(options, async (query, signal, etag) => {
    // A cursor from upstream already carries its page size.
    const sized = query.size > 0 ? query : new URLSearchParams({ n: PAGE_SIZE })
    const page = await pageOfTags(upstream, name, sized, signal, etag)
    if (page === undefined || page.unchanged === true) return page
    let bytes = 0
    for (const tag of page.tags) {
      if (tags.has(tag)) continue
      tags.add(tag)
      // A registry without pagination may send ten times what is cached.
      if ((bytes += Buffer.byteLength(tag) + JSON_OF_A_TAG) > MAX_KEPT_BODY) break
    }
    return { ...page, newBytes: bytes, items: page.tags.length }
  })
  if (end.is !== 'list') return end
  const body = Buffer.from(await jsonInTurns(await sortedInTurns([...tags])))
  return { is: 'list', body, etag: end.etag }
}

/** One page as upstream has it, in upstream's own size where it refuses the size that is asked for. */
export async function pageOfTags(
  upstream: Upstream,
  name: RepositoryName,
  query: URLSearchParams,
  signal: AbortSignal,
  etag?: string,
): ReturnType<Upstream['tags']> {
  try {
    return await upstream.tags(name, query, signal, etag)
  } catch (error) {
    if (!refusesPageSize(error) || !query.has('n')) throw error
    return await upstream.tags(name, withoutSize(query), signal, etag)
  }
}

/** One page of referrers in the same way; a registry may refuse the size as if it had no such API. */
export async function pageOfReferrers(
  upstream: Upstream,
  name: RepositoryName,
  subject: Digest,
  query: URLSearchParams,
  signal: AbortSignal,
): ReturnType<Upstream['referrers']> {
  try {
    const page = await upstream.referrers(name, subject, query, signal)
    if (page !== undefined || !query.has('n')) return page
  } catch (error) {
    if (!refusesPageSize(error) || !query.has('n')) throw error
  }
  return await upstream.referrers(name, subject, withoutSize(query), signal)
}

function refusesPageSize(error: unknown): boolean {
  return error instanceof UpstreamError && REFUSES_PAGE_SIZE.includes(error.status)
}

function withoutSize(query: URLSearchParams): URLSearchParams {
  const unsized = new URLSearchParams(query)
  unsized.delete('n')
  return unsized
}

/** Where the page of a query begins: pages with the same beginning are the same page, whatever their size. */
function beginningOf(query: URLSearchParams): string {
  const rest = withoutSize(query)
  rest.sort()
  return rest.toString()
}

/** The query of the next page; undefined also where upstream gives the cursor of the page that was asked for. */
export function nextOf(
  page: { readonly next: URLSearchParams | undefined },
  asked: URLSearchParams,
): URLSearchParams | undefined {
  const { next } = page
  return next === undefined || beginningOf(next) === beginningOf(asked) ? undefined : next
}

/** @returns an image index: upstream's own bytes where there is one page only */
export async function collectReferrers(subject: Digest, options: CollectOptions): Promise<Collected> {
  const { upstream, name } = options
  const pages: Buffer[] = []
  const end = await followPages(options, async (query, signal, etag) => {
    const page = await upstream.referrers(name, subject, query, signal, etag)
    if (page === undefined || page.unchanged === true) return page
    const manifests = manifestsIn(page.bytes)
    if (manifests === undefined) {
      throw new UpstreamError('broken', upstream.key, 'its list of referrers is no index')
    }
    pages.push(page.bytes)
    return { ...page, newBytes: page.bytes.length, items: manifests.length }
  })
  if (end.is !== 'list') return end
  const [only] = pages
  if (only !== undefined && pages.length === 1) return { is: 'list', body: only, etag: end.etag }
  const manifests = pages.flatMap((page) => manifestsIn(page) ?? [])
  const index = { schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests }
  return { is: 'list', body: Buffer.from(JSON.stringify(index)), etag: undefined }
}

/** A descriptor of a list, with all its members. */
export interface ListedReferrer {
  readonly digest: Digest
  readonly artifactType?: string
}

/** Undefined where it is no index. Clients take a document without `manifests` for an empty list. */
export function manifestsIn(index: Buffer): readonly ListedReferrer[] | undefined {
  try {
    const document = JSON.parse(index.toString()) as { manifests?: unknown } | null
    if (!Array.isArray(document?.manifests)) return undefined
    return (document.manifests as ({ digest?: unknown } | null)[]).filter(
      (it): it is ListedReferrer => typeof it?.digest === 'string',
    )
  } catch {
    return undefined
  }
}

interface CollectedPage {
  readonly next: URLSearchParams | undefined
  readonly etag?: string | undefined
  readonly unchanged?: true
  /** Bytes of items that earlier pages did not have. */
  readonly newBytes?: Bytes
  readonly items?: number
}

async function followPages(
  { etag, pageTimeoutMs, onPage, signal, upstream }: CollectOptions,
  ask: (
    query: URLSearchParams,
    signal: AbortSignal,
    etag: string | undefined,
  ) => Promise<CollectedPage | undefined>,
): Promise<Exclude<Collected, { is: 'list' }> | { readonly is: 'list'; readonly etag: string | undefined }> {
  const asked = new Set<string>()
  let bytes = 0
  let fruitless = 0
  let query = new URLSearchParams()
  for (let pages = 1; ; pages += 1) {
    asked.add(beginningOf(query))
    const page = await withTimeLimit(upstream, pageTimeoutMs, 'no answer in time', signal, (limit) =>
      // The ETag belongs to the first page only.
      ask(query, limit, pages === 1 ? etag : undefined),
    )
    if (page === undefined && pages > 1) {
      throw new UpstreamError('broken', upstream.key, 'its list ends in the middle')
    }
    if (page === undefined) return { is: 'absent' }
    if (page.unchanged === true) return { is: 'unchanged' }
    onPage(pages)
    bytes += page.newBytes ?? 0
    if (bytes > MAX_KEPT_BODY) return { is: 'too large' }
    const { next } = page
    fruitless = page.newBytes === 0 ? fruitless + 1 : 0
    if (next === undefined || fruitless === MAX_FRUITLESS || asked.has(beginningOf(next))) {
      return { is: 'list', etag: pages === 1 && !mayBeFull(page) ? page.etag : undefined }
    }
    if (pages === MAX_PAGES) return { is: 'too large' }
    query = next
  }
}

/** The ETag of a full page does not change when another page follows it: such a list is fetched without one. */
function mayBeFull({ items = 0 }: CollectedPage): boolean {
  return items > 0 && items % 10 === 0
}
