/**
 * One request's hands: what it wants, what is known about it, and the few ways of answering it.
 *
 * The head is sent once. Before it, an error becomes a JSON body; after it, the connection is broken off, so
 * that nobody takes half an answer for a whole one. Handlers add log fields and never log the request.
 */
import { randomUUID } from 'node:crypto'
import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { OciError } from '../oci/errors.ts'
import type { Endpoint } from './routes.ts'
import type { ManifestHead } from '../registry/repository.ts'
import { ChunkMeter } from './chunk-meter.ts'
import { warningHeader } from './v2/warning-header.ts'

/** What handlers learn on the way; becomes part of the request's log line. */
interface ExchangeFields {
  route?: Endpoint
  repo?: string
  ref?: string
  digest?: string
  upstream?: string
  cache?: ManifestHead['cache']
  /** A part was given out of a download whose digest is not verified yet. */
  unverified?: true
  /** The kernel sent it. */
  sendfile?: true
  /** nginx sends it: none of its bytes are ours. */
  accel?: true
  /** The client took nothing, or sent nothing, for too long. */
  timedOut?: true
}

/** Whoever refuses a body reads this much of it, so that the client gets to read the answer. */
const MAX_DISCARDED_BYTES = 8 * 1024 * 1024
/** So long it has to end after that, where more comes or nobody knows how much. */
const LINGER_MS = 2000

const SANE_REQUEST_ID = /^[A-Za-z0-9][A-Za-z0-9._:=/+-]{0,127}$/

const API_VERSION = { 'Docker-Distribution-Api-Version': 'registry/2.0' }
const REGISTRY_PATH = /^\/v2(?:[/?]|$)/

const nobodyListens = (): void => undefined

export class Exchange {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly id: string
  readonly method: string
  readonly fields: ExchangeFields = {}
  readonly startedAt = performance.now()
  /** Taken now: a closed socket no longer knows. */
  readonly remote: string | undefined
  /** Resolves when the response is over, in whatever way. */
  readonly closed: Promise<void>
  /** Body bytes that left. */
  bytes = 0
  readonly #leave = new AbortController()
  readonly #close: () => void
  /** Of a chunked body: nobody knows its length before its end. */
  readonly #meter: ChunkMeter | undefined
  /** Of a body that is given away in one piece. */
  #whole = 0
  /** The head says how long the body is. */
  #measured = false
  #last = false
  #welcomed = false
  #failure: unknown
  #stopLingering: (() => void) | undefined

