/**
 * Manifest endpoint …/manifests/<reference>: GET, HEAD, PUT, DELETE.
 *
 * The bytes and their type are sent exactly as received; `Accept` selects nothing.
 * Spec: distribution-spec § Pulling manifests, § Pushing manifests, § Deleting.
 */
import type { OutgoingHttpHeaders } from 'node:http'
import { MAX_MANIFEST_BYTES } from '../../oci/descriptor.ts'
import { OciError } from '../../oci/errors.ts'
import { isDigestReference, parseTag } from '../../oci/reference.ts'
import type { RouteTo } from '../routes.ts'
import type { ManifestHead } from '../../registry/repository.ts'
import type { Exchange } from '../exchange.ts'
import { readBody } from './request-body.ts'
import { pulled, pullHeaders, resolveRepository } from './pull-headers.ts'
import type { Services } from '../services.ts'
import { headOf, pushTarget } from './push-access.ts'
import { etagOf, matchesNone } from '../transfer/range.ts'

export async function serveManifest(
  exchange: Exchange,
  route: RouteTo<'manifest'>,
  services: Services,
): Promise<void> {
  const { registry, events, metrics } = services
  exchange.fields.ref = route.reference
  const resolution = await resolveRepository(exchange, registry, route, headOf(exchange, services))
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
  const { digest, mediaType, size } = whole
  const tag = isDigestReference(route.reference) ? undefined : route.reference
  pulled(exchange, events, resolution, { kind: 'manifest', digest, mediaType, size, tag })
}

function identity({ digest }: ManifestHead): OutgoingHttpHeaders {
  return { 'Docker-Content-Digest': digest, ETag: etagOf(digest) }
}

/** Limit of `tag` parameters per push. */
const MAX_TAGS = 100

export async function putManifest(
  exchange: Exchange,
  route: RouteTo<'manifest'>,
  services: Services,
): Promise<void> {
  exchange.fields.ref = route.reference
  const target = await pushTarget(exchange, route, services)
  const tags = route.query.getAll('tag').map((tag) => parseTag(tag))
  if (tags.length > MAX_TAGS) throw new OciError('TAG_INVALID', { tags: tags.length, limit: MAX_TAGS })
  const bytes = await readBody(exchange, MAX_MANIFEST_BYTES, new OciError('MANIFEST_TOO_LARGE'))
  const mediaType = exchange.header('content-type')
  const kept = await target.putManifest(route.reference, { bytes, mediaType, tags })
  exchange.fields.digest = kept.digest
  exchange.sendEmpty(201, {
    Location: `/v2/${route.repository}/manifests/${kept.digest}`,
    'Docker-Content-Digest': kept.digest,
    'Content-Length': 0,
    ...(kept.subject === undefined ? {} : { 'OCI-Subject': kept.subject }),
    ...(tags.length === 0 ? {} : { 'OCI-Tag': tags }),
  })
}

export async function deleteManifest(
  exchange: Exchange,
  route: RouteTo<'manifest'>,
  services: Services,
): Promise<void> {
  exchange.fields.ref = route.reference
  const target = await pushTarget(exchange, route, services)
  if (!(await target.deleteManifest(route.reference))) {
    throw new OciError('MANIFEST_UNKNOWN', { name: route.repository, reference: route.reference })
  }
  exchange.sendEmpty(202, { 'Content-Length': 0 })
}
