/**
 * Referrers endpoint …/referrers/<digest>, in pages.
 *
 * A 404 says that this repository has no referrers API, and the client falls back to the tag `sha256-…`. No failure
 * becomes a 404 or an empty list: a signature check would take it for "unsigned".
 * Spec: distribution-spec § Listing referrers.
 */
import { MEDIA_TYPES } from '../../oci/descriptor.ts'
import { OciError } from '../../oci/errors.ts'
import { nextLink } from '../../oci/pagination.ts'
import type { RouteTo } from '../routes.ts'
import type { Exchange } from '../exchange.ts'
import { nextQuery, pullHeaders, resolveRepository, withoutNamespace } from './pull-headers.ts'
import type { Services } from '../services.ts'

export async function serveReferrers(
  exchange: Exchange,
  route: RouteTo<'referrers'>,
  { registry }: Services,
): Promise<void> {
  exchange.fields.digest = route.digest
  const resolution = await resolveRepository(exchange, registry, route)
  const { repository } = resolution
  const answer = await repository.referrers(route.digest, withoutNamespace(route.query), exchange.signal)
  if (answer === undefined) {
    throw new OciError('NOT_FOUND', undefined, { message: 'no referrers API for this repository' })
  }
  const { filtersApplied, next } = answer
  exchange.sendBytes(
    200,
    {
      ...pullHeaders(exchange, resolution, answer),
      'Content-Type': MEDIA_TYPES.ociIndex,
      ...(filtersApplied === undefined ? {} : { 'OCI-Filters-Applied': filtersApplied }),
      ...(next === undefined
        ? {}
        : {
            Link: nextLink(`/v2/${route.repository}/referrers/${route.digest}`, nextQuery(next, route.query)),
          }),
    },
    answer.bytes,
  )
}
