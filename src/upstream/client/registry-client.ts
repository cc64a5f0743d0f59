/**
 * Client of a registry over HTTP: the requests of the distribution specification, and which answers are believed.
 *
 * Every method rejects with UpstreamError, or with the reason of the caller's signal.
 * Spec: distribution-spec § Pull, § Content discovery.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { ACCEPT_MANIFESTS, MAX_MANIFEST_BYTES, MEDIA_TYPES } from '../../oci/descriptor.ts'
import { algorithmOf, digestOf, type Digest } from '../../oci/digest.ts'
import { parseJsonObject, type Selection } from '../../oci/json.ts'
import { turnFor } from '../../base/turns.ts'
import { parseManifest } from '../../oci/manifest.ts'
import { isDigestReference, type Reference, type RepositoryName } from '../../oci/reference.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import {
  brokenAnswer,
  confirmAbsent,
  contentLengthOf,
  contradicts,
  digestHeaderOf,
  etagOf,
  isEncoded,
  isHtml,
  mediaTypeOf,
  nextPageOf,
  refusalOf,
  spokenRefusalOf,
  warningOf,
} from '../transport/responses.ts'
import { Requester, type RequesterOptions, type UpstreamRequest } from './requester.ts'
import { BlobRequests } from './blob-requests.ts'
import { readBody } from '../transport/response-body.ts'
import { HeadSupport } from './head-support.ts'
import { isOfRegistry, type Answer } from '../transport/redirects.ts'
import { withheldPulls } from '../limits/quota-reserve.ts'
import type { UpstreamStatus } from '../status.ts'
import { headerOf } from '../transport/transport.ts'
import {
  UpstreamError,
  type BlobRequest,
  type OrAbsent,
  type ReferrersPage,
  type TagPage,
  type Upstream,
  type UpstreamBlob,
  type UpstreamBlobHead,
  type UpstreamHead,
  type UpstreamManifest,
} from '../upstream.ts'

/** Ten thousand tags of the longest kind are 1.3 MB. */
const MAX_LIST_BYTES = 16 * 1024 * 1024
/** Parsing that many takes a tenth of a second. */
const MAX_LIST_ITEMS = 500_000
/** Stands for the missing answer to a HEAD. */
const NO_ANSWER = { status: 0, headers: {} }
const TAGS: Selection = { members: { tags: { each: 'scalar' } } }

export type RegistryClientOptions = RequesterOptions

export class RegistryClient implements Upstream {
  readonly key: string
  readonly #requester: Requester
  readonly #blobs: BlobRequests
  readonly #metrics: Metrics
  readonly #headTimeoutMs: Milliseconds
  readonly #manifestHeads: HeadSupport
  /** Blobs apart: ECR public, for one, answers 401 to every HEAD of a blob. */
  readonly #blobHeads: HeadSupport

  constructor(options: RegistryClientOptions) {
    const { key, metrics, timeouts, now = () => performance.now() } = options
    this.key = key
    this.#metrics = metrics
    this.#requester = new Requester(options)
    this.#blobs = new BlobRequests(key, this.#requester, metrics)
    this.#headTimeoutMs = timeouts.headers / 4
    this.#manifestHeads = new HeadSupport(now)
    this.#blobHeads = new HeadSupport(now)
  }

