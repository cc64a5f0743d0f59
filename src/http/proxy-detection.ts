/**
 * What tells that a request came through a proxy: a header that proxies add, or a version of HTTP that only they speak.
 *
 * A proxy may also show nothing at all, as a new nginx does that has only `proxy_pass`: whoever runs one has to say
 * `push.local: false`.
 */
import type { IncomingMessage } from 'node:http'
import type { Logger } from 'pino'

/** Of the common ones, CDNs and balancers included. */
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

/** @returns the sign, for the log; undefined: there is none */
export function proxySign({ headers, httpVersion }: IncomingMessage): string | undefined {
  const header = Object.keys(headers).find((name) => KNOWN.has(name) || name.startsWith('x-forwarded-'))
  if (header !== undefined) return header
  // What older nginx ask by, and no client of a registry does.
  return httpVersion === '1.1' ? undefined : `HTTP/${httpVersion}`
}

/** The same of the signs that nearly every proxy shows, for every request: at the cost of a few comparisons. */
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

/** Warns once of a proxy in front of a server that takes pushes from whoever seems to be on this machine. */
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
