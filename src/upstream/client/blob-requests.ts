/**
 * Requests for a blob or the rest of one: which answers are taken for its bytes, and in which order ranges are tried.
 *
 * Every request begins at the registry, with a valid token and a new redirect. An answer to a `Range` that makes no
 * sense costs one more request, without a range: the download skips what it has.
 */
import type { Bytes } from '../../base/units.ts'
import { digestOf, algorithmOf, type Digest } from '../../oci/digest.ts'
import type { RepositoryName } from '../../oci/reference.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import {
  brokenAnswer,
  confirmAbsent,
  contentLengthOf,
  contradicts,
  digestHeaderOf,
  isEncoded,
  isHtml,
  noBody,
  parseContentRange,
  parseUnsatisfiedRange,
  refusalOf,
  saysAbsent,
  spokenRefusalOf,
} from '../transport/responses.ts'
import type { Requester } from './requester.ts'
import { readBody } from '../transport/response-body.ts'
import type { Answer } from '../transport/redirects.ts'
import { headerOf } from '../transport/transport.ts'
import { UpstreamError, type BlobRequest, type OrAbsent, type UpstreamBlob } from '../upstream.ts'

/** A captive portal's page is smaller; a blob that is called HTML may be larger. */
const MAX_PAGE_BYTES: Bytes = 1024 * 1024

export class BlobRequests {
  readonly #key: string
  readonly #requester: Requester
  readonly #metrics: Metrics

  constructor(key: string, requester: Requester, metrics: Metrics) {
    this.#key = key
    this.#requester = requester
    this.#metrics = metrics
  }

  /** Implements {@link Upstream.blob}. */
  async open(name: RepositoryName, digest: Digest, request: BlobRequest): OrAbsent<UpstreamBlob> {
    for (const range of rangesOf(request)) {
      const answer = await this.#ask(name, digest, range, request)
      if (answer.status === 404) return undefined
      const blob = range === undefined ? undefined : this.#part(answer, request)
      if (blob !== undefined) return await this.#checked(answer, blob, digest, request)
      if (range === undefined || answer.status === 200) {
        return await this.#checked(answer, this.#whole(answer), digest, request)
      }
      if (request.partialOnly === true) {
        return { start: 0, size: undefined, body: noBody(answer.body), cancel: () => undefined }
      }
      this.#requester.retried('range-refused')
      answer.body.cancel()
    }
    throw new Error('the last request has no range')
  }

