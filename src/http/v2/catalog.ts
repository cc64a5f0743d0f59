/**
 * Catalog endpoint /v2/_catalog, in pages: local and cached repositories, by their names for pulls here.
 *
 * Not in the distribution-spec; the answer follows distribution.
 */
import { nextLink, parsePage } from '../../oci/pagination.ts'
import type { RouteTo } from '../routes.ts'
import type { Exchange } from '../exchange.ts'
import type { Services } from '../services.ts'

/** Default and limit of `n`. */
const PAGE = { usual: 100, most: 1000 }

export async function serveCatalog(
  exchange: Exchange,
  route: RouteTo<'catalog'>,
  { registry }: Services,
): Promise<void> {
  const { n = PAGE.usual, last } = parsePage(route.query)
  const limit = Math.min(n, PAGE.most)
  // One more than the page holds shows whether there is another page.
  const found = limit === 0 ? [] : await registry.catalog({ limit: limit + 1, ...(last && { last }) })
  const repositories = found.slice(0, limit)
  const end = repositories.at(-1)
  const more = found.length > limit && end !== undefined
  exchange.sendJson(
    200,
    { repositories },
    more ? { Link: nextLink('/v2/_catalog', new URLSearchParams({ last: end, n: String(limit) })) } : {},
  )
}
