/**
 * A registry over HTTP: what the distribution specification lets us ask, and which answers we believe.
 *
 * Every method rejects with UpstreamError, or with the reason of the caller's signal.
 * Spec: distribution-spec § Pull, § Content discovery.
 */
import { ACCEPT_MANIFESTS, MAX_MANIFEST_BYTES, MEDIA_TYPES } from '../oci/descriptor.ts'
import { algorithmOf, digestOf, type Digest } from '../oci/digest.ts'
import { parseManifest } from '../oci/manifest.ts'
import { isDigestReference, type Reference, type RepositoryName } from '../oci/reference.ts'
import type { Metrics } from '../telemetry/metrics.ts'
import {
  brokenAnswer,
  contentLengthOf,
  digestHeaderOf,
  isEncoded,
  isHtml,
  mediaTypeOf,
  nextPageOf,
  noBody,
  parseContentRange,
  parseUnsatisfiedRange,
  refusalOf,
  saysAbsent,
} from './answers.ts'
import { Asking, type AskingOptions, type Question } from './asking.ts'
import { readBody } from './body.ts'
import type { Answer } from './redirects.ts'
import { headerOf } from './transport.ts'
import {
  UpstreamError,
  type BlobRequest,
  type Bytes,
  type ReferrersPage,
  type TagPage,
  type Upstream,
  type UpstreamBlob,
  type UpstreamHead,
  type UpstreamManifest,
} from './upstream.ts'

/** Ten thousand tags of the longest kind are 1.3 MB. */
const MAX_LIST_BYTES = 16 * 1024 * 1024

export type RegistryClientOptions = AskingOptions

export class RegistryClient implements Upstream {
  readonly key: string
  readonly #asking: Asking
  readonly #metrics: Metrics
  /** This registry does not answer HEAD for blobs (ECR public: always 401). */
  #headsNoBlobs = false

  constructor(options: RegistryClientOptions) {
    this.key = options.key
    this.#metrics = options.metrics
    this.#asking = new Asking(options)
  }