  /** @returns 200, 206 or 416, or a 404 that the registry itself gave */
  async #ask(
    name: RepositoryName,
    digest: Digest,
    range: string | undefined,
    { committed, parallel, partialOnly, signal }: BlobRequest,
  ): Promise<Answer> {
    const request = {
      ...{ kind: 'blob' as const, name, path: `blobs/${digest}`, signal },
      ...{ committed, parallel, bestEffort: partialOnly },
      headers: range === undefined ? {} : { range },
    }
    let answer = await this.#requester.ask(request)
    if (answer.hops > 0 && [400, 401, 403, 404, 410].includes(answer.status)) {
      // registry.k8s.io redirects to another registry, whose 404 is believed; a CDN's is not.
      const atRegistry = answer.url.pathname.endsWith(`/blobs/${digest}`)
      if (answer.status === 404 && atRegistry && (await saysAbsent(answer))) return answer
      // The signed URL has expired, or is for another client: the registry gives a new one. Tried once.
      this.#requester.retried('redirect-refused')
      refusalOf(this.#key, answer)
      answer = await this.#requester.ask(request)
    }
    const { status, hops } = answer
    if (status === 404 && hops === 0) {
      await confirmAbsent(this.#key, answer)
      return answer
    }
    if ([200, 206, 416].includes(status)) return answer
    // A CDN's refusal is not the registry's "denied", and its 404 is not the registry's "absent".
    throw hops > 0 && status < 500 && status !== 429
      ? brokenAnswer(this.#key, answer, `was where we were sent, and answered ${status}`)
      : await spokenRefusalOf(this.#key, answer)
  }

  /** @returns undefined if the answer to a range is no part of the blob @throws UpstreamError */
  #part(answer: Answer, { from, size: known }: BlobRequest): UpstreamBlob | undefined {
    const { status, headers, body } = answer
    if (status === 416) {
      const size = parseUnsatisfiedRange(headerOf(headers, 'content-range')) ?? known
      if (size === from) {
        return { start: from, size, body: noBody(body), cancel: () => undefined }
      }
      // Beyond the end: another request could bring nothing.
      if (size === undefined || size < from) throw refusalOf(this.#key, answer)
      return undefined
    }
    if (status !== 206 || isEncoded(headers)) return undefined
    const range = parseContentRange(headerOf(headers, 'content-range'))
    const length = contentLengthOf(headers)
    const sensible =
      range !== undefined &&
      range.start <= from &&
      range.end > from &&
      (length === undefined || length === range.end - range.start) &&
      (known === undefined || range.size === undefined || range.size === known)
    return sensible
      ? { start: range.start, size: range.size, ranged: true, body, cancel: cancelOf(answer) }
      : undefined
  }

  /** @throws UpstreamError */
  #whole(answer: Answer): UpstreamBlob {
    const { status, headers, body } = answer
    // The request had no range.
    if (status === 416) throw refusalOf(this.#key, answer)
    if (status === 206) throw brokenAnswer(this.#key, answer, 'sent a part that was not asked for')
    if (isEncoded(headers)) throw brokenAnswer(this.#key, answer, 'encoded what it sent')
    return { start: 0, size: contentLengthOf(headers), body, cancel: cancelOf(answer) }
  }

  /** @returns the same blob @throws UpstreamError if its head tells that it is another */
  async #checked(
    answer: Answer,
    blob: UpstreamBlob,
    digest: Digest,
    { size }: BlobRequest,
  ): Promise<UpstreamBlob> {
    const declared = digestHeaderOf(answer.headers)
    if (declared !== undefined && contradicts(declared, digest)) {
      throw this.#wrong(answer, `calls ${digest} ${declared}`)
    }
    if (size !== undefined && blob.size !== undefined && blob.size !== size) {
      throw this.#wrong(answer, `says the blob has ${blob.size} bytes instead of ${size}`)
    }
    return isHtml(answer.headers) && answer.status === 200 ? await this.#page(answer, blob, digest) : blob
  }

  /** Refuses a body of type HTML, which is mostly a captive portal's page, unless it has the digest. */
  async #page(answer: Answer, blob: UpstreamBlob, digest: Digest): Promise<UpstreamBlob> {
    if ((blob.size ?? 0) > MAX_PAGE_BYTES) return blob
    const bytes = await readBody(answer.body, MAX_PAGE_BYTES)
    if (bytes === undefined || digestOf(bytes, algorithmOf(digest)) !== digest) {
      throw this.#wrong(answer, 'sent a web page')
    }
    return { start: 0, size: bytes.length, body: onlyOnce(bytes), cancel: () => undefined }
  }

  #wrong(answer: Answer, what: string): UpstreamError {
    answer.body.cancel()
    this.#metrics.integrityFailures.inc({ upstream: this.#key })
    const { url, status } = answer
    return new UpstreamError('broken', this.#key, `${url.host} ${what}`, { status, wrongContent: true })
  }
}

/** The values of `Range` that are tried in turn; undefined: no such header. */
function rangesOf({ from, to, size = 0 }: BlobRequest): (string | undefined)[] {
  if (from === 0 && to === undefined) return [undefined]
  // Some registries answer 416 to a range without an end.
  const end = to ?? (size > from ? size : undefined)
  return [`bytes=${from}-${end === undefined ? '' : end - 1}`, undefined]
}

async function* onlyOnce(bytes: Buffer): AsyncGenerator<readonly Buffer[], void, undefined> {
  yield await Promise.resolve([bytes])
}

function cancelOf({ body }: Answer): () => void {
  return () => body.cancel()
}
