/**
 * Another registry, as the cache sees it.
 *
 * Absent is `undefined`, and only when the registry itself said so in a way that can be believed (docs/architecture.md:
 * a GET answered 404 with an OCI error code in its body). Whatever else goes wrong is an {@link UpstreamError}.
 */
import type { Bytes, Milliseconds } from '../base/units.ts'
import type { Digest } from '../oci/digest.ts'
import { isOutOfFiles } from '../base/open-files.ts'
import type { Reference, RepositoryName } from '../oci/reference.ts'
import type { UpstreamStatus } from './status.ts'

export interface Upstream {
  /** The registry name of the configuration: `docker.io`. */
  readonly key: string
  /** URL of who answers while this one itself does not, where somebody does. */
  readonly fallback?: string | undefined

  /**
   * Costs no Docker Hub pull. `absent` is a hint only: a HEAD has no body that could prove it.
   * A registry that answers HEAD without digest or length gives `unusable`: ask with GET.
   */
  headManifest(name: RepositoryName, reference: Reference, signal: AbortSignal): Promise<UpstreamHead>

  /** Whole and within 4 MiB; by digest also verified. Costs a Docker Hub pull. */
  manifest(
    name: RepositoryName,
    reference: Reference,
    signal: AbortSignal,
  ): Promise<UpstreamManifest | undefined>

  /** Does this repository have that blob? Asks without moving its bytes. */
  headBlob(
    name: RepositoryName,
    digest: Digest,
    signal: AbortSignal,
  ): Promise<{ size: Bytes | undefined } | undefined>

  /**
   * The blob from `from` on, to `to` (exclusive) when given. Resolves when the head has come.
   * What was asked is not always what comes: `start` says where the body really begins.
   */
  blob(name: RepositoryName, digest: Digest, request: BlobRequest): Promise<UpstreamBlob | undefined>

  /** What came for that blob was wrong: whoever has it from more than one place asks another next time. */
  avoidSourcesOf?(digest: Digest): void

  /**
   * One page, as it came. `query` is handed on as it is (cursors are opaque).
   *
   * @param etag of the page that is known: with it upstream may answer that nothing has changed
   */
  tags(
    name: RepositoryName,
    query: URLSearchParams,
    signal: AbortSignal,
    etag?: string,
  ): Promise<TagPage | undefined>

  /** `undefined`: that registry has no referrers API. `etag` as in {@link tags}. */
  referrers(
    name: RepositoryName,
    subject: Digest,
    query: URLSearchParams,
    signal: AbortSignal,
    etag?: string,
  ): Promise<ReferrersPage | undefined>

  /** How it does. Cheap: asks nobody. */
  status(): UpstreamStatus

  /**
   * What every question is refused with for now, unasked: its breaker is open. undefined: it may be asked, or
   * somebody else answers in its place. Cheap: asks nobody.
   */
  paused?(): UpstreamError | undefined

  /**
   * Why no pull is to be spent now on what has a cached answer: it would be refused, or fewer than `reserve` are
   * left to every account that could be asked. undefined: nothing speaks against it. Cheap: asks nobody.
   */
  quotaBelow(reserve: number): UpstreamError | undefined

  close(): Promise<void>
}

export type UpstreamHead =
  | { readonly result: 'present'; readonly digest: Digest; readonly size: Bytes; readonly mediaType: string }
  | { readonly result: 'absent' }
  | { readonly result: 'unusable' }

export interface UpstreamManifest {
  readonly bytes: Buffer
  /** Computed from the bytes; a header that contradicts them was an error. */
  readonly digest: Digest
  /** `Content-Type` as it came, or undefined. What to serve it as is decided by whoever parses the bytes. */
  readonly contentType: string | undefined
  /** What it warned of, for people: the text of a `Warning: 299`. */
  readonly warning?: string
}

export interface BlobRequest {
  readonly from: Bytes
  readonly to?: Bytes
  /**
   * More than the part is of no use: where upstream gives none, another body comes in its place, or an empty one. It is
   * asked for once: whoever wants it knows what to do without.
   */
  readonly partialOnly?: boolean | undefined
  /** One of several at once: a 429 is no reason to leave upstream alone, since fewer may do. */
  readonly parallel?: boolean | undefined
  /** Of the whole blob, as it has been told to those who wait for it: no answer that says another is taken. */
  readonly size?: Bytes | undefined
  /** Of the whole blob, as a manifest says: a body of untold length that ends before was probably cut off. */
  readonly expectedSize?: Bytes | undefined
  /** Clients have been told to expect the rest of it: worth a question that others are spared. */
  readonly committed?: boolean | undefined
  readonly signal: AbortSignal
}