  async headManifest(name: RepositoryName, reference: Reference, signal: AbortSignal): Promise<UpstreamHead> {
    const answer = await this.#asking.ask({
      kind: 'manifest',
      name,
      method: 'HEAD',
      path: `manifests/${reference}`,
      headers: { accept: ACCEPT_MANIFESTS },
      signal,
    })
    const { status, headers } = answer
    if (status === 404) return { result: 'absent' }
    if (status !== 200) return { result: 'unusable' }
    const digest = digestHeaderOf(headers)
    const size = contentLengthOf(headers)
    const mediaType = mediaTypeOf(headers)
    if (digest === undefined || size === undefined || mediaType === undefined || isHtml(headers)) {
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
  ): Promise<UpstreamManifest | undefined> {
    const answer = await this.#asking.ask({
      kind: 'manifest',
      name,
      path: `manifests/${reference}`,
      headers: { accept: ACCEPT_MANIFESTS },
      signal,
    })
    if (answer.status === 404) {
      await this.#confirmAbsent(answer)
      return undefined
    }
    if (answer.status !== 200) throw refusalOf(this.key, answer)
    const bytes = await this.#read(answer, MAX_MANIFEST_BYTES)
    // Every manifest is a JSON object; what a portal or a front page sends is not.
    if (!/^\s*\{/.test(bytes.toString('latin1', 0, 1024))) {
      throw brokenAnswer(this.key, answer, 'sent something that is no manifest')
    }
    const declared = digestHeaderOf(answer.headers)
    const wanted = isDigestReference(reference) ? reference : declared
    const digest = digestOf(bytes, wanted === undefined ? 'sha256' : algorithmOf(wanted))
    if (isDigestReference(reference) && digest !== reference) {
      this.#metrics.integrityFailures.inc({ upstream: this.key })
      throw brokenAnswer(this.key, answer, `sent ${digest} for ${reference}`)
    }
    if (declared !== undefined && contradicts(declared, digest)) {
      this.#metrics.integrityFailures.inc({ upstream: this.key })
      throw brokenAnswer(this.key, answer, `sent ${digest} and called it ${declared}`)
    }
    return { bytes, digest, contentType: headerOf(answer.headers, 'content-type') }
  }

  async headBlob(
    name: RepositoryName,
    digest: Digest,
    signal: AbortSignal,
  ): Promise<{ size: Bytes | undefined } | undefined> {
    let refused = false
    if (!this.#headsNoBlobs) {
      const answer = await this.#head(name, digest, signal)
      if (answer?.status === 200) return { size: contentLengthOf(answer.headers) }
      if (answer?.status === 404 && answer.hops === 0) return undefined
      // A signed URL is often good for GET only (ghcr.io): then it is the hop that refuses.
      refused = answer === undefined || answer.hops === 0
    }
    const blob = await this.blob(name, digest, { from: 0, to: 1, signal })
    this.#headsNoBlobs ||= refused
    if (blob === undefined) return undefined
    blob.cancel()
    return { size: blob.size }
  }

  async blob(name: RepositoryName, digest: Digest, request: BlobRequest): Promise<UpstreamBlob | undefined> {
    const ranged = request.from > 0 || request.to !== undefined
    const last = request.to === undefined ? '' : String(request.to - 1)
    const question: Question = {
      kind: 'blob',
      name,
      path: `blobs/${digest}`,
      headers: ranged ? { range: `bytes=${request.from}-${last}` } : {},
      signal: request.signal,
    }
    let answer = await this.#asking.ask(question)
    // A signed URL that has run out, or was not ours to use: the registry gives another. Once.
    if (answer.hops > 0 && [400, 401, 403, 404, 410].includes(answer.status)) {
      this.#asking.retried('redirect-refused')
      refusalOf(this.key, answer)
      answer = await this.#asking.ask(question)
    }
    if (answer.status === 404 && answer.hops === 0) {
      await this.#confirmAbsent(answer)
      return undefined
    }
    if (answer.status === 416) return this.#beyondEnd(answer, request)
    if (answer.status !== 200 && answer.status !== 206) throw this.#blobRefusal(answer)
    if (isEncoded(answer.headers)) throw brokenAnswer(this.key, answer, 'encoded what it sent')
    const declared = digestHeaderOf(answer.headers)
    if (declared !== undefined && contradicts(declared, digest)) {
      throw brokenAnswer(this.key, answer, `calls ${digest} ${declared}`)
    }
    return answer.status === 200 ? wholeBlob(answer) : this.#partOfBlob(answer, request)
  }

  async tags(
    name: RepositoryName,
    query: URLSearchParams,
    signal: AbortSignal,
  ): Promise<TagPage | undefined> {
    const answer = await this.#asking.ask({
      kind: 'tags',
      name,
      path: 'tags/list',
      query,
      headers: { accept: 'application/json' },
      signal,
    })
    if (answer.status === 404) {
      await this.#confirmAbsent(answer)
      return undefined
    }
    if (answer.status !== 200) throw refusalOf(this.key, answer)
    const tags = tagsIn(await this.#read(answer, MAX_LIST_BYTES))
    if (tags === undefined) throw brokenAnswer(this.key, answer, 'sent something that is no list of tags')
    return { tags, next: nextPageOf(answer.headers, answer.url) }
  }

  async referrers(
    name: RepositoryName,
    subject: Digest,
    query: URLSearchParams,
    signal: AbortSignal,
  ): Promise<ReferrersPage | undefined> {
    const answer = await this.#asking.ask({
      kind: 'referrers',
      name,
      path: `referrers/${subject}`,
      query,
      headers: { accept: MEDIA_TYPES.ociIndex },
      signal,
    })
    if (answer.status === 200 && mediaTypeOf(answer.headers) === MEDIA_TYPES.ociIndex) {
      const bytes = await this.#read(answer, MAX_MANIFEST_BYTES)
      if (!isIndex(bytes)) throw brokenAnswer(this.key, answer, 'sent referrers that are no index')
      return {
        bytes,
        filtersApplied: headerOf(answer.headers, 'oci-filters-applied'),
        next: nextPageOf(answer.headers, answer.url),
      }
    }
    // ghcr.io sends whoever asks to a web page elsewhere. Here a web page is a captive portal's.
    const unsupported = [200, 400, 404, 405, 406, 501].includes(answer.status)
    if (answer.elsewhere ? answer.status < 500 : unsupported && !isHtml(answer.headers)) {
      answer.body.cancel()
      return undefined
    }
    throw refusalOf(this.key, answer)
  }

  async close(): Promise<void> {
    await this.#asking.close()
  }

  /** A 404 that can be believed. */
  async #confirmAbsent(answer: Answer): Promise<void> {
    if (!isEncoded(answer.headers) && (await saysAbsent(answer))) return
    throw brokenAnswer(this.key, answer, 'answered 404 in a way that no registry does')
  }

  /** A small answer as a whole. */
  async #read(answer: Answer, maxBytes: Bytes): Promise<Buffer> {
    const { headers } = answer
    if (isHtml(headers)) throw brokenAnswer(this.key, answer, 'sent a web page')
    if (isEncoded(headers)) throw brokenAnswer(this.key, answer, 'encoded what it sent')
    const fits = (contentLengthOf(headers) ?? 0) <= maxBytes
    const bytes = fits ? await readBody(answer.body, maxBytes) : undefined
    if (bytes === undefined) throw brokenAnswer(this.key, answer, `sent more than ${maxBytes} bytes`)
    return bytes
  }

  /** HEAD of a blob; undefined when this registry refuses even to consider it. */
  async #head(name: RepositoryName, digest: Digest, signal: AbortSignal): Promise<Answer | undefined> {
    try {
      return await this.#asking.ask({ kind: 'blob', name, method: 'HEAD', path: `blobs/${digest}`, signal })
    } catch (error) {
      if (error instanceof UpstreamError && error.failure === 'denied') return undefined
      throw error
    }
  }

  /** What a CDN refuses is not the registry's "denied", and its 404 is not the registry's "absent". */
  #blobRefusal(answer: Answer): UpstreamError {
    return answer.hops > 0 && answer.status < 500 && answer.status !== 429
      ? brokenAnswer(this.key, answer, `was where we were sent, and answered ${answer.status}`)
      : refusalOf(this.key, answer)
  }

  #partOfBlob(answer: Answer, request: BlobRequest): UpstreamBlob {
    const range = parseContentRange(headerOf(answer.headers, 'content-range'))
    const length = contentLengthOf(answer.headers)
    const sensible =
      range !== undefined &&
      range.start <= request.from &&
      range.end > request.from &&
      (length === undefined || length === range.end - range.start)
    if (!sensible) throw brokenAnswer(this.key, answer, 'sent a part that was not asked for')
    return { start: range.start, size: range.size, body: answer.body, cancel: cancelOf(answer) }
  }

  #beyondEnd(answer: Answer, request: BlobRequest): UpstreamBlob {
    const size = parseUnsatisfiedRange(headerOf(answer.headers, 'content-range'))
    if (size !== request.from) throw refusalOf(this.key, answer)
    return { start: size, size, body: noBody(answer.body), cancel: () => undefined }
  }
}

function wholeBlob(answer: Answer): UpstreamBlob {
  const { headers, body } = answer
  return { start: 0, size: contentLengthOf(headers), body, cancel: cancelOf(answer) }
}

function cancelOf({ body }: Answer): () => void {
  return () => {
    body.cancel()
  }
}

/** Of different algorithms two digests may be of the same bytes. */
function contradicts(one: Digest, other: Digest): boolean {
  return algorithmOf(one) === algorithmOf(other) && one !== other
}

/** `null` is what older registries say for none. */
function tagsIn(bytes: Buffer): string[] | undefined {
  try {
    const { tags } = JSON.parse(bytes.toString()) as { tags?: unknown }
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
