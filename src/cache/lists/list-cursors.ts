/**
 * Cursors of lists: pages that we cut from a whole list, and pages of upstream that are handed on.
 */
import { sortedInTurns } from '../../base/large-list.ts'
import { parsePage } from '../../oci/pagination.ts'
import type { TagPage } from '../../upstream/upstream.ts'

/**
 * The cursor of a page that was handed on, as our clients see it: upstream's whole query, behind this sign. What is
 * handed on once is handed on to its end: upstream's order is not ours.
 */
const CURSOR = 'next_page'
const HANDED_ON = '~'

/** Our own cursor for upstream's next page. */
export function cursorOf(next: URLSearchParams | undefined): URLSearchParams | undefined {
  return next && new URLSearchParams({ [CURSOR]: `${HANDED_ON}${next.toString()}` })
}

/** Upstream's query of a page that follows one that was handed on; undefined: it is no such page. */
export function upstreamQueryOf(query: URLSearchParams): URLSearchParams | undefined {
  const cursor = query.get(CURSOR)
  if (cursor === null) return undefined
  return cursor.startsWith(HANDED_ON) ? new URLSearchParams(cursor.slice(HANDED_ON.length)) : query
}

/** A page of all there is, which is in order. */
export function pageOf(all: readonly string[], query: URLSearchParams): Pick<TagPage, 'tags' | 'next'> {
  const { n = Infinity, last } = parsePage(query)
  if (n === 0) return { tags: [], next: undefined }
  const start = last === undefined ? 0 : all.findIndex((tag) => tag > last)
  if (start < 0) return { tags: [], next: undefined }
  const tags = all.slice(start, start + n)
  const end = tags.at(-1)
  if (end === undefined || start + n >= all.length) return { tags, next: undefined }
  return { tags, next: new URLSearchParams({ n: String(n), last: end }) }
}

/**
 * A page of a list that is not put together: upstream's own order is what its cursors go by. A registry that knows
 * nothing of pages (Docker's, before its version 3) sends everything every time: then the pages are ours.
 */
export async function inOrder(
  page: TagPage,
  query: URLSearchParams,
): Promise<Pick<TagPage, 'tags' | 'next'>> {
  const { n = Infinity, last } = parsePage(query)
  if (n === 0) return { tags: [], next: undefined }
  const { tags, next } = page
  if (next !== undefined || query.has(CURSOR)) return { tags, next }
  const isAll = last === undefined || tags.length > n || tags.includes(last)
  return isAll ? pageOf(await sortedInTurns(tags), query) : { tags, next }
}
