/**
 * Proxy detection: a request came through a proxy if it has a header that proxies add, or a version of HTTP that only
 * they speak.
 *
 * Some proxies leave no sign, as a new nginx with only `proxy_pass`: its operator has to set `push.local: false`.
 */
import type { IncomingMessage } from 'node:http'
import type { Logger } from 'pino'

/** Headers of the common proxies, CDNs and load balancers. */
const HEADERS = [
  ...['x-forwarded-for', 'x-real-ip', 'via', 'forwarded', 'x-forwarded-proto', 'x-forwarded-host'],
  ...[
    'x-client-ip',
    'client-ip',
    'true-client-ip',
    'cf-connecting-ip',
    'fastly-client-ip',
    'x-cluster-client-ip',
  ],
  ...[
    'x-original-forwarded-for',
    'x-envoy-external-address',
    'x-envoy-expected-rq-timeout-ms',
    'x-proxyuser-ip',
  ],
]
const KNOWN: ReadonlySet<string> = new Set(HEADERS)

/** @returns the sign, for the log; undefined: no proxy seen */
export function proxySign({ headers, httpVersion }: IncomingMessage): string | undefined {
  const header = Object.keys(headers).find((name) => KNOWN.has(name) || name.startsWith('x-forwarded-'))
  if (header !== undefined) return header
  // Older nginx speak HTTP/1.0 upstream; no client of a registry does.
  return httpVersion === '1.1' ? undefined : `HTTP/${httpVersion}`
}

/** Checks only the signs of nearly every proxy, because it runs for each request. */
function isLikelyProxied({ headers, httpVersion }: IncomingMessage): boolean {
  return (
    httpVersion !== '1.1' ||
    headers['x-forwarded-for'] !== undefined ||
    headers['x-forwarded-proto'] !== undefined ||
    headers['x-forwarded-host'] !== undefined ||
    headers.via !== undefined ||
    headers.forwarded !== undefined ||
    headers['x-real-ip'] !== undefined
  )
}

/** Warns once if a proxy is in front of a server that accepts pushes from this machine. */
export class ProxyWatch {
  readonly #takesLocalPushes: () => boolean
  readonly #log: Logger
  #warned = false

  constructor(options: { takesLocalPushes: () => boolean; log: Logger }) {
    this.#takesLocalPushes = options.takesLocalPushes
    this.#log = options.log
  }

  see(request: IncomingMessage): void {
    if (this.#warned || !isLikelyProxied(request) || !this.#takesLocalPushes()) return
    this.#warned = true
    this.#log.warn(
      { sign: proxySign(request), key: 'push.local' },
      'a request came through a proxy: whoever reaches the proxy may seem to be on this machine, and push; say push.local: false',
    )
  }
}
