/**
 * Cursors of lists: of pages cut from a whole list, and of upstream's pages that are handed on.
 */
import { sortedInTurns } from '../../base/large-list.ts'
import { parsePage } from '../../oci/pagination.ts'
import type { TagPage } from '../../upstream/upstream.ts'

/**
 * The cursor of a handed-on page, as clients see it: upstream's whole query, behind this sign. A list that is handed
 * on is so to its end: upstream's order is not that of the cached list.
 */
const CURSOR = 'next_page'
const HANDED_ON = '~'

export function cursorOf(next: URLSearchParams | undefined): URLSearchParams | undefined {
  return next && new URLSearchParams({ [CURSOR]: `${HANDED_ON}${next.toString()}` })
}

/** Upstream's query for the page after a handed-on one; undefined: the query asks for no such page. */
export function upstreamQueryOf(query: URLSearchParams): URLSearchParams | undefined {
  const cursor = query.get(CURSOR)
  if (cursor === null) return undefined
  return cursor.startsWith(HANDED_ON) ? new URLSearchParams(cursor.slice(HANDED_ON.length)) : query
}

/** A page of a whole sorted list. */
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
 * A page of a list that is handed on: upstream's cursors follow upstream's own order. A registry without pagination
 * (Docker's, before its version 3) sends everything every time: then the pages are cut here.
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
