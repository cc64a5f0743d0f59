/**
 * /v2/_catalog, a page at a time: what is local and what is cached, by the names it is pulled under here.
 *
 * Not in the distribution-spec; as distribution answers it.
 */
import { nextLink, parsePage } from '../../oci/pagination.ts'
import type { RouteTo } from '../routes.ts'
import type { Exchange } from '../exchange.ts'
import type { Services } from '../services.ts'

/** When the client names no number, and the most it gets. */
const PAGE = { usual: 100, most: 1000 }

export async function serveCatalog(
  exchange: Exchange,
  route: RouteTo<'catalog'>,
  { registry }: Services,
): Promise<void> {
  const { n = PAGE.usual, last } = parsePage(route.query)
  const limit = Math.min(n, PAGE.most)
  // One more than asked for tells whether there is another page.
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
