/**
 * One request, the ways to answer it, and the fields of its log line.
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
  /** nginx sends the body: this process sends none of its bytes. */
  accel?: true
  /** The client took nothing, or sent nothing, for too long. */
  timedOut?: true
}

/** Bytes of a refused body that are read and dropped, so that the client gets to read the answer. */
const MAX_DISCARDED_BYTES = 8 * 1024 * 1024
/** Time that a longer body, or one of unknown length, may then still take. */
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
  /** The client's address, read at the start because a closed socket no longer knows it. */
  readonly remote: string | undefined
  /** Resolves when the response has ended or the client has left. */
  readonly closed: Promise<void>
  /** Bytes of the body that were sent. */
  bytes = 0
  readonly #leave = new AbortController()
  readonly #close: () => void
  /** Only for a chunked body, whose length is unknown before its end. */
  readonly #meter: ChunkMeter | undefined
  /** Length of a body that Node got in one piece. */
  #whole = 0
  /** The head states the body's length. */
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
    // No chunk is parsed before a handler accepts the body: reading it resumes the socket.
    this.#meter = ChunkMeter.of(request)
    if (this.#meter !== undefined) request.socket.pause()
    const wanted = request.headers['x-request-id']
    this.id = typeof wanted === 'string' && SANE_REQUEST_ID.test(wanted) ? wanted : randomUUID()
    const { promise, resolve } = Promise.withResolvers<undefined>()
    this.closed = promise
    this.#close = () => resolve(undefined)
    // Without the option Node would silently send a body shorter than its Content-Length.
    response.strictContentLength = true
    response.on('close', () => this.over())
    // The write's callback reports the error; without a listener the event would end the process.
    response.on('error', nobodyListens)
  }

  /** Aborts when the client leaves before its answer is complete. */
  get signal(): AbortSignal {
    return this.#leave.signal
  }

  get isHead(): boolean {
    return this.method === 'HEAD'
  }

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

  /** The body was cut off because of tiny chunks: the end that its reader saw is not the true one. */
  get chunksAreTooSmall(): boolean {
    return this.#meter?.tooSmall ?? false
  }

  /** Sends `100 Continue` to a client that waits for it. */
  sendContinue(): void {
    if (this.#welcomed) return
    this.#welcomed = true
    if (this.request.headers.expect !== undefined && !this.request.complete) this.response.writeContinue()
  }

  /** Marks the exchange as ended: the answer is complete, or the client has left. */
  over(): void {
    if (this.response.writableFinished) this.bytes += this.#whole
    else this.#leave.abort(new Error('the client has left'))
    // A body that no handler has read is still paused, and the connection's next request is behind it.
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

  /** Sets no header before `writeHead`: one call with all headers is Node's fastest way. */
  #writeHead(status: number, headers: OutgoingHttpHeaders): void {
    // The unread rest of a chunked body is of unknown length, so the connection ends with this answer.
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

  /** All errors leave by this method. */
  fail(error: unknown, headers: OutgoingHttpHeaders = {}): void {
    // After the client has left an error is only its consequence. A write may notice that before the signal does.
    if (this.signal.aborted || this.request.socket.destroyed) return
    this.#failure = error
    if (this.response.headersSent) {
      // A failure of the cleanup after the end is logged, and changes nothing for the client.
      if (!this.response.writableEnded) this.abort()
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
      // An answer to HEAD has no body, so a header has to carry the reason.
      ...(this.isHead && told.code === 'DENIED' ? { Warning: warningHeader(told.message) } : {}),
    }
    if (lingers) void this.#sendAndLinger(told.status, described, body)
    else this.sendBytes(told.status, described, body)
  }

  /** Ends the connection in a way that shows the client that its answer is incomplete. */
  abort(): void {
    const { response } = this
    const { socket } = response
    // Where the connection's end marks the body's end (HTTP/1.0), an orderly close would look like success.
    const endsByClose = !response.chunkedEncoding && !this.#measured
    if (endsByClose && socket && !('encrypted' in socket)) socket.resetAndDestroy()
    else response.destroy()
  }

  /**
   * Answers a request whose body goes on without a known end, or with a distant one. The answer is sent at once; the
   * connection ends with the body, or some time after enough of it was read. Closing at once would take the answer from
   * a client that is still sending (RFC 9112 § 9.6).
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
      // The body has ended, or is too long: no more of it is read while the client reads the answer. Node resumes a
      // socket one tick after the read: it would undo a pause before that, and ignore any later one.
      await nextTurn()
      request.socket.pause()
      if (this.#goesOnWithoutEnd || this.#goesOnForLong) await over
    } finally {
      clearTimeout(timer)
      response.end()
    }
  }

  /** Reads and drops the body, up to {@link MAX_DISCARDED_BYTES}. Never rejects. */
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

  /** A chunked body whose end has not come, so that its length is unknown. */
  get #goesOnWithoutEnd(): boolean {
    return this.#meter !== undefined && (!this.request.complete || this.#meter.tooSmall)
  }

  /** The announced length exceeds what is read and dropped. */
  get #goesOnForLong(): boolean {
    const { complete, headers } = this.request
    return !complete && Number(headers['content-length'] ?? 0) > MAX_DISCARDED_BYTES
  }

  /** The client waits for `100 Continue`, and may never send its body. */
  get #waitsForWelcome(): boolean {
    return this.request.headers.expect !== undefined && !this.#welcomed
  }

  /**
   * Drops the body, so that the connection's next request is parsed from its beginning. A client that waits for
   * `100 Continue` may send its body or not, so that connection cannot be used again.
   */
  #discardBody(): void {
    const { request } = this
    if (!this.hasBody || request.complete) return
    if (this.#waitsForWelcome) this.endConnection()
    else request.resume()
  }
}
