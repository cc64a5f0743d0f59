/**
 * One request and the ways of answering it, with what its log line says.
 *
 * The head is sent once. Before it, an error becomes a JSON body; after it, the connection is broken off, so that the
 * client does not take half an answer for a whole one. Handlers add log fields and never log the request.
 */
import { randomUUID } from 'node:crypto'
import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { OciError } from '../oci/errors.ts'
import type { Endpoint } from './routes.ts'
import type { ManifestHead } from '../registry/repository.ts'
import { ChunkMeter } from './chunk-meter.ts'
import { warningHeader } from './v2/warning-header.ts'

/** Fields of the request's log line that handlers add. */
interface ExchangeFields {
  route?: Endpoint
  repo?: string
  ref?: string
  digest?: string
  upstream?: string
  cache?: ManifestHead['cache']
  /** The client got a part of a download whose digest is not verified yet. */
  unverified?: true
  /** The kernel sent the body from its file. */
  sendfile?: true
  /** nginx sends the body: we send none of its bytes. */
  accel?: true
  /** The client took nothing, or sent nothing, for too long. */
  timedOut?: true
}

/** At most so much of a refused body is read, so that the client gets to read the answer. */
const MAX_DISCARDED_BYTES = 8 * 1024 * 1024
/** So long a refused body may go on after that, where more was announced or its length is unknown. */
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
  /** The client's address, taken at the start: a closed socket no longer knows it. */
  readonly remote: string | undefined
  /** Resolves when the response is over, in whatever way. */
  readonly closed: Promise<void>
  /** Body bytes that left. */
  bytes = 0
  readonly #leave = new AbortController()
  readonly #close: () => void
  /** Only for a chunked body, whose length is unknown before its end. */
  readonly #meter: ChunkMeter | undefined
  /** Length of a body that is given to Node in one piece. */
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
    // Nothing more is parsed before a handler has decided to take the body: reading it resumes the socket.
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
    // A failed write tells its callback; without a listener the event would end the process.
    response.on('error', nobodyListens)
  }

  /** Aborted when the client has left before its answer was complete. */
  get signal(): AbortSignal {
    return this.#leave.signal
  }

  get isHead(): boolean {
    return this.method === 'HEAD'
  }

  /** The error that the answer failed with. */
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

  /** The body was cut off because its chunks are too small: what its reader took for the end is none. */
  get chunksAreTooSmall(): boolean {
    return this.#meter?.tooSmall ?? false
  }

  /** Sends `100 Continue` to a client that waits for it: its body will be read. */
  welcomeBody(): void {
    if (this.#welcomed) return
    this.#welcomed = true
    if (this.request.headers.expect !== undefined && !this.request.complete) this.response.writeContinue()
  }

  /** The answer is complete, or the client has left. */
  over(): void {
    if (this.response.writableFinished) this.bytes += this.#whole
    else this.#leave.abort(new Error('the client has left'))
    // A body that no handler read was paused at the start, and the next request waits behind it.
    if (this.#meter !== undefined && !this.#last) this.request.socket.resume()
    this.#close()
  }

  /** Ends the connection with this answer; without effect once its head is out. */
  endConnection(): void {
    this.#last = true
    this.#stopLingering?.()
  }

  /** Sends the head at once; the body follows. */
  sendHead(status: number, headers: OutgoingHttpHeaders): void {
    this.#writeHead(status, headers)
    this.response.flushHeaders()
  }

  /** Sends a head that is the whole answer: to HEAD, 304. */
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

  /** Headers are written all at once and none is set before, which is the cheapest for Node. */
  #writeHead(status: number, headers: OutgoingHttpHeaders): void {
    // A body that has not been read to its end by now is not read at all.
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
    // An error after the client has left is none of ours. A write may hear of that before the signal does.
    if (this.signal.aborted || this.request.socket.destroyed) return
    this.#failure = error
    if (this.response.headersSent) {
      // A failure in cleaning up, after the end, is logged and changes nothing for the client.
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
      // An answer to HEAD has no body that could say why.
      ...(this.isHead && told.code === 'DENIED' ? { Warning: warningHeader(told.message) } : {}),
    }
    if (lingers) void this.#sendAndLinger(told.status, described, body)
    else this.sendBytes(told.status, described, body)
  }

  /** Ends the connection so that the client knows that its answer is not complete. */
  breakOff(): void {
    const { response } = this
    const { socket } = response
    // Where only the end of the connection ends the body (HTTP/1.0), an orderly end would look like success.
    const endsByClose = !response.chunkedEncoding && !this.#measured
    if (endsByClose && socket && !('encrypted' in socket)) socket.resetAndDestroy()
    else response.destroy()
  }

  /**
   * Answers a request whose body still comes, and has no known end or a distant one. All of the answer is sent now; the
   * connection ends when the body does, or some time after enough of it was read away. To close at once would take the
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
      // The body has ended, or is too long. Nothing more of it is read while the client reads the answer. Node resumes
      // reading one tick after it was asked to: a pause before that would be undone, and no later one would take effect.
      await nextTurn()
      request.socket.pause()
      if (this.#goesOnWithoutEnd || this.#goesOnForLong) await over
    } finally {
      clearTimeout(timer)
      response.end()
    }
  }

  /** Reads the body to its end, or as far as {@link MAX_DISCARDED_BYTES}. Never rejects. */
  async #readAway(): Promise<void> {
    const { request } = this
    const { socket } = request
    const before = socket.bytesRead
    const pieces = request.iterator({ destroyOnReturn: false })[Symbol.asyncIterator]()
    try {
      while (socket.bytesRead - before <= MAX_DISCARDED_BYTES) if ((await pieces.next()).done === true) return
    } catch {
      // The client has left, or the chunks are too small.
    }
  }

  /** A chunked body of which more comes, how much is unknown. */
  get #goesOnWithoutEnd(): boolean {
    return this.#meter !== undefined && (!this.request.complete || this.#meter.tooSmall)
  }

  /** A body whose announced length is more than is read away. */
  get #goesOnForLong(): boolean {
    const { complete, headers } = this.request
    return !complete && Number(headers['content-length'] ?? 0) > MAX_DISCARDED_BYTES
  }

  /** The client sends its body when it is told to, or not at all. */
  get #waitsForWelcome(): boolean {
    return this.request.headers.expect !== undefined && !this.#welcomed
  }

  /**
   * Reads the body away, so that the next request on this connection is found where it begins. A client that waits for
   * `100 Continue` may send its body or not: after that the connection cannot be used.
   */
  #discardBody(): void {
    const { request } = this
    if (!this.hasBody || request.complete) return
    if (this.#waitsForWelcome) this.endConnection()
    else request.resume()
  }
}
