/**
 * Who writes: whether a request certainly comes from a program on this machine that talks to us directly.
 *
 * A page in a browser can make a local program's requests (DNS rebinding, or a form that it sends across origins)
 * and a proxy on this machine anybody's: so the listener, the peer and the `Host` must all be loopback, and nothing may
 * tell of another hop, or of a page. Whether that is enough says `push.local`.
 */
import type { RepositoryName } from '../../oci/reference.ts'
import type { Pusher, PushTarget } from '../../registry/local/push-target.ts'
import { eventRequestOf } from './event-request.ts'
import type { Exchange } from '../exchange.ts'
import { isLoopback } from '../../base/loopback.ts'
import { namespaceOf } from './pull-headers.ts'
import type { Services } from '../services.ts'
import { proxySign } from '../proxy-detection.ts'

/** What a browser says of a request that no page of another origin made. Programs that fetch say how, and not whence. */
const FROM_NO_OTHER_PAGE: readonly unknown[] = ['none', 'same-origin']

/**
 * The repository a write goes to.
 *
 * @throws OciError when it may not be written to, or not by whoever asks
 */
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

/** Who asks by HEAD may be about to push what it asks for. */
export function headOf(exchange: Exchange, services: Services): (() => Pusher) | undefined {
  return exchange.isHead ? () => pusherOf(exchange, services) : undefined
}

function pusherOf(exchange: Exchange, { listener }: Services): Pusher {
  const { request, remote = '' } = exchange
  const { origin, 'sec-fetch-site': site = 'none' } = request.headers
  // A browser sets `Origin` on every write that a page asks it for; no client of a registry does.
  const fromPage = origin !== undefined || !FROM_NO_OTHER_PAGE.includes(site)
  const host = request.headers.host?.replace(/:\d+$/, '') ?? ''
  return {
    onThisMachine:
      !fromPage && proxySign(request) === undefined && [listener(), remote, host].every(isLoopback),
    cause: eventRequestOf(exchange),
  }
}
