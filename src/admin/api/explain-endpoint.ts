/**
 * Endpoint `/_entrepot/explain?ref=…`: which rule takes a name, what of it is here, and what a pull would do now.
 *
 * It costs the upstream no request, and answers every client that may pull.
 */
import { OciError } from '../../oci/errors.ts'
import { parseImageReference } from '../../oci/reference.ts'
import type { RouteTo } from '../../http/routes.ts'
import type { Exchange } from '../../http/exchange.ts'
import { namespaceOf } from '../../http/v2/pull-headers.ts'
import type { Explainer } from '../explain/explainer.ts'

export async function serveExplain(
  exchange: Exchange,
  { query }: RouteTo<'explain'>,
  explainer: Pick<Explainer, 'explain'>,
): Promise<void> {
  const given = query.get('ref')
  if (given === null) {
    throw new OciError('BAD_REQUEST', { reason: 'say of what: ?ref=docker.io/library/nginx:latest' })
  }
  const image = parseImageReference(given)
  exchange.fields.repo = image.name
  exchange.fields.ref = image.reference
  const explanation = await explainer.explain(image, namespaceOf(query))
  const { registry } = explanation.route
  if (registry !== undefined) exchange.fields.upstream = registry
  // The answer holds for this moment only.
  exchange.sendJson(200, explanation, { 'Cache-Control': 'no-store' })
}