  async headManifest(name: RepositoryName, reference: Reference, signal: AbortSignal): Promise<UpstreamHead> {
    if (this.#manifestHeads.avoided && !this.#sparesPulls) return { result: 'unusable' }
    const answer = await this.#head({
      kind: 'manifest',
      name,
      path: `manifests/${reference}`,
      headers: { accept: ACCEPT_MANIFESTS },
      signal,
    })
    const head: UpstreamHead =
      typeof answer === 'string' ? { result: 'unusable' } : this.#manifestHead(answer, reference)
    if (head.result === 'present') this.#manifestHeads.worked()
    else this.#manifestHeads.failed(`${name} ${reference}`, answer === 'late' ? answer : head.result)
    return head
  }

  #manifestHead(answer: Answer, reference: Reference): UpstreamHead {
    const { status, headers } = answer
    if (isHtml(headers)) return { result: 'unusable' }
    if (status === 404) return { result: 'absent' }
    const digest = digestHeaderOf(headers)
    const size = contentLengthOf(headers)
    const mediaType = mediaTypeOf(headers)
    if (status !== 200 || digest === undefined || size === undefined || mediaType === undefined) {
      return { result: 'unusable' }
    }
    if (isDigestReference(reference) && contradicts(digest, reference)) {
      throw brokenAnswer(this.key, answer, `calls ${reference} ${digest}`)
    }
    return { result: 'present', digest, size, mediaType }
  }

  async manifest(
    name: RepositoryName,
    reference: Reference,
    signal: AbortSignal,
  ): OrAbsent<UpstreamManifest> {
    const answer = await this.#requester.ask({
      kind: 'manifest',
      name,
      path: `manifests/${reference}`,
      headers: { accept: ACCEPT_MANIFESTS },
      signal,
    })
    if (answer.status === 404) {
      await confirmAbsent(this.key, answer)
      this.#manifestHeads.compare(`${name} ${reference}`, false)
      return undefined
    }
    if (answer.status !== 200) throw await spokenRefusalOf(this.key, answer)
    const bytes = await this.#read(answer, MAX_MANIFEST_BYTES)
    // Every manifest is a JSON object; the page of a portal or a web site is not.
    if (!/^\s*\{/.test(bytes.toString('latin1', 0, 1024))) {
      throw brokenAnswer(this.key, answer, 'sent something that is no manifest')
    }
    // The caller parses the manifest in the same turn of the event loop.
    await turnFor(bytes.length)
    const declared = digestHeaderOf(answer.headers)
    const wanted = isDigestReference(reference) ? reference : declared
    const digest = digestOf(bytes, wanted === undefined ? 'sha256' : algorithmOf(wanted))
    const other = isDigestReference(reference) && digest !== reference
    if (other || (declared !== undefined && contradicts(declared, digest))) {
      this.#metrics.integrityFailures.inc({ upstream: this.key })
      throw brokenAnswer(
        this.key,
        answer,
        `sent ${digest} ${other ? `for ${reference}` : `and called it ${declared}`}`,
      )
    }
    this.#manifestHeads.compare(`${name} ${reference}`, true)
    const warning = warningOf(answer.headers)
    const contentType = headerOf(answer.headers, 'content-type')
    return { bytes, digest, contentType, ...(warning === undefined ? {} : { warning }) }
  }

  async headBlob(name: RepositoryName, digest: Digest, signal: AbortSignal): OrAbsent<UpstreamBlobHead> {
    const what = `${name} ${digest}`
    if (!this.#blobHeads.avoided) {
      const answer = await this.#head({ kind: 'blob', name, path: `blobs/${digest}`, signal })
      const { status, headers } = typeof answer === 'string' ? NO_ANSWER : answer
      const size = status === 200 && !isHtml(headers) ? contentLengthOf(headers) : undefined
      if (size !== undefined) {
        this.#blobHeads.worked()
        return { size }
      }
      this.#blobHeads.failed(what, answer === 'late' ? answer : status === 404 ? 'absent' : 'unusable')
    }
    // A HEAD cannot prove that there is none.
    const blob = await this.blob(name, digest, { from: 0, to: 1, signal })
    this.#blobHeads.compare(what, blob !== undefined)
    if (blob === undefined) return undefined
    blob.cancel()
    return { size: blob.size }
  }

  blob(name: RepositoryName, digest: Digest, request: BlobRequest): OrAbsent<UpstreamBlob> {
    return this.#blobs.open(name, digest, request)
  }

  async tags(
    name: RepositoryName,
    query: URLSearchParams,
    signal: AbortSignal,
    etag?: string,
  ): OrAbsent<TagPage> {
    const answer = await this.#requester.ask({
      kind: 'tags',
      name,
      path: 'tags/list',
      query,
      headers: { accept: 'application/json', ...ifNoneMatch(etag) },
      signal,
    })
    if (answer.status === 304 && etag !== undefined) {
      answer.body.cancel()
      // An unchanged page may still have got a next one.
      const next = nextPageOf(answer.headers, answer.url)
      if (next !== undefined) return await this.tags(name, query, signal)
      return { tags: [], next, etag, unchanged: true }
    }
    if (answer.status === 404) {
      await confirmAbsent(this.key, answer)
      return undefined
    }
    if (answer.status !== 200) throw await spokenRefusalOf(this.key, answer)
    const bytes = await this.#read(answer, MAX_LIST_BYTES)
    await turnFor(bytes.length)
    const tags = tagsIn(bytes)
    if (tags === undefined) throw brokenAnswer(this.key, answer, 'sent something that is no list of tags')
    return { tags, next: nextPageOf(answer.headers, answer.url), etag: etagOf(answer.headers) }
  }

  async referrers(
    name: RepositoryName,
    subject: Digest,
    query: URLSearchParams,
    signal: AbortSignal,
    etag?: string,
  ): OrAbsent<ReferrersPage> {
    const answer = await this.#requester.ask({
      kind: 'referrers',
      name,
      path: `referrers/${subject}`,
      query,
      headers: { accept: MEDIA_TYPES.ociIndex, ...ifNoneMatch(etag) },
      signal,
    })
    if (answer.status === 304 && etag !== undefined) {
      answer.body.cancel()
      const nothing = { bytes: Buffer.alloc(0), filtersApplied: undefined, next: undefined }
      return { ...nothing, etag, unchanged: true }
    }
    if (answer.status === 200 && mediaTypeOf(answer.headers) === MEDIA_TYPES.ociIndex) {
      const bytes = await this.#read(answer, MAX_MANIFEST_BYTES)
      await turnFor(bytes.length)
      if (!isIndex(bytes)) throw brokenAnswer(this.key, answer, 'sent referrers that are no index')
      return {
        bytes,
        filtersApplied: headerOf(answer.headers, 'oci-filters-applied'),
        next: nextPageOf(answer.headers, answer.url),
        etag: etagOf(answer.headers),
      }
    }
    // ghcr.io redirects this to a web page elsewhere. A page at the registry's own address is a captive portal's.
    const unsupported = [200, 400, 404, 405, 406, 501].includes(answer.status)
    if (isOfRegistry(answer) ? unsupported && !isHtml(answer.headers) : answer.status < 500) {
      answer.body.cancel()
      return undefined
    }
    throw refusalOf(this.key, answer)
  }

  status(): UpstreamStatus {
    return { offline: false, accounts: [this.#requester.status] }
  }

  paused(): UpstreamError | undefined {
    return this.#requester.paused
  }

  quotaBelow(reserve: number): UpstreamError | undefined {
    return withheldPulls(this.key, this.status(), reserve)
  }

  async close(): Promise<void> {
    await this.#requester.close()
  }

  /** @returns the whole of a small answer */
  async #read(answer: Answer, maxBytes: Bytes): Promise<Buffer> {
    const { headers } = answer
    if (isHtml(headers)) throw brokenAnswer(this.key, answer, 'sent a web page')
    if (isEncoded(headers)) throw brokenAnswer(this.key, answer, 'encoded what it sent')
    const fits = (contentLengthOf(headers) ?? 0) <= maxBytes
    const bytes = fits ? await readBody(answer.body, maxBytes) : undefined
    if (bytes === undefined) throw brokenAnswer(this.key, answer, `sent more than ${maxBytes} bytes`)
    return bytes
  }

  /** Whether the upstream counts GETs of manifests and has answered a HEAD: then a late HEAD is slow, not broken. */
  get #sparesPulls(): boolean {
    return this.#manifestHeads.everWorked && this.#requester.status.pulls !== undefined
  }

  /** @returns `late` or `unusable` where a GET may still be answered */
  async #head(question: UpstreamRequest): Promise<Answer | 'late' | 'unusable'> {
    const patient = question.kind === 'manifest' && this.#sparesPulls
    const limit = patient ? {} : { headersTimeoutMs: this.#headTimeoutMs }
    try {
      return await this.#requester.ask({ ...question, method: 'HEAD', ...limit })
    } catch (error) {
      if (!(error instanceof UpstreamError)) throw error
      if (isLate(error) && !patient) return 'late'
      if (!isLate(error) && mayBeHeadsFault(error, question)) return 'unusable'
      throw error
    }
  }
}

