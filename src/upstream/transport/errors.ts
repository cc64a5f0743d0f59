/** Translation of undici's and the system's errors into {@link UpstreamError}. */
import { isOutOfFiles, OUT_OF_FILES } from '../../base/open-files.ts'
import { AddressRefused } from './address-policy.ts'
import { parseRetryAfter } from '../limits/retry.ts'
import { UpstreamError, type UpstreamFailure } from '../upstream.ts'

/** Codes for answers that are not valid HTTP. Every other error without an answer is `unreachable`. */
const BROKEN = new Set(['UND_ERR_HEADERS_OVERFLOW', 'UND_ERR_RES_EXCEEDED_MAX_SIZE', 'UND_ERR_INVALID_ARG'])

/** @param proxy the one that the request went through, if known */
export function toUpstreamError(
  upstream: string,
  host: string,
  error: unknown,
  proxy?: string,
): UpstreamError {
  if (error instanceof UpstreamError) return error
  if (isOutOfFiles(error)) {
    return new UpstreamError('unreachable', upstream, `${host} was not asked: ${OUT_OF_FILES}`, {
      cause: error,
    })
  }
  const unreadable = unreadableLimit(error)
  if (unreadable !== undefined) {
    const retryAfterMs = parseRetryAfter(/^retry-after:(.*)$/im.exec(unreadable)?.[1], Date.now())
    return new UpstreamError('busy', upstream, `${host} has had too many requests`, {
      ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
      cause: error,
    })
  }
  // The error holds up to 64 KiB that the parser could not read, and errors are remembered.
  if (error instanceof Error && 'data' in error) delete error.data
  const failure = failureOf(error)
  const what = failure === 'broken' ? 'gave no usable answer' : 'could not be reached, or broke off'
  const refused = byProxy(error)
  const why = refused === undefined ? messageOf(error) : `${proxyName(proxy)} answered ${refused}`
  return new UpstreamError(failure, upstream, `${host} ${what}: ${why}`, {
    byProxy: refused !== undefined,
    cause: error,
  })
}

function failureOf(error: unknown): UpstreamFailure {
  if (byProxy(error) !== undefined) return 'unreachable'
  if (error instanceof AddressRefused) return 'broken'
  // The parser's errors have codes of their own (`HPE_…`), or none.
  if (error instanceof Error && error.name === 'HTTPParserError') return 'broken'
  return BROKEN.has((error as { code?: string } | undefined)?.code ?? '') ? 'broken' : 'unreachable'
}

/** The status with which a proxy refused; undefined: none did. Undici says so in the message only. */
function byProxy(error: unknown): string | undefined {
  const message = messageOf(error)
  const [, tunnel, plain] =
    /^Proxy response \((\d{3})\)|^Proxy Authentication Required \((407)\)/.exec(message) ?? []
  return tunnel ?? plain
}

/** The proxy for people, without the password in its URL. */
export function proxyName(proxy: string | undefined): string {
  const host = proxy === undefined ? undefined : URL.parse(proxy)?.host
  return host === undefined ? 'a proxy' : `the proxy ${host}`
}

/** Detects Docker Hub's answer to a client that asks far too often: its lines lack CR, so no parser takes it. */
function unreadableLimit(error: unknown): string | undefined {
  if (!(error instanceof Error) || error.name !== 'HTTPParserError') return undefined
  const rest = String((error as { data?: unknown }).data)
  return rest.includes('Too Many Requests') ? rest : undefined
}

/** An AggregateError (every address of a host refused) has no message of its own. */
function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  if (error.message !== '') return error.message
  return (error as { code?: string }).code ?? error.name
}
