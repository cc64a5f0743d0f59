/**
 * Upstream: another registry, as the cache sees it.
 *
 * Absent content is `undefined`, and only when the registry itself said so in a way that can be believed
 * (docs/architecture.md: a GET answered 404 with an OCI error code in its body). Other failures are
 * {@link UpstreamError}s.
 */
import type { Bytes, Milliseconds } from '../base/units.ts'
import type { Digest } from '../oci/digest.ts'
import { isOutOfFiles } from '../base/open-files.ts'
import type { Reference, RepositoryName } from '../oci/reference.ts'
import type { UpstreamStatus } from './status.ts'

export type OrAbsent<T> = Promise<T | undefined>

export interface Upstream {
  /** The registry name of the configuration: `docker.io`. */
  readonly key: string
  /** URL of the fallback that answers while this registry does not. */
  readonly fallback?: string | undefined

  /**
   * Costs no Docker Hub pull. `absent` is a hint only: a HEAD has no body that could prove it. A registry that
   * answers HEAD without digest or length gives `unusable`: ask with GET.
   */
  headManifest(name: RepositoryName, reference: Reference, signal: AbortSignal): Promise<UpstreamHead>

  /** Whole and within 4 MiB; by digest also verified. Costs a Docker Hub pull. */
  manifest(name: RepositoryName, reference: Reference, signal: AbortSignal): OrAbsent<UpstreamManifest>

  /** Whether the repository has that blob. Moves none of its bytes. */
  headBlob(name: RepositoryName, digest: Digest, signal: AbortSignal): OrAbsent<UpstreamBlobHead>

  /** Resolves with the answer's head. `start` says where the body begins, which may be before `from`. */
  blob(name: RepositoryName, digest: Digest, request: BlobRequest): OrAbsent<UpstreamBlob>

  /** The bytes of that blob were wrong: of several sources, those that gave them are asked last for a while. */
  avoidSourcesOf?(digest: Digest): void

  /**
   * One page, verbatim. `query` is passed on unchanged, since cursors are opaque.
   *
   * @param etag of the cached page: with it upstream may answer that nothing has changed
   */
  tags(name: RepositoryName, query: URLSearchParams, signal: AbortSignal, etag?: string): OrAbsent<TagPage>

  /** `undefined`: that registry has no referrers API. `etag` as in {@link tags}. */
  referrers(
    name: RepositoryName,
    subject: Digest,
    query: URLSearchParams,
    signal: AbortSignal,
    etag?: string,
  ): OrAbsent<ReferrersPage>

  /** Cheap: sends no request. */
  status(): UpstreamStatus

  /** The refusal of every request while the breaker is open. Cheap: sends no request. */
  paused?(): UpstreamError | undefined

  /**
   * Why no pull should be spent now on content that has a cached answer: it would be refused, or every account that
   * could be asked has fewer than `reserve` left. undefined: it may be spent. Cheap: sends no request.
   */
  quotaBelow(reserve: number): UpstreamError | undefined

  close(): Promise<void>
}

export type UpstreamHead =
  | { readonly result: 'present'; readonly digest: Digest; readonly size: Bytes; readonly mediaType: string }
  | { readonly result: 'absent' }
  | { readonly result: 'unusable' }

export interface UpstreamBlobHead {
  readonly size: Bytes | undefined
}

export interface UpstreamManifest {
  readonly bytes: Buffer
  /** Computed from the bytes; a header that contradicts it is an error. */
  readonly digest: Digest
  /** The upstream's `Content-Type`. The parser of the bytes decides which type they are served as. */
  readonly contentType: string | undefined
  /** The text of a `Warning: 299`, for people. */
  readonly warning?: string
}

export interface BlobRequest {
  readonly from: Bytes
  /** Exclusive. Default: to the end. */
  readonly to?: Bytes
  /** Only a 206 is of use: any other answer gives an empty body. It is sent once, since its caller can do without. */
  readonly partialOnly?: boolean | undefined
  /** One of several at once: a 429 begins no pause, since fewer may do. */
  readonly parallel?: boolean | undefined
  /** Size of the whole blob that clients have been told: an answer with another is refused. */
  readonly size?: Bytes | undefined
  /** Size of the whole blob that a manifest says: a body without a length that ends before was probably cut off. */
  readonly expectedSize?: Bytes | undefined
  /** Clients have been promised the rest of it: it is sent even while the breaker is open. */
  readonly committed?: boolean | undefined
  readonly signal: AbortSignal
}

