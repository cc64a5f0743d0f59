/**
 * Endpoints for probes and monitoring: /, /livez, /readyz, /metrics.
 *
 * A failing upstream makes none of them fail: the process must not be restarted while it can serve from the cache.
 */
import type { Endpoint } from './routes.ts'
import type { Exchange } from './exchange.ts'
import type { Services } from './services.ts'

/** Endpoints that are requested under any host, and often. */
export const PROBES: ReadonlySet<Endpoint> = new Set(['root', 'livez', 'readyz', 'metrics'])

/** Some load balancers request only this path, and take any answer but 200 for a server that is down. */
export function serveRoot(exchange: Exchange): void {
  if (exchange.method === 'OPTIONS')
    exchange.sendEmpty(200, { Allow: 'GET, HEAD, OPTIONS', 'Content-Length': 0 })
  else exchange.sendBytes(200, { 'Content-Type': 'text/plain; charset=utf-8' }, Buffer.from('entrepot\n'))
}

export function serveLivez(exchange: Exchange): void {
  exchange.sendJson(200, { status: 'ok' })
}

export async function serveReadyz(
  exchange: Exchange,
  { registry, draining, hosts, certificate }: Services,
): Promise<void> {
  const health = await registry.health()
  // Image names are only for clients that may read the images.
  const served = certificate()
  const all = served === undefined ? health : { ...health, certificate: served }
  const told = hosts()?.serves(exchange.request.headers.host) === false ? {} : all
  if (draining()) {
    exchange.sendJson(503, { status: 'draining', ...told })
    return
  }
  const sound =
    health.storage === 'ok' &&
    health.openFiles === 'ok' &&
    health.quarantine.count === 0 &&
    served?.expired !== true &&
    health.upstreams.every(
      ({ state, fallback, credentials }) =>
        (state === 'ok' || state === 'offline') && fallback === undefined && credentials === undefined,
    )
  exchange.sendJson(200, { status: sound ? 'ok' : 'degraded', ...told })
}

export async function serveMetrics(exchange: Exchange, { metrics }: Services): Promise<void> {
  const text = await metrics.scrape()
  exchange.sendBytes(200, { 'Content-Type': metrics.registry.contentType }, Buffer.from(text))
}
