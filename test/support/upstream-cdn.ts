/**
 * The places a simulated registry sends its clients to for blobs: signed addresses, hops, a CDN.
 */
import { randomUUID } from 'node:crypto'
import type { Holdings } from './upstream-content.ts'
import type { Kind } from './upstream-log.ts'
import { sendContent } from './upstream-body.ts'
import { PAGE, sendSmall, writeHead, type Call } from './upstream-send.ts'

export interface CdnOptions {
  /** Default 307. */
  status?: 301 | 302 | 303 | 307 | 308
  /** Redirects until the bytes come; default 1. */
  hops?: number
  /**
   * `relative` keeps the bytes on the registry's own listener, outside `/v2/`. The others lead where nobody
   * should go: from https to http, to a link-local address, to no address, nowhere. Default `absolute`.
   */
  location?: 'absolute' | 'relative' | 'schemeRelative' | BadLocation
  /** The last hop leads back to the first. */
  loop?: boolean
  /** 400 for a request that carries `Authorization`, as S3 and Azure do. Default: at the CDN. */
  rejectAuthorization?: boolean
  /** HEAD is redirected too (Docker Hub); else the registry answers it (Quay). Default true. */
  redirectHead?: boolean
  /** After which a signed URL is 403. */
  signedUrlTtlMs?: number
  /** A signed URL is good for one request: whoever goes on with it after a cut gets a 403. */
  expireSignedUrlDuringBody?: boolean
  /** Signed for GET: 403 for a HEAD. */
  getOnlySignature?: boolean
  /** Neither digest nor length in the answer. */
  anonymousBodies?: boolean
}

type BadLocation = 'crossSchemeDowngrade' | 'privateIp' | 'garbage' | 'missing'

const CDN_ERRORS = {
  '403xml': { status: 403, code: 'AccessDenied', message: 'Request has expired' },
  '400xmlTwoAuth': {
    status: 400,
    code: 'InvalidArgument',
    message:
      'Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string ' +
      'parameter or the Authorization header should be specified',
  },
  '503SlowDown': { status: 503, code: 'SlowDown', message: 'Please reduce your request rate.' },
} as const

/** `html200`: a captive portal's page where the bytes should be. */
export type CdnError = keyof typeof CDN_ERRORS | 'html200'

export function sendCdnError(call: Call, error: CdnError): void {
  if (error === 'html200') {
    sendSmall(call, 200, PAGE, { 'content-type': 'text/html; charset=utf-8' })
    return
  }
  const { status, code, message } = CDN_ERRORS[error]
  xml(call, status, code, message)
}

export interface Target {
  readonly kind: Kind
  readonly repo?: string
  readonly ref?: string
}

export function cdnTargetOf(path: string): Target {
  const [, repo, ref] = /^\/v2\/mirrored\/images\/(.+)\/manifests\/([^/]+)$/.exec(path) ?? []
  if (repo !== undefined && ref !== undefined) {
    return { kind: 'manifest', repo, ref: decodeURIComponent(ref) }
  }
  const match = /^\/data\/(\d+)\/(.+)\/([^/]+)$/.exec(path)
  if (match === null) return { kind: 'other' }
  return { kind: match[1] === '0' ? 'cdn' : 'hop', repo: match[2] ?? '', ref: match[3] ?? '' }
}

/** The simulator around it. */
export interface Surroundings {
  readonly url: string
  readonly cdnUrl: string
  /** In ms. */
  now(): number
}

export class Cdn {
  readonly #holdings: Holdings
  readonly #urls: Surroundings
  /** Signed addresses that were used. */
  readonly #uses = new Set<string>()

  constructor(holdings: Holdings, urls: Surroundings) {
    this.#holdings = holdings
    this.#urls = urls
  }

