/**
 * GET and HEAD …/manifests/<reference>.
 *
 * The bytes and their type go out exactly as they came in; `Accept` selects nothing.
 * Spec: distribution-spec § Pulling manifests.
 */
import type { OutgoingHttpHeaders } from 'node:http'
import { OciError } from '../oci/errors.ts'
import type { RouteTo } from '../oci/route.ts'
import type { ManifestHead } from '../registry/repository.ts'
import type { Exchange } from './exchange.ts'
import { pullHeaders, resolveRepository, type Services } from './pull.ts'
import { etagOf, matchesNone } from './range.ts'

export async function serveManifest(
  exchange: Exchange,
  route: RouteTo<'manifest'>,
  { registry, metrics }: Services,
): Promise<void> {
  exchange.fields.ref = route.reference
  const resolution = await resolveRepository(exchange, registry, route)
  const { repository } = resolution
  const { signal } = exchange
  const head = exchange.isHead ? await repository.headManifest(route.reference, signal) : undefined
  const whole = exchange.isHead ? undefined : await repository.manifest(route.reference, signal)
  const answer = head ?? whole
  if (answer === undefined) {
    throw new OciError('MANIFEST_UNKNOWN', { name: route.repository, reference: route.reference })
  }
  exchange.fields.digest = answer.digest
  const headers = { ...pullHeaders(exchange, resolution, answer), ...identity(answer) }
  if (matchesNone(exchange.header('if-none-match'), answer.digest)) {
    exchange.sendEmpty(304, headers)
    return
  }
  const described = { ...headers, 'Content-Type': answer.mediaType }
  if (whole === undefined) {
    exchange.sendEmpty(200, { ...described, 'Content-Length': answer.size })
    return
  }
  metrics.pulls.inc({ upstream: repository.registry, kind: 'manifest', cache: answer.cache })
  exchange.sendBytes(200, described, whole.bytes)
}

function identity({ digest }: ManifestHead): OutgoingHttpHeaders {
  return { 'Docker-Content-Digest': digest, ETag: etagOf(digest) }
}
