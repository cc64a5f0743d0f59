/**
 * Pagination of lists: the parameters `n` and `last`, and the `Link` to the next page.
 *
 * `last` is exclusive, opaque and need not exist; the next page is always on this registry's own path.
 * Spec: distribution-spec § Listing tags; RFC 8288.
 */
import { OciError } from './errors.ts'

interface PageRequest {
  /** 0 is legal: an empty page without a next one. */
  readonly n: number | undefined
  readonly last: string | undefined
}

/** @throws OciError PAGINATION_NUMBER_INVALID */
export function parsePage(query: URLSearchParams): PageRequest {
  const n = query.get('n')
  const last = query.get('last') ?? undefined
  if (n === null) return { n: undefined, last }
  const count = Number(n)
  if (!/^[0-9]+$/.test(n) || !Number.isSafeInteger(count)) {
    throw new OciError('PAGINATION_NUMBER_INVALID', { n: n.slice(0, 64) })
  }
  return { n: count, last }
}

/** Value of the `Link` header. `path` needs no escaping: names and digests contain no delimiters. */
export function nextLink(path: string, query: URLSearchParams): string {
  // `URLSearchParams` escapes every character that could end the <> early.
  const search = query.toString()
  return `<${path}${search === '' ? '' : `?${search}`}>; rel="next"`
}
