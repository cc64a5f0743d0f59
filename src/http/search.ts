/**
 * Search endpoints /v1/_ping and /v1/search, for `docker search` and `podman search`.
 *
 * They are all that clients still use of the first registry API, and strict about the types of the answer's members.
 */
import { OciError } from '../oci/errors.ts'
import type { RouteTo } from './routes.ts'
import type { Exchange } from './exchange.ts'
import type { Services } from './services.ts'

/** Default and limit of `n`. */
const PAGE = { usual: 25, most: 100 }

export function serveV1Ping(exchange: Exchange): void {
  // Standalone: clients log in here, not at an index server.
  exchange.sendJson(200, {}, { 'X-Docker-Registry-Standalone': 'true' })
}

export async function serveSearch(
  exchange: Exchange,
  route: RouteTo<'search'>,
  { search }: Services,
): Promise<void> {
  const { query } = route
  const term = query.get('q') ?? ''
  const size = Math.min(numberIn(query, 'n') || PAGE.usual, PAGE.most)
  const page = numberIn(query, 'page') || 1
  const found = await search.find(term, exchange.signal)
  exchange.sendJson(200, {
    query: term,
    num_results: found.length,
    num_pages: Math.ceil(found.length / size),
    page,
    page_size: size,
    results: found.slice((page - 1) * size, page * size).map((it) => ({
      name: it.name,
      description: it.description,
      star_count: it.stars,
      is_official: it.official,
      is_automated: it.automated,
      is_trusted: it.automated,
    })),
  })
}

/** 0 when absent. @throws OciError PAGINATION_NUMBER_INVALID */
function numberIn(query: URLSearchParams, name: string): number {
  const text = query.get(name) ?? '0'
  if (!/^\d{1,9}$/.test(text)) throw new OciError('PAGINATION_NUMBER_INVALID', { [name]: text.slice(0, 64) })
  return Number(text)
}
