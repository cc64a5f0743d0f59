/**
 * The simulated registry's endpoints.
 */
import { Cdn, cdnTargetOf, type CdnOptions, type Surroundings, type Target } from './upstream-cdn.ts'
import type { Holdings } from './upstream-content.ts'
import { sendContent } from './upstream-body.ts'
import { RateLimiter, type RateLimit } from './upstream-limits.ts'
import { ListEndpoints, type ListOptions } from './upstream-lists.ts'
import { ManifestEndpoint, type ManifestOptions } from './upstream-manifests.ts'
import { PAGE, sendError, sendJson, sendSmall, type Call } from './upstream-send.ts'

export interface RegistryOptions extends ManifestOptions, ListOptions {
  cdn?: CdnOptions | undefined
  /** Manifests come from elsewhere, too (registry.k8s.io). */
  redirectManifests?: boolean | undefined
  /** HEAD of a blob is refused, whatever the credentials (ECR public). */
  blobHead401?: boolean | undefined
  /** Names of more than two components are met with the web site's own 404 (Quay). */
  nestedNamesRejected?: boolean | undefined
  rateLimit?: RateLimit | undefined
}

const ENDPOINTS = { manifests: 'manifest', blobs: 'blob', referrers: 'referrers' } as const

/** What a path of the registry listener asks for. */
export function targetOf(path: string): Target {
  if (path === '/v2/' || path === '/v2') return { kind: 'ping' }
  if (path === '/v2/_catalog') return { kind: 'catalog' }
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
  readonly #cdn: Cdn
  readonly #manifests: ManifestEndpoint
  readonly #lists: ListEndpoints
  readonly #limiter = new RateLimiter()
  /** Replaced as a whole at run time. */
  options: RegistryOptions

  constructor(holdings: Holdings, urls: Surroundings, options: RegistryOptions) {
    this.#holdings = holdings
    this.#cdn = new Cdn(holdings, urls)
    this.#manifests = new ManifestEndpoint(holdings)
    this.#lists = new ListEndpoints(holdings, urls)
    this.options = options
  }

  async answer(call: Call): Promise<void> {
    const { kind, repo, ref = '', method, listener } = call.entry
    if (listener === 'registry' && !this.#limiter.admit(call, this.options.rateLimit)) return
    if (method !== 'GET' && method !== 'HEAD') sendError(call, 405, 'UNSUPPORTED')
    else if (kind === 'ping') sendJson(call, 200, {})
    else if (kind === 'catalog') this.#lists.catalog(call, this.options)
    else if (repo === undefined) sendError(call, 404, 'NOT_FOUND')
    else if (kind === 'cdn' || kind === 'hop') await this.#cdn.answer(call, repo, ref, this.options.cdn)
    else if (this.options.nestedNamesRejected === true && repo.split('/').length > 2)
      sendSmall(call, 404, PAGE, { 'content-type': 'text/html; charset=utf-8' })
    else if (!this.#holdings.repositories.has(repo)) sendError(call, 404, 'NAME_UNKNOWN')
    else if (kind === 'tags') this.#lists.tags(call, repo, this.options)
    else if (kind === 'manifest') await this.#manifest(call, repo, ref)
    else if (kind === 'blob') await this.#blob(call, repo, ref)
    else this.#lists.referrers(call, repo, ref, this.options)
  }

  async #manifest(call: Call, repo: string, reference: string): Promise<void> {
    if (this.options.redirectManifests === true && call.entry.listener === 'registry') {
      this.#cdn.redirectManifest(call, repo, reference)
      return
    }
    await this.#manifests.answer(call, repo, reference, this.options)
  }

  async #blob(call: Call, repo: string, digest: string): Promise<void> {
    const blob = this.#holdings.repositories.get(repo)?.blobs.get(digest)
    if (blob === undefined) {
      sendError(call, 404, 'BLOB_UNKNOWN')
      return
    }
    const { blobHead401, cdn } = this.options
    if (blobHead401 === true && call.entry.method === 'HEAD') {
      sendError(call, 401, 'UNAUTHORIZED')
      return
    }
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
}
