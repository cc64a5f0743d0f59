/**
 * /_entrepot/explain?ref=…: which rule takes a name, what of it is here, and what a pull would do now.
 *
 * For people and their scripts. It costs no upstream a request, and is told to whoever may pull.
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
  // What is told is of this moment.
  exchange.sendJson(200, explanation, { 'Cache-Control': 'no-store' })
}