  constructor(request: IncomingMessage, response: ServerResponse) {
    this.request = request
    this.response = response
    this.method = request.method ?? ''
    this.remote = request.socket.remoteAddress
    // Nothing more is parsed before somebody has decided to take it: reading goes on by itself then.
    this.#meter = ChunkMeter.of(request)
    if (this.#meter !== undefined) request.socket.pause()
    const wanted = request.headers['x-request-id']
    this.id = typeof wanted === 'string' && SANE_REQUEST_ID.test(wanted) ? wanted : randomUUID()
    const { promise, resolve } = Promise.withResolvers<undefined>()
    this.closed = promise
    this.#close = () => resolve(undefined)
    // Without the option a body shorter than its Content-Length would go out silently.
    response.strictContentLength = true
    response.on('close', () => this.over())
    // Failed writes tell their callbacks; the event is only there to be listened to.
    response.on('error', nobodyListens)
  }

  /** Aborted when the client has left before its answer was complete. */
  get signal(): AbortSignal {
    return this.#leave.signal
  }

  get isHead(): boolean {
    return this.method === 'HEAD'
  }

  /** What the answer failed of, if it did. */
  get failure(): unknown {
    return this.#failure
  }

  header(name: string): string | undefined {
    const value = this.request.headers[name]
    return Array.isArray(value) ? value.join(', ') : value
  }

  get hasBody(): boolean {
    const { headers } = this.request
    return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0
  }

  /** Whoever has read the body has come to an end that is none: its chunks are too small. */
  get chunksAreTooSmall(): boolean {
    return this.#meter?.tooSmall ?? false
  }

  /** For a client that waits for `100 Continue`: its body will be read. */
  welcomeBody(): void {
    if (this.#welcomed) return
    this.#welcomed = true
    if (this.request.headers.expect !== undefined && !this.request.complete) this.response.writeContinue()
  }

  /** Or the answer is complete: it is over either way. */
  over(): void {
    if (this.response.writableFinished) this.bytes += this.#whole
    else this.#leave.abort(new Error('the client has left'))
    // Of a body that nobody wanted, and that was there.
    if (this.#meter !== undefined && !this.#last) this.request.socket.resume()
    this.#close()
  }

  /** The connection ends with this answer; too late once its head is out. */
  endConnection(): void {
    this.#last = true
    this.#stopLingering?.()
  }

  /** The head alone, now; the body follows. */
  sendHead(status: number, headers: OutgoingHttpHeaders): void {
    this.#writeHead(status, headers)
    this.response.flushHeaders()
  }

  /** A head that is the whole answer: HEAD, 304. */
  sendEmpty(status: number, headers: OutgoingHttpHeaders): void {
    this.#writeHead(status, headers)
    this.response.end()
  }

  sendBytes(status: number, headers: OutgoingHttpHeaders, body: Buffer): void {
    this.#writeHead(status, { ...headers, 'Content-Length': body.length })
    if (this.isHead) {
      this.response.end()
      return
    }
    this.#whole = body.length
    this.response.end(body)
  }

  /** All of it at once, which is the cheapest for Node: no header is ever set before. */
  #writeHead(status: number, headers: OutgoingHttpHeaders): void {
    // What was not read then is not read at all.
    if (this.#goesOnWithoutEnd) this.#last = true
    this.#measured = headers['Content-Length'] !== undefined
    this.response.writeHead(status, {
      'X-Request-Id': this.id,
      ...(REGISTRY_PATH.test(this.request.url ?? '') ? API_VERSION : {}),
      ...(this.#last ? { Connection: 'close' } : {}),
      ...headers,
    })
  }

  sendJson(status: number, value: unknown, headers: OutgoingHttpHeaders = {}): void {
    this.sendBytes(
      status,
      { 'Content-Type': 'application/json', ...headers },
      Buffer.from(JSON.stringify(value)),
    )
  }

  /** The one error exit. */
  fail(error: unknown, headers: OutgoingHttpHeaders = {}): void {
    // What an abandoned answer stumbles over on its way out is nobody's error. A write may hear of it first.
    if (this.signal.aborted || this.request.socket.destroyed) return
    this.#failure = error
    if (this.response.headersSent) {
      // What fails after the end, in cleaning up, is ours to know and nothing to the client.
      if (!this.response.writableEnded) this.breakOff()
      return
    }
    const told = error instanceof OciError ? error : new OciError('UNKNOWN')
    const lingers = (this.#goesOnWithoutEnd || this.#goesOnForLong) && !this.#waitsForWelcome
    if (lingers) this.#last = true
    else this.#discardBody()
    if (told.staleWarning !== undefined) this.fields.cache = 'stale'
    const body = Buffer.from(JSON.stringify(told))
    const described: OutgoingHttpHeaders = {
      'Content-Type': 'application/json',
      ...headers,
      ...(told.staleWarning === undefined
        ? {}
        : { 'X-Cache': 'stale', Warning: warningHeader(told.staleWarning) }),
      ...(told.status === 405 ? { Allow: (told.allow ?? []).join(', ') } : {}),
      ...(told.retryAfterSeconds === undefined ? {} : { 'Retry-After': Math.ceil(told.retryAfterSeconds) }),
      // An answer to HEAD has no body to say in why.
      ...(this.isHead && told.code === 'DENIED' ? { Warning: warningHeader(told.message) } : {}),
    }
    if (lingers) void this.#sendAndLinger(told.status, described, body)
    else this.sendBytes(told.status, described, body)
  }

  /** Ends the connection so that the client knows its answer is not complete. */
  breakOff(): void {
    const { response } = this
    const { socket } = response
    // Where only the end of the connection ends the body (HTTP/1.0), an orderly end would look like success.
    const endsByClose = !response.chunkedEncoding && !this.#measured
    if (endsByClose && socket && !('encrypted' in socket)) socket.resetAndDestroy()
    else response.destroy()
  }

  /**
   * The answer to a request whose body still comes, and has no known end or one that is far. All of it is sent now; the
   * connection ends when the body does, or some time after enough of it was read away. Whoever closes at once takes the
   * answer from a client that is still sending (RFC 9112 § 9.6).
   */
  async #sendAndLinger(status: number, headers: OutgoingHttpHeaders, body: Buffer): Promise<void> {
    const { request, response } = this
    this.#writeHead(status, { ...headers, 'Content-Length': body.length })
    response.flushHeaders()
    if (!this.isHead) {
      this.#whole = body.length
      response.write(body)
    }
    const { promise: over, resolve } = Promise.withResolvers<undefined>()
    this.#stopLingering = () => resolve(undefined)
    const timer = setTimeout(this.#stopLingering, LINGER_MS)
    void this.closed.then(this.#stopLingering)
    try {
      await Promise.race([this.#readAway(), over])
      // Its end, or too much of it. Of the rest nothing is looked at while the client reads the answer. Reading is gone on
      // with a tick after that was asked for: a pause before it would be undone, and then nobody could pause any more.
      await nextTurn()
      request.socket.pause()
      if (this.#goesOnWithoutEnd || this.#goesOnForLong) await over
    } finally {
      clearTimeout(timer)
      response.end()
    }
  }

  /** Until its end, or so far as the answer is worth. Never rejects. */
  async #readAway(): Promise<void> {
    const { request } = this
    const { socket } = request
    const before = socket.bytesRead
    const pieces = request.iterator({ destroyOnReturn: false })[Symbol.asyncIterator]()
    try {
      while (socket.bytesRead - before <= MAX_DISCARDED_BYTES) if ((await pieces.next()).done === true) return
    } catch {
      // It has left, or is not worth reading.
    }
  }

  /** Nobody knows how much more of its body comes. */
  get #goesOnWithoutEnd(): boolean {
    return this.#meter !== undefined && (!this.request.complete || this.#meter.tooSmall)
  }

  /** More of its body than is worth reading away, as it was announced. */
  get #goesOnForLong(): boolean {
    const { complete, headers } = this.request
    return !complete && Number(headers['content-length'] ?? 0) > MAX_DISCARDED_BYTES
  }

  /** It sends its body when it is told to, or not at all. */
  get #waitsForWelcome(): boolean {
    return this.request.headers.expect !== undefined && !this.#welcomed
  }

  /**
   * So that the next request on this connection is found where it begins. A client that waits for
   * `100 Continue` may send its body or not: after that the connection cannot be used.
   */
  #discardBody(): void {
    const { request } = this
    if (!this.hasBody || request.complete) return
    if (this.#waitsForWelcome) this.endConnection()
    else request.resume()
  }
}
