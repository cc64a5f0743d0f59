/**
 * Tags and referrers as the simulated registry lists them.
 */
import { MEDIA_TYPES } from '../../src/oci/descriptor.ts'
import { digestOf } from '../../src/oci/digest.ts'
import type { Holdings } from './upstream-content.ts'
import {
  PAGE,
  sendError,
  sendJson,
  sendSmall,
  writeHead,
  type Call,
  type HeaderMap,
} from './upstream-send.ts'

export interface ListOptions {
  /** Most tags (or referrers) on one page, whatever was asked for. */
  pageSize?: number | undefined
  /** `opaque`: a cursor of the registry's own that says nothing to anybody else. Default `relative`. */
  linkStyle?: 'relative' | 'absolute' | 'opaque' | undefined
  /**
   * `null` instead of an empty list, in an order of its own, with members of its own (Artifact Registry), or
   * not at all.
   */
  tagsList?: 'ok' | 'null' | 'unsorted' | 'extraKeys' | '405' | undefined
  /**
   * `unsupported`: 404, as a registry without that API. `unfiltered`: ignores `artifactType`. `303html`: sends
   * to a web page elsewhere (ghcr.io). `emptyOnError`: an empty index, and status 500.
   */
  referrers?: 'ok' | 'unsupported' | '303html' | '400' | '501' | 'unfiltered' | 'emptyOnError' | undefined
  /** Lists have an `ETag`, and whoever brings it is answered 304. */
  listEtags?: boolean | undefined
  /** How `/v2/_catalog` is refused. Default 404. */
  catalog?: 401 | 404 | undefined
}

const EMPTY_INDEX = { schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests: [] }

export class ListEndpoints {
  readonly #holdings: Holdings
  readonly #urls: { url: string; cdnUrl: string }

  constructor(holdings: Holdings, urls: { url: string; cdnUrl: string }) {
    this.#holdings = holdings
    this.#urls = urls
  }

  tags(call: Call, repo: string, options: ListOptions): void {
    const { tagsList = 'ok', pageSize = Infinity } = options
    if (tagsList === '405') {
      sendError(call, 405, 'UNSUPPORTED')
      return
    }
    const sorted = [...(this.#holdings.repositories.get(repo)?.tags.keys() ?? [])].sort()
    const all = tagsList === 'unsorted' ? sorted.toReversed() : sorted
    const query = new URL(call.entry.url, this.#urls.url).searchParams
    const cursor = query.get('next_page')
    const last = cursor === null ? query.get('last') : Buffer.from(cursor, 'base64').toString()
    const rest = last === null ? all : all.slice(all.findIndex((tag) => isBehind(tag, last, tagsList)))
    const size = Math.min(Number(query.get('n') ?? Infinity), pageSize)
    const page = rest.slice(0, size)
    const more = page.length > 0 && page.length < rest.length
    const from = page.at(-1) ?? ''
    const next =
      options.linkStyle === 'opaque'
        ? new URLSearchParams({ next_page: Buffer.from(from).toString('base64') })
        : new URLSearchParams({ n: String(size), last: from })
    sendList(
      call,
      options,
      {
        name: repo,
        tags: tagsList === 'null' && page.length === 0 ? null : page,
        ...(tagsList === 'extraKeys' ? { child: [], manifest: { [`sha256:${'0'.repeat(64)}`]: {} } } : {}),
      },
      more ? this.#link(`/v2/${repo}/tags/list?${next.toString()}`, options) : {},
    )
  }

  referrers(call: Call, repo: string, digest: string, options: ListOptions): void {
    const { referrers = 'ok', pageSize = Infinity } = options
    if (referrers === 'unsupported') {
      sendSmall(call, 404, '404 page not found\n', { 'content-type': 'text/plain; charset=utf-8' })
      return
    }
    if (referrers === '303html') {
      const location = `${this.#urls.cdnUrl}/-/v2/packages/container/package/o%2Fr%2Freferrers%2Fsha256`
      sendSmall(call, 303, PAGE, { location, 'content-type': 'text/html' })
      return
    }
    if (referrers === 'emptyOnError') {
      sendJson(call, 500, EMPTY_INDEX, { 'content-type': MEDIA_TYPES.ociIndex })
      return
    }
    if (referrers === '400' || referrers === '501') {
      sendError(call, Number(referrers), 'UNSUPPORTED')
      return
    }
    const query = new URL(call.entry.url, this.#urls.url).searchParams
    const wanted = referrers === 'ok' ? query.get('artifactType') : null
    const all = this.#holdings.referrers(repo, digest)
    const matching = wanted === null ? all : all.filter((it) => it['artifactType'] === wanted)
    const from = Number(query.get('from') ?? 0)
    query.set('from', String(from + pageSize))
    const more = from + pageSize < matching.length
    const manifests = matching.slice(from, from + pageSize)
    sendList(
      call,
      options,
      { ...EMPTY_INDEX, manifests },
      {
        'content-type': MEDIA_TYPES.ociIndex,
        ...(wanted === null ? {} : { 'oci-filters-applied': 'artifactType' }),
        ...(more ? this.#link(`/v2/${repo}/referrers/${digest}?${query.toString()}`, options) : {}),
      },
    )
  }

  catalog(call: Call, { catalog = 404 }: ListOptions): void {
    sendError(call, catalog, catalog === 401 ? 'UNAUTHORIZED' : 'NOT_FOUND')
  }

  #link(target: string, { linkStyle }: ListOptions): { link: string } {
    const prefix = linkStyle === 'absolute' ? this.#urls.url : ''
    return { link: `<${prefix}${target}>; rel="next"` }
  }
}

function sendList(call: Call, { listEtags }: ListOptions, list: unknown, headers: HeaderMap): void {
  if (listEtags !== true) {
    sendJson(call, 200, list, headers)
    return
  }
  const etag = `"${digestOf(Buffer.from(JSON.stringify(list)))}"`
  if (call.entry.headers['if-none-match'] === etag) {
    writeHead(call, 304, { etag })
    call.response.end()
    return
  }
  sendJson(call, 200, list, { ...headers, etag })
}

function isBehind(tag: string, last: string, tagsList: ListOptions['tagsList']): boolean {
  return tagsList === 'unsorted' ? tag < last : tag > last
}
