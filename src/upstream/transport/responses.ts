/** Interpretation of an upstream's answers: which to believe, and what an error status means. */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { algorithmOf, isDigest, type Digest } from '../../oci/digest.ts'
import { discardBody, readBody, ResponseBody, type Body } from './response-body.ts'
import { proxyName } from './errors.ts'
import { parseRetryAfter } from '../limits/retry.ts'
import { headerOf, type Response, type ResponseHeaders } from './transport.ts'
import { UpstreamError, type UpstreamFailure } from '../upstream.ts'

const MAX_ERROR_BYTES = 64 * 1024
/** An upstream that asks for a longer wait is asked again all the same. */
const LONGEST_RETRY_AFTER: Milliseconds = 3_600_000

/** The error for an unwelcome status; drains the body. @param words the answer's explanation, fit for a log */
export function refusalOf(
  key: string,
  response: Response,
  { words, scope = 'host' }: { words?: string | undefined; scope?: UpstreamError['scope'] } = {},
): UpstreamError {
  discardBody(response.body)
  const { status, headers, url } = response
  return new UpstreamError(
    failureOf(status),
    key,
    `${url.host} answered ${status}${words === undefined ? '' : `: ${words}`}`,
    { status, scope, retryAfterMs: retryAfterOf(headers) },
  )
}

/**
 * The error for the answer of a proxy or a captive portal; undefined for any other answer, which is left as it is. No
 * registry denies access with a web page.
 *
 * @param proxy that the request went through, if known
 */
export function proxyRefusalOf(
  key: string,
  response: Response,
  proxy: string | undefined,
): UpstreamError | undefined {
  const { status, headers, url } = response
  if (status !== 403 || !isHtml(headers) || headers['www-authenticate'] !== undefined) return undefined
  discardBody(response.body)
  const message = `${proxyName(proxy)} answered 403 with a web page in place of ${url.host}`
  return new UpstreamError('broken', key, message, { status, byProxy: true })
}

/** Like {@link refusalOf}, for an answer of the registry itself. Quay sends 405 where others send 403. */
export async function spokenRefusalOf(key: string, response: Response): Promise<UpstreamError> {
  if (response.status !== 405) return refusalOf(key, response)
  const denies = (await errorCodeOf(response))?.toUpperCase() === 'DENIED'
  return refusalOf(key, denies ? { ...response, status: 403 } : response)
}

/** The distribution specification knows this form alone: `299 - "text"`. */
export function warningOf(headers: ResponseHeaders): string | undefined {
  return /^299 - "((?:[^"\\]|\\.)+)"/.exec(headerOf(headers, 'warning') ?? '')?.[1]?.replace(/\\(.)/g, '$1')
}

function retryAfterOf(headers: ResponseHeaders): Milliseconds | undefined {
  const now = Date.now()
  // Docker Hub's own API gives the moment, in Unix time.
  const moment = Number(headerOf(headers, 'x-retry-after')) * 1000
  const wait = parseRetryAfter(headerOf(headers, 'retry-after'), now) ?? moment - now
  return wait >= 0 ? Math.min(wait, LONGEST_RETRY_AFTER) : undefined
}

function failureOf(status: number): UpstreamFailure {
  if (status === 429) return 'busy'
  return status === 401 || status === 403 ? 'denied' : 'broken'
}

export function brokenAnswer(key: string, response: Response, what: string): UpstreamError {
  response.body.cancel()
  const { status, url } = response
  return new UpstreamError('broken', key, `${url.host} ${what}`, { status })
}

/** Whether a 404 is the registry's own: a JSON body with an error code, which no captive portal sends. */
export async function saysAbsent(response: Response): Promise<boolean> {
  return (await errorCodeOf(response)) !== undefined
}

/** @throws UpstreamError unless the 404 can be believed */
export async function confirmAbsent(key: string, response: Response): Promise<void> {
  if (!isEncoded(response.headers) && (await saysAbsent(response))) return
  throw brokenAnswer(key, response, 'answered 404 in a way that no registry does')
}

/** Whether the registry itself sent the 429, and not a gateway before it: for a pull, it is a limit of pulls. */
export async function saysLimit(response: Response): Promise<boolean> {
  return (await errorCodeOf(response).catch(() => undefined)) !== undefined
}

