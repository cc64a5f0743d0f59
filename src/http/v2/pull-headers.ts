/** Headers, name resolution and events that all pulls share. */
import type { OutgoingHttpHeaders } from 'node:http'
import type { RepositoryName } from '../../oci/reference.ts'
import type { Pusher } from '../../registry/local/push-target.ts'
import type { Registry, Resolution } from '../../registry/registry.ts'
import type { RepositoryEvent } from '../../registry/notifications/event.ts'
import type { ManifestHead } from '../../registry/repository.ts'
import { eventRequestOf } from './event-request.ts'
import { warningHeader } from './warning-header.ts'
import type { Exchange } from '../exchange.ts'
import type { Services } from '../services.ts'

/**
 * @param head the client, where the request is a HEAD that may begin a push
 * @throws OciError NAME_UNKNOWN when no rule takes the name
 */
export async function resolveRepository(
  exchange: Exchange,
  registry: Registry,
  route: { repository: RepositoryName; query: URLSearchParams },
  head?: () => Pusher,
): Promise<Resolution> {
  const resolution = await registry.resolve(route.repository, namespaceOf(route.query), head)
  exchange.fields.upstream = resolution.repository.registry
  return resolution
}

export function namespaceOf(query: URLSearchParams): string | undefined {
  return query.get('ns') ?? undefined
}

/** The query to pass on to the repository. */
export function withoutNamespace(query: URLSearchParams): URLSearchParams {
  const rest = new URLSearchParams(query)
  rest.delete('ns')
  return rest
}

/** Query of the next page here: the repository's, with the client's `ns`. */
export function nextQuery(next: URLSearchParams, query: URLSearchParams): URLSearchParams {
  const ours = withoutNamespace(next)
  const namespace = namespaceOf(query)
  if (namespace !== undefined) ours.set('ns', namespace)
  return ours
}

/** Puts the answer's origin into the log line too. */
export function pullHeaders(
  exchange: Exchange,
  resolution: Resolution,
  answer: Pick<ManifestHead, 'cache' | 'warning'>,
): OutgoingHttpHeaders {
  exchange.fields.cache = answer.cache
  return {
    'X-Cache': answer.cache,
    ...(resolution.namespace === undefined ? {} : { 'OCI-Namespace': resolution.namespace }),
    ...(answer.warning === undefined ? {} : { Warning: warningHeader(answer.warning) }),
  }
}

/** Reports a GET that was answered. */
export function pulled(
  exchange: Exchange,
  events: Services['events'],
  { repository, listedAs }: Resolution,
  what: Pick<RepositoryEvent, 'kind' | 'digest' | 'mediaType' | 'size' | 'tag'>,
): void {
  const upstream = repository.kind === 'mirror' ? repository.registry : undefined
  events.pulled({ action: 'pull', repository: listedAs, upstream, ...what }, eventRequestOf(exchange))
}