function ifNoneMatch(etag: string | undefined): Record<string, string> {
  return etag === undefined ? {} : { 'if-none-match': etag }
}

function isLate({ cause }: UpstreamError): boolean {
  return (cause as { code?: unknown } | undefined)?.code === 'UND_ERR_HEADERS_TIMEOUT'
}

/** Whether a GET may be answered. Docker Hub's "no such repository" (`insufficient_scope`) is one to GET, too. */
function mayBeHeadsFault(error: UpstreamError, { kind }: UpstreamRequest): boolean {
  const { failure, insufficientScope, scope, byProxy, status } = error
  // Some proxies block HEAD.
  if (byProxy) return status === 403
  return failure === 'denied' && scope !== 'account' && !(kind === 'manifest' && insufficientScope)
}

/** Older registries say `null` for no tags. */
function tagsIn(bytes: Buffer): string[] | undefined {
  try {
    const { tags } = parseJsonObject(bytes, MAX_LIST_ITEMS, TAGS)
    if (tags === null) return []
    return Array.isArray(tags) ? tags.filter((tag) => typeof tag === 'string') : undefined
  } catch {
    return undefined
  }
}

function isIndex(bytes: Buffer): boolean {
  try {
    return parseManifest(bytes, MEDIA_TYPES.ociIndex).kind === 'index'
  } catch {
    return false
  }
}
