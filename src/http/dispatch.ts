/** Dispatch of a request to its handler. Path and query are parsed to typed values before any handler runs. */
import { OciError } from '../oci/errors.ts'
import { parseRoute, type Route } from './routes.ts'
import { deleteBlob, serveBlob } from './v2/blobs.ts'
import { serveCatalog } from './v2/catalog.ts'
import type { Exchange } from './exchange.ts'
import { assertServed, readHost } from './host-header.ts'
import { deleteManifest, putManifest, serveManifest } from './v2/manifests.ts'
import { PROBES, serveLivez, serveMetrics, serveReadyz, serveRoot } from './health.ts'
import type { Services } from './services.ts'
import { serveReferrers } from './v2/referrers.ts'
import { serveSearch, serveV1Ping } from './search.ts'
import { serveTags } from './v2/tags.ts'
import { serveUpload, serveUploads } from './v2/uploads.ts'

/** @throws OciError, or a bug's error; the response's head may already have been sent */
export async function serve(exchange: Exchange, services: Services): Promise<void> {
  const { request, method } = exchange
  services.proxyWatch()?.see(request)
  readHost(exchange, services)
  const route = parseRoute(method, request.url ?? '')
  exchange.fields.route = route.endpoint
  if ('repository' in route) exchange.fields.repo = route.repository
  // RFC 9110 § 9.3.1: such a body has no meaning, and serves request smuggling.
  const reads = method === 'GET' || method === 'HEAD'
  if (reads && exchange.hasBody) {
    throw new OciError('BAD_REQUEST', { reason: `a ${method} request must not have a body` })
  }
  // For writes, and the status of an upload, the push policy decides, and names its rule in the error.
  if (reads && route.endpoint !== 'upload' && !PROBES.has(route.endpoint)) assertServed(exchange, services)
  await dispatch(exchange, route, services)
}

async function dispatch(exchange: Exchange, route: Route, services: Services): Promise<void> {
  switch (route.endpoint) {
    case 'base':
      exchange.sendJson(200, {})
      return
    case 'root':
      serveRoot(exchange)
      return
    case 'livez':
      serveLivez(exchange)
      return
    case 'readyz':
      await serveReadyz(exchange, services)
      return
    case 'metrics':
      await serveMetrics(exchange, services)
      return
    case 'catalog':
      await serveCatalog(exchange, route, services)
      return
    case 'v1-ping':
      serveV1Ping(exchange)
      return
    case 'search':
      await serveSearch(exchange, route, services)
      return
    case 'explain':
      await services.explain(exchange, route)
      return
    case 'manifest':
      await (
        route.access === 'pull' ? serveManifest : route.access === 'push' ? putManifest : deleteManifest
      )(exchange, route, services)
      return
    case 'blob':
      await (route.access === 'pull' ? serveBlob : deleteBlob)(exchange, route, services)
      return
    case 'tags':
      await serveTags(exchange, route, services)
      return
    case 'referrers':
      await serveReferrers(exchange, route, services)
      return
    case 'uploads':
      await serveUploads(exchange, route, services)
      return
    case 'upload':
      await serveUpload(exchange, route, services)
  }
}
