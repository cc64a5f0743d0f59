/**
 * The simulated registry's endpoints.
 */
import { MEDIA_TYPES } from '../../src/oci/descriptor.ts'
import { Cdn, cdnTargetOf, type CdnOptions, type Target } from './upstream-cdn.ts'
import type { Holdings } from './upstream-content.ts'
import { sendContent } from './upstream-body.ts'
import { sendError, sendJson, sendSmall, type Call } from './upstream-send.ts'

export interface RegistryOptions {
  cdn?: CdnOptions | undefined
  /** Manifests come from elsewhere, too (registry.k8s.io). */
  redirectManifests?: boolean | undefined
  /** Most tags (or referrers) on one page, whatever was asked for. */
  pageSize?: number | undefined
  linkStyle?: 'relative' | 'absolute' | undefined
  /** `unsupported`: 404, as a registry without that API. `unfiltered`: ignores `artifactType`. */
  referrers?: 'ok' | 'unsupported' | 'unfiltered' | undefined
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

export class RegistryEndpoints {
  readonly #holdings: Holdings
  readonly #urls: { url: string; cdnUrl: string }
  readonly #cdn: Cdn
  /** Replaced as a whole at run time. */
  options: RegistryOptions

  constructor(holdings: Holdings, urls: { url: string; cdnUrl: string }, options: RegistryOptions) {
    this.#holdings = holdings
    this.#urls = urls
    this.#cdn = new Cdn(holdings, urls)
    this.options = options
  }

  async answer(call: Call): Promise<void> {
    const { kind, repo, ref = '', method } = call.entry
    if (method !== 'GET' && method !== 'HEAD') sendError(call, 405, 'UNSUPPORTED')
    else if (kind === 'ping') sendJson(call, 200, {})
    else if (repo === undefined) sendError(call, 404, 'NOT_FOUND')
    else if (kind === 'cdn' || kind === 'hop') await this.#cdn.answer(call, repo, ref, this.options.cdn)
    else if (!this.#holdings.repositories.has(repo)) sendError(call, 404, 'NAME_UNKNOWN')
    else if (kind === 'tags') this.#tags(call, repo)
    else if (kind === 'manifest') await this.#manifest(call, repo, ref)
    else if (kind === 'blob') await this.#blob(call, repo, ref)
    else this.#referrers(call, repo, ref)
  }

  async #manifest(call: Call, repo: string, reference: string): Promise<void> {
    if (this.options.redirectManifests === true && call.entry.listener === 'registry') {
      this.#cdn.redirectManifest(call, repo, reference)
      return
    }
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
      this.#cdn.redirect(call, cdn, `${repo}/${digest}`)
      return
    }
    await sendContent(call, blob.bytes, {
      'content-type': 'application/octet-stream',
      'docker-content-digest': blob.digest,
      etag: `"${blob.digest}"`,
    })
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