/** The first code of an OCI error, unchanged. */
async function errorCodeOf(response: Response): Promise<string | undefined> {
  const bytes = await readBody(response.body, MAX_ERROR_BYTES)
  if (bytes === undefined) return undefined
  try {
    const { errors } = JSON.parse(bytes.toString()) as { errors?: { code?: unknown }[] }
    const code = errors?.[0]?.code
    return typeof code === 'string' && code !== '' ? code : undefined
  } catch {
    return undefined
  }
}

/** Without parameters, lower case. */
export function mediaTypeOf(headers: ResponseHeaders): string | undefined {
  return headerOf(headers, 'content-type')?.split(';')[0]?.trim().toLowerCase()
}

export function isHtml(headers: ResponseHeaders): boolean {
  const mediaType = mediaTypeOf(headers)
  return mediaType === 'text/html' || mediaType === 'application/xhtml+xml'
}

/** The request asked for `identity`: an encoded body does not have the digest of what it encodes. */
export function isEncoded(headers: ResponseHeaders): boolean {
  const encoding = headerOf(headers, 'content-encoding')?.trim().toLowerCase() ?? ''
  return encoding !== '' && encoding !== 'identity'
}

export function contentLengthOf(headers: ResponseHeaders): Bytes | undefined {
  const header = headerOf(headers, 'content-length')
  return header !== undefined && /^\d{1,15}$/.test(header) ? Number(header) : undefined
}

/** Undefined also for an algorithm that entrepot cannot verify. */
export function digestHeaderOf(headers: ResponseHeaders): Digest | undefined {
  const header = headerOf(headers, 'docker-content-digest')?.trim()
  return header !== undefined && isDigest(header) ? header : undefined
}

/** Digests of different algorithms may be of the same bytes. */
export function contradicts(one: Digest, other: Digest): boolean {
  return algorithmOf(one) === algorithmOf(other) && one !== other
}

/** RFC 9110 § 8.8.3, unchanged. Undefined also for one that no registry would send. */
export function etagOf(headers: ResponseHeaders): string | undefined {
  const header = headerOf(headers, 'etag')?.trim()
  return header !== undefined && /^(?:W\/)?"[\x21\x23-\x7e]{1,256}"$/.test(header) ? header : undefined
}

interface ContentRange {
  readonly start: Bytes
  /** Exclusive. */
  readonly end: Bytes
  readonly size: Bytes | undefined
}

/** The range of a 206; undefined when it is missing or contradicts itself. */
export function parseContentRange(header: string | undefined): ContentRange | undefined {
  const match = /^\s*bytes\s+(\d{1,15})-(\d{1,15})\/(\d{1,15}|\*)\s*$/i.exec(header ?? '')
  if (match === null) return undefined
  const [start, end] = [Number(match[1]), Number(match[2]) + 1]
  const size = match[3] === '*' ? undefined : Number(match[3])
  return start < end && end <= (size ?? Infinity) ? { start, end, size } : undefined
}

/** The size that a 416 tells: `bytes * /1234`, without the space. */
export function parseUnsatisfiedRange(header: string | undefined): Bytes | undefined {
  const match = /^\s*bytes\s+\*\/(\d{1,15})\s*$/i.exec(header ?? '')
  return match === null ? undefined : Number(match[1])
}

/** The query of `Link: <…>; rel="next"`; the host and path that it points to are ignored. */
export function nextPageOf(headers: ResponseHeaders, base: URL): URLSearchParams | undefined {
  const values = headers['link']
  const joined = typeof values === 'string' ? values : (values ?? []).join(',')
  for (const [, target = '', parameters = ''] of joined.matchAll(/<([^<>]*)>([^<]*)/g)) {
    // Linear time: a pattern that searched inside quotes that never end would backtrack over them.
    const [, quoted, plain = ''] = /;\s*rel\s*=\s*(?:"([^"]*)"|([^\s;,"]+))/i.exec(parameters) ?? []
    if (!(quoted ?? plain).toLowerCase().split(/\s+/).includes('next')) continue
    return URL.parse(target, base)?.searchParams
  }
  return undefined
}

/** An empty body, for a request after the last byte of a blob. */
export function noBody(body: Body): Body {
  discardBody(body)
  const empty = new ResponseBody({ pause() {}, resume() {}, abort() {} })
  empty.finish()
  return empty
}
