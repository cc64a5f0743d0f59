/**
 * The simulated registry's endpoints, and its CDN's.
 */
import { MEDIA_TYPES } from '../../src/oci/descriptor.ts'
import type { Holdings } from './upstream-content.ts'
import type { Kind } from './upstream-log.ts'
import { sendContent, sendError, sendJson, sendSmall, writeHead, type Call } from './upstream-send.ts'

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

export interface RegistryOptions {
  cdn?: CdnOptions | undefined
  /** Most tags (or referrers) on one page, whatever was asked for. */
  pageSize?: number | undefined
  linkStyle?: 'relative' | 'absolute' | undefined
  /** `unsupported`: 404, as a registry without that API. `unfiltered`: ignores `artifactType`. */
  referrers?: 'ok' | 'unsupported' | 'unfiltered' | undefined
}

export interface Target {
  readonly kind: Kind
  readonly repo?: string
  readonly ref?: string
}

const ENDPOINTS = { manifests: 'manifest', blobs: 'blob', referrers: 'referrers' } as const

/** What a path of the registry listener asks for. */
export function targetOf(path: string): Target {
  if (path === '/v2/' || path === '/v2') return { kind: 'ping' }
  const tags = /^\/v2\/(.+)\/tags\/list$/.exec(path)
  if (tags?.[1] !== undefined) return { kind: 'tags', repo: tags[1] }
  const match = /^\/v2\/(.+)\/(manifests|blobs|referrers)\/([^/]+)$/.exec(path)
  if (match !== null) {
    const [, repo = '', noun = '', ref = ''] = match
    return { kind: ENDPOINTS[noun as keyof typeof ENDPOINTS], repo, ref: decodeURIComponent(ref) }
  }
  return cdnTargetOf(path)
}

export function cdnTargetOf(path: string): Target {
  const match = /^\/data\/(\d+)\/(.+)\/([^/]+)$/.exec(path)
  if (match === null) return { kind: 'other' }
  return { kind: match[1] === '0' ? 'cdn' : 'hop', repo: match[2] ?? '', ref: match[3] ?? '' }
}

export class RegistryEndpoints {
  readonly #holdings: Holdings
  readonly #urls: { url: string; cdnUrl: string }
  /** Replaced as a whole at run time. */
  options: RegistryOptions

  constructor(holdings: Holdings, urls: { url: string; cdnUrl: string }, options: RegistryOptions) {
    this.#holdings = holdings
    this.#urls = urls
    this.options = options
  }

  async answer(call: Call): Promise<void> {
    const { kind, repo, ref = '', method } = call.entry
    if (method !== 'GET' && method !== 'HEAD') sendError(call, 405, 'UNSUPPORTED')
    else if (kind === 'ping') sendJson(call, 200, {})
    else if (repo === undefined) sendError(call, 404, 'NOT_FOUND')
    else if (kind === 'cdn' || kind === 'hop') await this.#cdn(call, repo, ref)
    else if (!this.#holdings.repositories.has(repo)) sendError(call, 404, 'NAME_UNKNOWN')
    else if (kind === 'tags') this.#tags(call, repo)
    else if (kind === 'manifest') await this.#manifest(call, repo, ref)
    else if (kind === 'blob') await this.#blob(call, repo, ref)
    else this.#referrers(call, repo, ref)
  }

  async #manifest(call: Call, repo: string, reference: string): Promise<void> {
    const manifest = this.#holdings.manifest(repo, reference)
    if (manifest === undefined) {
      sendError(call, 404, 'MANIFEST_UNKNOWN')
      return
    }
    await sendContent(call, manifest.bytes, {
      'content-type': manifest.mediaType,
      'docker-content-digest': manifest.digest,
      etag: `"${manifest.digest}"`,
    })
  }

  async #blob(call: Call, repo: string, digest: string): Promise<void> {
    const blob = this.#holdings.repositories.get(repo)?.blobs.get(digest)
    if (blob === undefined) {
      sendError(call, 404, 'BLOB_UNKNOWN')
      return
    }
    const { cdn } = this.options
    if (cdn !== undefined && (call.entry.method === 'GET' || cdn.redirectHead !== false)) {
      this.#redirect(call, cdn, cdn.hops ?? 1, `${repo}/${digest}`)
      return
    }
    await sendContent(call, blob.bytes, {
      'content-type': 'application/octet-stream',
      'docker-content-digest': blob.digest,
      etag: `"${blob.digest}"`,
    })
  }

  #redirect(call: Call, cdn: CdnOptions, hopsLeft: number, path: string): void {
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

  async #cdn(call: Call, repo: string, digest: string): Promise<void> {
    const cdn = this.options.cdn ?? {}
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
      this.#redirect(call, cdn, hopsLeft, `${repo}/${digest}`)
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

  #tags(call: Call, repo: string): void {
    const all = [...(this.#holdings.repositories.get(repo)?.tags.keys() ?? [])].sort()
    const query = new URL(call.entry.url, 'http://registry').searchParams
    const last = query.get('last')
    const rest = last === null ? all : all.filter((tag) => tag > last)
    const size = Math.min(Number(query.get('n') ?? Infinity), this.options.pageSize ?? Infinity)
    const page = rest.slice(0, size)
    const more = page.length > 0 && page.length < rest.length
    const next = new URLSearchParams({ n: String(size), last: page.at(-1) ?? '' })
    const headers = more ? this.#link(`/v2/${repo}/tags/list?${next.toString()}`) : {}
    sendJson(call, 200, { name: repo, tags: page }, headers)
  }

  #referrers(call: Call, repo: string, digest: string): void {
    const { referrers = 'ok', pageSize = Infinity } = this.options
    if (referrers === 'unsupported') {
      sendSmall(call, 404, '404 page not found\n', { 'content-type': 'text/plain; charset=utf-8' })
      return
    }
    const query = new URL(call.entry.url, 'http://registry').searchParams
    const wanted = referrers === 'ok' ? query.get('artifactType') : null
    const all = this.#holdings.referrers(repo, digest)
    const matching = wanted === null ? all : all.filter((it) => it['artifactType'] === wanted)
    const from = Number(query.get('from') ?? 0)
    query.set('from', String(from + pageSize))
    const more = from + pageSize < matching.length
    const manifests = matching.slice(from, from + pageSize)
    sendJson(
      call,
      200,
      { schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests },
      {
        'content-type': MEDIA_TYPES.ociIndex,
        ...(wanted === null ? {} : { 'oci-filters-applied': 'artifactType' }),
        ...(more ? this.#link(`/v2/${repo}/referrers/${digest}?${query.toString()}`) : {}),
      },
    )
  }

  #link(target: string): { link: string } {
    const prefix = this.options.linkStyle === 'absolute' ? this.#urls.url : ''
    return { link: `<${prefix}${target}>; rel="next"` }
  }
}

function xml(call: Call, status: number, code: string, message: string): void {
  const text = `<?xml version="1.0"?><Error><Code>${code}</Code><Message>${message}</Message></Error>`
  writeHead(call, status, { 'content-type': 'application/xml', 'content-length': Buffer.byteLength(text) })
  call.response.end(call.entry.method === 'HEAD' ? undefined : text)
}
