/**
 * Validation of the `Host` header, and of the host in a request target of absolute form.
 *
 * Spec: RFC 9112 § 3.2.
 */
import { isIPv6 } from 'node:net'
import { hostname } from 'node:os'
import { OciError } from '../oci/errors.ts'
import type { Exchange } from './exchange.ts'
import { isLoopback } from '../base/loopback.ts'
import type { Services } from './services.ts'

/** RFC 3986 § 3.2.2, without percent-encoding, which no client sends. */
const AUTHORITY = /^(?:\[([0-9A-Fa-f:.]+)\]|[A-Za-z0-9._~!$&'()*+,;=-]+)(?::([0-9]{0,5}))?$/
const MOST_PORT = 65_535
const ABSOLUTE = /^https?:\/\//i

/**
 * Rewrites a target of absolute form to a path; its host replaces that of the header.
 *
 * @throws OciError BAD_REQUEST where the host is missing, malformed, repeated, or that of another server
 */
export function readHost(exchange: Exchange, services: Pick<Services, 'listener' | 'publicUrl'>): void {
  const { request } = exchange
  const { url = '', headers } = request
  const { host } = headers
  if (host === undefined ? request.httpVersion === '1.1' : !isAuthority(host)) {
    const reason = host === undefined ? 'no Host header' : 'the Host header is no host'
    throw new OciError('BAD_REQUEST', { reason })
  }
  if (isRepeated(request.rawHeaders))
    throw new OciError('BAD_REQUEST', { reason: 'more than one Host header' })
  if (url.startsWith('/') || !ABSOLUTE.test(url)) return
  const target = URL.parse(url)
  if (target === null || !isOurs(target, exchange, services)) {
    throw new OciError('BAD_REQUEST', { reason: 'the target is not of this server' })
  }
  headers.host = target.host
  // The path stays encoded: the route decodes it.
  request.url = url.replace(/^[^:]+:\/\/[^/?#]*/, '').replace(/^(?!\/)/, '/')
}

/**
 * Guard against DNS rebinding.
 *
 * @throws OciError DENIED on a loopback listener where the `Host` is none of this server's names
 */
export function assertServed({ request }: Exchange, { hosts }: Pick<Services, 'hosts'>): void {
  const { host } = request.headers
  if (hosts()?.serves(host) !== false) return
  const message =
    'this server listens on this machine only: it answers by a name such as localhost, and by that of server.publicUrl'
  throw new OciError('DENIED', { host: host?.slice(0, 255) }, { message })
}

function isOurs(
  target: URL,
  { request }: Exchange,
  { listener, publicUrl }: Pick<Services, 'listener' | 'publicUrl'>,
): boolean {
  if (publicUrl !== undefined && target.origin === URL.parse(publicUrl)?.origin) return true
  const { localAddress, localPort } = request.socket
  const encrypted = 'encrypted' in request.socket
  const port = Number(target.port === '' ? (encrypted ? 443 : 80) : target.port)
  if (target.protocol !== (encrypted ? 'https:' : 'http:') || port !== localPort) return false
  const host = target.hostname.replace(/^\[|\]$/g, '')
  return isLoopback(host) || [localAddress?.replace(/^::ffff:/, ''), listener(), hostname()].includes(host)
}

function isAuthority(host: string): boolean {
  const match = AUTHORITY.exec(host)
  if (match === null) return false
  const [, literal, port = ''] = match
  return (literal === undefined || isIPv6(literal)) && Number(port) <= MOST_PORT
}

/** Node keeps only the first `Host`, so a repeated one shows in the raw headers alone. */
function isRepeated(rawHeaders: readonly string[]): boolean {
  let found = 0
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const name = rawHeaders[at]
    if (name?.length === 4 && name.toLowerCase() === 'host') found += 1
  }
  return found > 1
}
