/**
 * Follower of redirects: at most ten, and `Authorization` never goes beyond the origin it was meant for.
 *
 * `Range` and `Accept` go along. A redirect from https to http, in a loop, or to a host that {@link AddressRule}
 * forbids is refused. The redirect of a HEAD of a blob is not followed: it is the answer.
 * Spec: RFC 9110 § 15.4; distribution-spec § Redirects.
 */
import type { AddressRule } from './address-policy.ts'
import { discardBody } from './response-body.ts'
import { decoded } from './content-encoding.ts'
import { headerOf, type Request, type Response, type Transport } from './transport.ts'
import { UpstreamError } from '../upstream.ts'

const MAX_HOPS = 10
const REDIRECTS = new Set([301, 302, 303, 307, 308])

export interface Answer extends Response {
  /** Redirects that were followed; 0: the upstream itself answered. */
  readonly hops: number
  /** Whether some redirect led to another origin. */
  readonly elsewhere: boolean
}

/** The paths of a registry's API, whatever its host. */
const ENDPOINT = /\/v2\/.+\/(?:manifests|blobs|referrers|tags)\/[^/]+$/

/** Whether a registry answers: the upstream, or another that it redirects to. Else it is a CDN, or a web site. */
export function isOfRegistry({ elsewhere, url }: Pick<Answer, 'elsewhere' | 'url'>): boolean {
  return !elsewhere || ENDPOINT.test(url.pathname)
}

export interface Follower {
  readonly key: string
  readonly transport: Pick<Transport, 'send'>
  readonly addresses: Pick<AddressRule, 'allows'>
  /** Answers the challenge of another origin than the first. Default: its 401 is the answer. */
  readonly abroad?: (
    response: Response,
    send: (authorization: string) => Promise<Response>,
  ) => Promise<Response>
}

/** @throws UpstreamError, or the signal's reason */
export async function follow(follower: Follower, request: Request): Promise<Answer> {
  const seen = new Set([request.url.href])
  let { url, headers } = request
  let elsewhere = false
  for (let hops = 0; ; hops += 1) {
    const send = (): Promise<Response> => follower.transport.send({ ...request, url, headers })
    let response = await send()
    if (elsewhere && follower.abroad !== undefined) {
      response = await follower.abroad(response, (authorization) => {
        headers = { ...headers, authorization }
        return send()
      })
    }
    if (!REDIRECTS.has(response.status) || isHeadOfBlob(request)) {
      return { ...decoded(follower.key, response, request.method !== 'HEAD'), hops, elsewhere }
    }
    discardBody(response.body)
    const next = nextUrl(follower, response)
    if (hops === MAX_HOPS) throw refused(follower, response, 'redirects more than ten times')
    if (seen.has(next.href)) throw refused(follower, response, 'redirects in a circle')
    seen.add(next.href)
    if (next.origin !== url.origin) {
      elsewhere = true
      headers = Object.fromEntries(Object.entries(headers).filter(([name]) => name !== 'authorization'))
    }
    url = next
  }
}

/** The storage behind a registry mostly signs its addresses for GET, and refuses a HEAD. */
function isHeadOfBlob({ kind, method }: Request): boolean {
  return kind === 'blob' && method === 'HEAD'
}

function nextUrl(follower: Follower, response: Response): URL {
  const location = headerOf(response.headers, 'location')
  const next = location === undefined ? null : URL.parse(location, response.url)
  if (next === null) throw refused(follower, response, 'redirects to nowhere')
  next.hash = ''
  if (next.protocol !== 'https:' && next.protocol !== response.url.protocol) {
    throw refused(follower, response, `redirects from ${response.url.protocol} to ${next.protocol}`)
  }
  if (!follower.addresses.allows(next)) {
    throw refused(follower, response, 'redirects to an address that it may not send us to')
  }
  return next
}

function refused(follower: Follower, response: Response, what: string): UpstreamError {
  return new UpstreamError('broken', follower.key, `${response.url.host} ${what}`, {
    status: response.status,
  })
}
