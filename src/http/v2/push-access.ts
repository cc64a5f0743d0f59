/**
 * Push access: whether a request certainly comes from a program on this machine, without a proxy or a page between.
 *
 * A page in a browser can send requests from this machine (DNS rebinding, or a form that posts across origins), and a
 * proxy on this machine those of any client. So the listener, the peer and the `Host` must all be loopback, and no
 * header may point to a proxy or a page. `push.local` decides whether that suffices.
 */
import type { RepositoryName } from '../../oci/reference.ts'
import type { Pusher, PushTarget } from '../../registry/local/push-target.ts'
import { eventRequestOf } from './event-request.ts'
import type { Exchange } from '../exchange.ts'
import { isLoopback } from '../../base/loopback.ts'
import { namespaceOf } from './pull-headers.ts'
import type { Services } from '../services.ts'
import { proxySign } from '../proxy-detection.ts'

/** `Sec-Fetch-Site` of a request that no foreign page made. Programs with fetch() send `Sec-Fetch-Mode`, not this. */
const FROM_NO_OTHER_PAGE: readonly unknown[] = ['none', 'same-origin']

/** The repository to write to. @throws OciError when it takes no writes, or none from this client */
export function pushTarget(
  exchange: Exchange,
  route: {
    readonly repository: RepositoryName
    readonly query: URLSearchParams
    readonly access?: string
  },
  services: Services,
): Promise<PushTarget> {
  exchange.fields.upstream = 'local'
  const pusher = pusherOf(exchange, services)
  const { registry } = services
  const namespace = namespaceOf(route.query)
  return route.access === 'delete'
    ? registry.deleteFrom(route.repository, namespace, pusher)
    : registry.pushTo(route.repository, namespace, pusher)
}

/** A HEAD may begin a push of what it asks for. */
export function headOf(exchange: Exchange, services: Services): (() => Pusher) | undefined {
  return exchange.isHead ? () => pusherOf(exchange, services) : undefined
}

function pusherOf(exchange: Exchange, { listener }: Services): Pusher {
  const { request, remote = '' } = exchange
  const { origin, 'sec-fetch-site': site = 'none' } = request.headers
  // A browser sets `Origin` on every write of a page; no client of a registry does.
  const fromPage = origin !== undefined || !FROM_NO_OTHER_PAGE.includes(site)
  const host = request.headers.host?.replace(/:\d+$/, '') ?? ''
  return {
    onThisMachine:
      !fromPage && proxySign(request) === undefined && [listener(), remote, host].every(isLoopback),
    cause: eventRequestOf(exchange),
  }
}