export interface UpstreamBlob {
  /** Offset in the blob of the body's first byte: `from`, or 0 where the registry ignored the range. */
  readonly start: Bytes
  /** Of the whole blob, as far as the heads tell. */
  readonly size: Bytes | undefined
  /** The body is the part that was asked for, and ends with it. */
  readonly ranged?: boolean
  /**
   * What arrived since the last turn, in order; ends when the body ended as its framing says. Throws
   * UpstreamError when it broke off. Holds at most a few MiB: while nobody asks, the socket is paused.
   * Leaving the loop early closes the connection.
   */
  readonly body: AsyncIterable<readonly Buffer[]>
  /** Gives the connection up without reading on; a no-op after the end. */
  cancel(): void
}

interface ListPage {
  /** Query of the next page, from `Link`. */
  readonly next: URLSearchParams | undefined
  readonly etag?: string | undefined
  /** What is known by the ETag that came with the question is still so: nothing else is in this page. */
  readonly unchanged?: true
}

export interface TagPage extends ListPage {
  readonly tags: readonly string[]
}

export interface ReferrersPage extends ListPage {
  /** An image index, verbatim. */
  readonly bytes: Buffer
  /** `OCI-Filters-Applied`, as it came. */
  readonly filtersApplied: string | undefined
}

/**
 * - `unreachable`: no answer (connection, TLS, time-out, a body that broke off)
 * - `busy`: 429
 * - `broken`: 5xx, or an answer that makes no sense
 * - `denied`: 401 or 403 after our credentials were tried
 */
export type UpstreamFailure = 'unreachable' | 'busy' | 'broken' | 'denied'

export class UpstreamError extends Error {
  override readonly name = 'UpstreamError'
  readonly failure: UpstreamFailure
  readonly upstream: string
  readonly status: number | undefined
  /** From `Retry-After`. */
  readonly retryAfterMs: Milliseconds | undefined
  /**
   * 401 `insufficient_scope` for a token issued just now: Docker Hub's way of saying "no such repository".
   */
  readonly insufficientScope: boolean
  /** Its token service refused, or there were no credentials to be had: of what was asked for, nothing was said. */
  readonly ofTheAccount: boolean
  /** The service that gives tokens for some names does not answer: of the registry itself nothing is known. */
  readonly ofTheTokenService: boolean
  /** A limit of pulls: HEADs and blobs may well be answered. */
  readonly ofPulls: boolean
  /** It answered, with something else than what was asked for: another length, another name, a web page. */
  readonly wrongContent: boolean
  /** Said by somebody on the way, a proxy or a portal: the registry was not heard. */
  readonly byProxy: boolean
  /** It is not to be asked at all: the configuration says so. */
  readonly offline: boolean
  /** It could not be asked, because this process may open no more connections: that says nothing of it. */
  readonly outOfFiles: boolean

  constructor(
    failure: UpstreamFailure,
    upstream: string,
    message: string,
    facts: {
      status?: number
      retryAfterMs?: Milliseconds
      insufficientScope?: boolean
      ofTheAccount?: boolean
      ofTheTokenService?: boolean
      ofPulls?: boolean
      wrongContent?: boolean
      byProxy?: boolean
      offline?: boolean
      cause?: unknown
    } = {},
  ) {
    super(message, { cause: facts.cause })
    this.failure = failure
    this.upstream = upstream
    this.status = facts.status
    this.retryAfterMs = facts.retryAfterMs
    this.insufficientScope = facts.insufficientScope ?? false
    this.ofTheAccount = facts.ofTheAccount ?? false
    this.ofTheTokenService = facts.ofTheTokenService ?? false
    this.ofPulls = facts.ofPulls ?? false
    this.wrongContent = facts.wrongContent ?? false
    this.byProxy = facts.byProxy ?? false
    this.offline = facts.offline ?? false
    this.outOfFiles = isOutOfFiles(facts.cause)
  }

  /** No answer, no more requests, or a server error; anything else was said about one name, or of pulls alone. */
  get ofTheWhole(): boolean {
    const { failure, status, ofPulls, ofTheTokenService, byProxy, outOfFiles } = this
    if (outOfFiles) return false
    if (byProxy) return true
    if (ofTheTokenService) return false
    if (failure === 'busy') return !ofPulls
    return failure === 'unreachable' || (failure === 'broken' && (status ?? 0) >= 500)
  }
}

/**
 * For whoever remembers an error: until its stack is read, V8 keeps all frames, and with them the requests, connections
 * and buffers whose methods they are. The same of its causes.
 */
export function withoutFrames<E extends Error>(error: E): E {
  let it: unknown = error
  while (it instanceof Error) {
    String(it.stack)
    it = it.cause
  }
  return error
}
