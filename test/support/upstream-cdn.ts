/**
 * The places a simulated registry sends its clients to for blobs: signed addresses, hops, a CDN.
 */
import type { Holdings } from './upstream-content.ts'
import type { Kind } from './upstream-log.ts'
import { sendContent, sendSmall, writeHead, type Call } from './upstream-send.ts'

export interface CdnOptions {
  /** Default 307. */
  status?: 301 | 302 | 303 | 307 | 308
  /** Redirects until the bytes come; default 1. */
  hops?: number
  /** `relative` keeps the bytes on the registry's own listener, outside `/v2/`. Default `absolute`. */
  location?: 'absolute' | 'relative' | 'schemeRelative'
  /** 400 for a request that carries `Authorization`, as S3 and Azure do. Default true. */
  rejectAuthorization?: boolean
  /** HEAD is redirected too (Docker Hub); else the registry answers it (Quay). Default true. */
  redirectHead?: boolean
  /** After which a signed URL is 403. */
  signedUrlTtlMs?: number
  /** Neither digest nor length in the answer. */
  anonymousBodies?: boolean
}

export interface Target {
  readonly kind: Kind
  readonly repo?: string
  readonly ref?: string
}

export function cdnTargetOf(path: string): Target {
  const match = /^\/data\/(\d+)\/(.+)\/([^/]+)$/.exec(path)
  if (match === null) return { kind: 'other' }
  return { kind: match[1] === '0' ? 'cdn' : 'hop', repo: match[2] ?? '', ref: match[3] ?? '' }
}

export class Cdn {
  readonly #holdings: Holdings
  readonly #urls: { url: string; cdnUrl: string }

  constructor(holdings: Holdings, urls: { url: string; cdnUrl: string }) {
    this.#holdings = holdings
    this.#urls = urls
  }

  /** Sends whoever asks for a blob to where its bytes are. */
  redirect(call: Call, cdn: CdnOptions, path: string, hopsLeft = cdn.hops ?? 1): void {
    const query = cdn.signedUrlTtlMs === undefined ? '' : `?expires=${performance.now() + cdn.signedUrlTtlMs}`
    const target = `/data/${hopsLeft - 1}/${path}${query}`
    const location = {
      absolute: this.#urls.cdnUrl + target,
      schemeRelative: this.#urls.cdnUrl.replace(/^https?:/, '') + target,
      relative: target,
    }[cdn.location ?? 'absolute']
    sendSmall(call, cdn.status ?? 307, `<a href="${location}">Temporary Redirect</a>.\n`, {
      location,
      'content-type': 'text/html; charset=utf-8',
      // What Quay says of its redirects, although their targets die after ten minutes.
      'cache-control': 'max-age=31536000',
    })
  }

  async answer(call: Call, repo: string, digest: string, cdn: CdnOptions = {}): Promise<void> {
    const { headers, url } = call.entry
    if (headers.authorization !== undefined && cdn.rejectAuthorization !== false) {
      xml(call, 400, 'InvalidArgument', 'Only one auth mechanism allowed')
      return
    }
    const { pathname, searchParams } = new URL(url, 'http://cdn')
    const expires = searchParams.get('expires')
    if (expires !== null && Number(expires) < performance.now()) {
      xml(call, 403, 'AccessDenied', 'Request has expired')
      return
    }
    const hopsLeft = Number(/^\/data\/(\d+)\//.exec(pathname)?.[1])
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
}

function xml(call: Call, status: number, code: string, message: string): void {
  const text = `<?xml version="1.0"?><Error><Code>${code}</Code><Message>${message}</Message></Error>`
  writeHead(call, status, { 'content-type': 'application/xml', 'content-length': Buffer.byteLength(text) })
  call.response.end(call.entry.method === 'HEAD' ? undefined : text)
}