  /** Sends whoever asks for a blob to where its bytes are. */
  redirect(call: Call, cdn: CdnOptions, path: string, hopsLeft = cdn.hops ?? 1): void {
    const next = cdn.loop === true && hopsLeft === 1 ? (cdn.hops ?? 1) + 1 : hopsLeft
    const location = this.#location(cdn, `/data/${next - 1}/${path}${this.#sign(cdn)}`)
    sendSmall(call, cdn.status ?? 307, `<a href="${location}">Temporary Redirect</a>.\n`, {
      location,
      'content-type': 'text/html; charset=utf-8',
      // What Quay says of its redirects, although their targets die after ten minutes.
      'cache-control': 'max-age=31536000',
    })
  }

  /** Sends whoever asks for a manifest to another registry, where the repository has another name. */
  redirectManifest(call: Call, repo: string, reference: string): void {
    const location = `${this.#urls.cdnUrl}/v2/mirrored/images/${repo}/manifests/${reference}`
    sendSmall(call, 307, '', { location })
  }

  #location(cdn: CdnOptions, target: string): string | undefined {
    const { cdnUrl } = this.#urls
    switch (cdn.location ?? 'absolute') {
      case 'absolute':
        return cdnUrl + target
      case 'relative':
        return target
      case 'schemeRelative':
        return cdnUrl.replace(/^https?:/, '') + target
      case 'crossSchemeDowngrade':
        return cdnUrl.replace(/^https:/, 'http:') + target
      case 'privateIp':
        return `http://169.254.169.254${target}`
      case 'garbage':
        return 'http://['
      case 'missing':
        return undefined
    }
  }

  #sign(cdn: CdnOptions): string {
    const query = new URLSearchParams()
    if (cdn.signedUrlTtlMs !== undefined) {
      query.set('expires', String(this.#urls.now() + cdn.signedUrlTtlMs))
    }
    if (cdn.expireSignedUrlDuringBody === true) query.set('use', randomUUID())
    return query.size === 0 ? '' : `?${query.toString()}`
  }

  async answer(call: Call, repo: string, digest: string, cdn: CdnOptions = {}): Promise<void> {
    const { headers, url, method } = call.entry
    const { rejectAuthorization = call.entry.listener === 'cdn' } = cdn
    if (headers.authorization !== undefined && rejectAuthorization) {
      sendCdnError(call, '400xmlTwoAuth')
      return
    }
    const { pathname, searchParams } = new URL(url, 'http://cdn')
    const hopsLeft = Number(/^\/data\/(\d+)\//.exec(pathname)?.[1])
    if (this.#hasExpired(searchParams) || (cdn.getOnlySignature === true && method === 'HEAD')) {
      sendCdnError(call, '403xml')
      return
    }
    if (hopsLeft > 0) {
      this.redirect(call, cdn, `${repo}/${digest}`, hopsLeft)
      return
    }
    const blob = this.#holdings.repositories.get(repo)?.blobs.get(digest)
    if (blob === undefined) {
      xml(call, 404, 'NoSuchKey', 'The specified key does not exist.')
      return
    }
    const anonymous: Call =
      cdn.anonymousBodies === true
        ? { ...call, behaviour: { noContentLength: true, ...call.behaviour } }
        : call
    await sendContent(anonymous, blob.bytes, { 'content-type': 'application/octet-stream' })
  }

  #hasExpired(query: URLSearchParams): boolean {
    const expires = query.get('expires')
    if (expires !== null && Number(expires) < this.#urls.now()) return true
    const use = query.get('use')
    if (use === null) return false
    const again = this.#uses.has(use)
    this.#uses.add(use)
    return again
  }
}

function xml(call: Call, status: number, code: string, message: string): void {
  const text = `<?xml version="1.0"?><Error><Code>${code}</Code><Message>${message}</Message></Error>`
  writeHead(call, status, { 'content-type': 'application/xml', 'content-length': Buffer.byteLength(text) })
  call.response.end(call.entry.method === 'HEAD' ? undefined : text)
}
