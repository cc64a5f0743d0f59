/**
 * Tag list endpoint …/tags/list, in pages.
 *
 * The answer has the name that the client used, and the next page is on this server's path even for a mirrored list.
 * Spec: distribution-spec § Listing tags.
 */
import { OciError } from '../../oci/errors.ts'
import { jsonInTurns } from '../../base/large-list.ts'
import { nextLink, parsePage } from '../../oci/pagination.ts'
import type { RouteTo } from '../routes.ts'
import type { Exchange } from '../exchange.ts'
import { nextQuery, pullHeaders, resolveRepository, withoutNamespace } from './pull-headers.ts'
import type { Services } from '../services.ts'

export async function serveTags(
  exchange: Exchange,
  route: RouteTo<'tags'>,
  { registry }: Services,
): Promise<void> {
  // A malformed page is refused here, before an upstream is asked.
  parsePage(route.query)
  const resolution = await resolveRepository(exchange, registry, route)
  const answer = await resolution.repository.tags(withoutNamespace(route.query), exchange.signal)
  if (answer === undefined) throw new OciError('NAME_UNKNOWN', { name: route.repository })
  const tags = await jsonInTurns(answer.tags)
  exchange.sendBytes(
    200,
    {
      'Content-Type': 'application/json',
      ...pullHeaders(exchange, resolution, answer),
      ...(answer.next === undefined
        ? {}
        : { Link: nextLink(`/v2/${route.repository}/tags/list`, nextQuery(answer.next, route.query)) }),
    },
    Buffer.from(`{"name":${JSON.stringify(route.repository)},"tags":${tags}}`),
  )
}