export interface UpstreamBlob {
  /** Offset in the blob of the body's first byte: `from`, or 0 where the registry ignored the range. */
  readonly start: Bytes
  /** Size of the whole blob, where the headers say it. */
  readonly size: Bytes | undefined
  /** The body is the part that was asked for, and no more. */
  readonly ranged?: boolean
  /**
   * What arrived since the last turn, in order; ends when the body ended as its framing says, and throws
   * UpstreamError when it broke off. It holds a few MiB: without a reader the socket is paused. Leaving the loop
   * closes the connection.
   */
  readonly body: AsyncIterable<readonly Buffer[]>
  /** Closes the connection without reading on; a no-op after the end. */
  cancel(): void
}

interface ListPage {
  /** Query of the next page, from `Link`. */
  readonly next: URLSearchParams | undefined
  readonly etag?: string | undefined
  /** 304: the page whose ETag the request had is unchanged, and this one is empty. */
  readonly unchanged?: true
}

export interface TagPage extends ListPage {
  readonly tags: readonly string[]
}

export interface ReferrersPage extends ListPage {
  /** An image index, verbatim. */
  readonly bytes: Buffer
  /** The header `OCI-Filters-Applied`, unchanged. */
  readonly filtersApplied: string | undefined
}

/**
 * - `unreachable`: no answer (connection, TLS, time-out, a body that broke off)
 * - `busy`: 429
 * - `broken`: 5xx, or an answer that makes no sense
 * - `denied`: 401 or 403 in spite of the account's credentials
 */
export type UpstreamFailure = 'unreachable' | 'busy' | 'broken' | 'denied'

type UpstreamErrorFacts = Partial<
  Omit<UpstreamError, keyof Error | 'failure' | 'upstream' | 'isHostwide' | 'outOfFiles'>
> & { cause?: unknown }

export class UpstreamError extends Error {
  override readonly name = 'UpstreamError'
  readonly failure: UpstreamFailure
  readonly upstream: string
  readonly status: number | undefined
  /** From `Retry-After`. */
  readonly retryAfterMs: Milliseconds | undefined
  /** 401 `insufficient_scope` for a token issued just now: Docker Hub's way of saying "no such repository". */
  readonly insufficientScope: boolean
  /**
   * - `host`: the registry, or what was asked of it
   * - `pulls`: a limit of the account's pulls; HEADs and blobs may well be answered
   * - `account`: its token service refused, or there were no credentials; this tells nothing of what was asked for
   */
  readonly scope: 'host' | 'pulls' | 'account'
  /** The service that gives tokens for some names does not answer: this tells nothing of the registry itself. */
  readonly ofTheTokenService: boolean
  /** The answer was something else than what was asked for: another length, another name, a web page. */
  readonly wrongContent: boolean
  /** A proxy or a portal on the way answered: this tells nothing of the registry itself. */
  readonly byProxy: boolean
  /** The configuration says that it is never asked. */
  readonly offline: boolean
  /** This process may open no more connections: this tells nothing of the registry itself. */
  readonly outOfFiles: boolean

  constructor(failure: UpstreamFailure, upstream: string, message: string, facts: UpstreamErrorFacts = {}) {
    super(message, { cause: facts.cause })
    this.failure = failure
    this.upstream = upstream
    this.status = facts.status
    this.retryAfterMs = facts.retryAfterMs
    this.insufficientScope = facts.insufficientScope ?? false
    this.scope = facts.scope ?? 'host'
    this.ofTheTokenService = facts.ofTheTokenService ?? false
    this.wrongContent = facts.wrongContent ?? false
    this.byProxy = facts.byProxy ?? false
    this.offline = facts.offline ?? false
    this.outOfFiles = isOutOfFiles(facts.cause)
  }

  /** No answer, no more requests, or a server error; any other failure is about one name, or about pulls alone. */
  get isHostwide(): boolean {
    const { failure, status, scope, ofTheTokenService, byProxy, outOfFiles } = this
    if (outOfFiles) return false
    if (byProxy) return true
    if (ofTheTokenService) return false
    if (failure === 'busy') return scope !== 'pulls'
    return failure === 'unreachable' || (failure === 'broken' && (status ?? 0) >= 500)
  }
}

/**
 * Makes an error fit to be remembered: until its stack is read, V8 keeps all frames, and with them the requests,
 * connections and buffers whose methods they are. The same is true of its causes.
 */
export function withoutFrames<E extends Error>(error: E): E {
  let it: unknown = error
  while (it instanceof Error) {
    String(it.stack)
    it = it.cause
  }
  return error
}
