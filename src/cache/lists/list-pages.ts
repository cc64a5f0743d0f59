/**
 * Puts the pages of an upstream's list together: all its tags, or all referrers of a manifest.
 *
 * It is bounded in pages and bytes. Cursors are upstream's own words and are followed as they are; one that leads to where we
 * have been ends the list.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { MEDIA_TYPES } from '../../oci/descriptor.ts'
import type { Digest } from '../../oci/digest.ts'
import { jsonInTurns, sortedInTurns } from '../../base/large-list.ts'
import type { RepositoryName } from '../../oci/reference.ts'
import { UpstreamError, type Upstream } from '../../upstream/upstream.ts'
import { withTimeLimit } from '../time-limit.ts'
import { MAX_KEPT_BODY } from './answer-cache.ts'

/** What every registry is known to give at once. Many refuse more. */
const PAGE_SIZE = '1000'
/** Upstream is asked for so many, whoever asked for whatever little of the list. */
const MAX_PAGES = 100
/** Pages without anything new; a registry may filter what it has cut already. */
const MAX_FRUITLESS = 3

/** What a tag takes in a list beside its letters: two quotes and a comma. */
const JSON_OF_A_TAG: Bytes = 3

/** How a registry says that it does not like the size of a page. */
const REFUSES_PAGE_SIZE: readonly (number | undefined)[] = [400, 405, 416, 422, 501]

/**
 * - `absent`: there is no such list
 * - `unchanged`: it is what the ETag stands for
 * - `too large`: more than is kept
 */
export type Collected =
  | { readonly is: 'list'; readonly body: Buffer; readonly etag: string | undefined }
  | { readonly is: 'absent' }
  | { readonly is: 'unchanged' }
  | { readonly is: 'too large' }

export interface CollectOptions {
  readonly upstream: Upstream
  readonly name: RepositoryName
  /** Of the list that is known. */
  readonly etag: string | undefined
  /** Of one page. */
  readonly pageTimeoutMs: Milliseconds
  /** Called with the number of pages that have come, after each. */
  readonly onPage: (pages: number) => void
  readonly signal: AbortSignal
}

/** @returns a JSON array of strings, in the order of their characters, each once */
export async function collectTags(options: CollectOptions): Promise<Collected> {
  const { upstream, name } = options
  const tags = new Set<string>()
  const end = await followPages(options, async (query, signal, etag) => {
    // An upstream that gave a cursor knows how large a page of it is.
    const sized = query.size > 0 ? query : new URLSearchParams({ n: PAGE_SIZE })
    const page = await pageOfTags(upstream, name, sized, signal, etag)
    if (page === undefined || page.unchanged === true) return page
    let bytes = 0
    for (const tag of page.tags) {
      if (tags.has(tag)) continue
      tags.add(tag)
      // A registry that knows nothing of pages may send ten times what is kept.
      if ((bytes += Buffer.byteLength(tag) + JSON_OF_A_TAG) > MAX_KEPT_BODY) break
    }
    return { ...page, newBytes: bytes, items: page.tags.length }
  })
  if (end.is !== 'list') return end
  const body = Buffer.from(await jsonInTurns(await sortedInTurns([...tags])))
  return { is: 'list', body, etag: end.etag }
}

/** One page as upstream has it; of its own size where it does not take the one that is asked for. */
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

/** One page of referrers in the same way; a refusal of the size passes for a registry without that API. */
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

/** Where the page begins that a query asks for: two of the same beginning are the same page, however large. */
function beginningOf(query: URLSearchParams): string {
  const rest = withoutSize(query)
  rest.sort()
  return rest.toString()
}

/** The query of the next page; undefined also where upstream names the page that was asked for. */
export function nextOf(
  page: { readonly next: URLSearchParams | undefined },
  asked: URLSearchParams,
): URLSearchParams | undefined {
  const { next } = page
  return next === undefined || beginningOf(next) === beginningOf(asked) ? undefined : next
}

/** @returns an image index: upstream's own bytes where one page is all */
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

/** A descriptor of a list, with all that it says. */
export interface ListedReferrer {
  readonly digest: Digest
  readonly artifactType?: string
}

/** Undefined where it is no index. Clients take whatever has no `manifests` for an empty list. */
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
  /** What it brought that was not known. */
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
      // The ETag of the first page says nothing of the others.
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

/** The ETag of a page that is full stays what it is when more follows it: such a list is asked for whole. */
function mayBeFull({ items = 0 }: CollectedPage): boolean {
  return items > 0 && items % 10 === 0
}
