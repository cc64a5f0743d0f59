/**
 * HTTP server: its limits, its connections, its graceful shutdown. One log line per request.
 *
 * Pipelined requests of one connection are answered in order, one at a time; nothing else is written into a connection
 * while a response is under way on it. `close` lets running requests finish.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { createServer as createTlsServer, Server as TlsServer } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Logger } from 'pino'
import { OciError } from '../oci/errors.ts'
import type { Registry } from '../registry/registry.ts'
import type { Events } from '../registry/notifications/event.ts'
import type { Search } from '../registry/search.ts'
import { isOutOfFiles, outOfFiles } from '../base/open-files.ts'
import type { Metrics } from '../telemetry/metrics.ts'
import type { OpenFiles } from '../telemetry/open-files.ts'
import { ConnectionLimit } from './connection-limit.ts'
import { serve } from './dispatch.ts'
import { Exchange } from './exchange.ts'
import type { XAccelRedirect } from './transfer/x-accel-redirect.ts'
import type { ExplainEndpoint, Services } from './services.ts'
import type { LinuxSyscalls } from './transfer/linux-syscalls.ts'
import { BufferPool } from './transfer/buffer-pool.ts'
import { isLoopback } from '../base/loopback.ts'
import type { ProxyWatch } from './proxy-detection.ts'
import { parserError, sendRawError } from './raw-error.ts'
import { logAccess } from './access-log.ts'
import type { AllowedHosts } from './allowed-hosts.ts'
import { ServerCertificate, type TlsFiles } from './tls.ts'

export interface HttpServerOptions {
  readonly registry: Registry
  readonly search: Pick<Search, 'find'>
  readonly explain: ExplainEndpoint
  readonly events: Pick<Events, 'pulled'>
  readonly metrics: Metrics
  readonly log: Logger
  readonly tls?: TlsFiles | undefined
  readonly timeouts?: Partial<HttpTimeouts>
  /** System calls that Node lacks, where they are available. */
  readonly kernel?: LinuxSyscalls | undefined
  /** Default true: sendfile(2) instead of a copy through this process. */
  readonly sendfile?: boolean
  /** URL of this server for its clients. Default: unknown. */
  readonly publicUrl?: string | undefined
  /** Lets the nginx in front send the files; undefined: there is none. */
  readonly accel?: XAccelRedirect | undefined
  /** Used where the server listens on a loopback address, and nowhere else. */
  readonly ifLoopback?: IfLoopback | undefined
  /** Limit of client connections. Default: none. */
  readonly mostConnections?: number | undefined
  /** Told when that limit, or the limit of open files, makes the server refuse a client. */
  readonly openFiles?: Pick<OpenFiles, 'met'> | undefined
}

export interface IfLoopback {
  /** Sees every request. */
  readonly proxyWatch: Pick<ProxyWatch, 'see'>
  /** Requests under other `Host` names are refused. */
  readonly hosts: Pick<AllowedHosts, 'serves'>
}

export interface HttpTimeouts {
  /** Limit for the arrival of a request's head. */
  readonly headersMs: number
  /** Idle time between two requests of a connection; longer than that of load balancers, so that they close first. */
  readonly keepAliveMs: number
  /** Longest time in which a client takes nothing, or sends nothing of an announced body. */
  readonly idleMs: number
  /** Interval of the check of `headersMs`. */
  readonly checkMs: number
  /** Interval of the polls of the certificate's files. */
  readonly tlsPollMs: number
}

const TIMEOUTS: HttpTimeouts = {
  headersMs: 15_000,
  keepAliveMs: 75_000,
  idleMs: 300_000,
  checkMs: 5000,
  tlsPollMs: 5000,
}

/** Time for handlers to release their resources after their connections were closed. */
const UNWIND_MS = 5000

/** Pipelined requests of one connection that may wait. No known client pipelines at all. */
const MAX_PIPELINED = 32

const PROBES: ReadonlySet<string> = new Set(['/livez', '/readyz', '/metrics'])

interface Connection {
  /** Unanswered requests. */
  open: number
  /** Monotonic ms since which none is unanswered. */
  idleSince: number
  /** Resolves when the latest request is answered. */
  last: Promise<void>
  /** The latest request. */
  request: IncomingMessage | undefined
  answering: Exchange | undefined
  /** The parser has failed; it reads nothing more. */
  broken: boolean
}

export class HttpServer {
  readonly #options: HttpServerOptions
  readonly #timeouts: HttpTimeouts
  readonly #services: Services
  readonly #server: Server | TlsServer
  readonly #sockets = new Set<Socket>()
  /** A TLS connection is counted once its handshake is complete. */
  readonly #limit: ConnectionLimit<Socket>
  readonly #connections = new WeakMap<Duplex, Connection>()
  /** Each request is in here until its handler has returned and its log line is written. */
  readonly #running = new Map<Exchange, Promise<void>>()
  #draining = false
  #listener = ''
  #ifLoopback: IfLoopback | undefined
  #certificate: ServerCertificate | undefined

  get busy(): boolean {
    return this.#running.size > 0
  }

  constructor(options: HttpServerOptions) {
    this.#options = options
    this.#timeouts = { ...TIMEOUTS, ...options.timeouts }
    const { registry, search, explain, events, metrics } = options
    this.#services = {
      registry,
      search,
      explain,
      events,
      metrics,
      buffers: new BufferPool(),
      kernel: options.kernel,
      sendfile: options.sendfile ?? true,
      accel: options.accel,
      draining: () => this.#draining,
      certificate: () => this.#certificate?.health(Date.now()),
      listener: () => this.#listener,
      publicUrl: options.publicUrl,
      proxyWatch: () => this.#ifLoopback?.proxyWatch,
      hosts: () => this.#ifLoopback?.hosts,
    }
    const limits = {
      // No limit for a whole request: a layer may take an hour. `idleMs` ends stalled ones.
      requestTimeout: 0,
      headersTimeout: this.#timeouts.headersMs,
      keepAliveTimeout: this.#timeouts.keepAliveMs,
      connectionsCheckingInterval: this.#timeouts.checkMs,
      maxHeaderSize: 64 * 1024,
      // `readHost` checks it instead, and answers with a body.
      requireHostHeader: false,
    }
    this.#limit = new ConnectionLimit(options.mostConnections, (socket) => this.#connectionOf(socket))
    this.#server = options.tls
      ? createTlsServer({ ...limits, handshakeTimeout: this.#timeouts.headersMs })
      : createServer(limits)
    if (options.mostConnections !== undefined) this.limitConnections(options.mostConnections)
    this.#hear()
  }

  /** @throws TlsError, or the system's error when the address is not available */
  async listen(host: string, port: number): Promise<AddressInfo> {
    const { tls } = this.#options
    if (tls && this.#server instanceof TlsServer) {
      const { log, metrics } = this.#options
      const certificate = new ServerCertificate(tls, this.#server, { log, metrics })
      await certificate.use()
      certificate.watch(this.#timeouts.tlsPollMs)
      this.#certificate = certificate
    }
    const { promise, resolve, reject } = Promise.withResolvers<AddressInfo>()
    this.#server.once('error', reject)
    this.#server.listen({ host, port }, () => {
      this.#server.off('error', reject)
      const address = this.#server.address() as AddressInfo
      this.#listener = address.address
      if (isLoopback(address.address)) this.#ifLoopback = this.#options.ifLoopback
      resolve(address)
    })
    try {
      return await promise
    } catch (error) {
      this.#certificate?.stopWatching()
      throw error
    }
  }

  limitConnections(most: number): void {
    this.#limit.limitTo(most)
    this.#server.maxConnections = this.#limit.acceptable
  }

  /** Graceful shutdown: stops accepting, waits up to `graceMs` for running requests, breaks the others off. */
  async close(graceMs: number): Promise<void> {
    this.#draining = true
    this.#certificate?.stopWatching()
    const { promise: closed, resolve } = Promise.withResolvers<undefined>()
    // Stops listening, and closes idle connections. An error means that the server never listened.
    this.#server.close(() => resolve(undefined))
    for (const exchange of this.#running.keys()) exchange.endConnection()
    await this.#idle(graceMs)
    for (const exchange of this.#running.keys()) exchange.abort()
    // A connection with half a head, or half a TLS handshake, has no exchange that would end it.
    for (const socket of this.#sockets) socket.destroy()
    await this.#idle(UNWIND_MS)
    await closed
  }

  /** Waits until no request runs, including those that arrive meanwhile on busy connections. */
  async #idle(atMostMs: number): Promise<void> {
    const over = Promise.withResolvers<undefined>()
    const timer = setTimeout(() => over.resolve(undefined), atMostMs)
    let waiting = true
    const none = async (): Promise<void> => {
      while (waiting && this.#running.size > 0) await Promise.all(this.#running.values())
    }
    await Promise.race([over.promise, none()])
    waiting = false
    clearTimeout(timer)
  }

  #hear(): void {
    const run = (request: IncomingMessage, response: ServerResponse): void => {
      this.#begin(request, response, serve)
    }
    this.#server
      .on('connection', (socket: Socket) => {
        this.#sockets.add(socket)
        socket.once('close', () => this.#sockets.delete(socket))
      })
      .on(this.#options.tls ? 'secureConnection' : 'connection', (socket: Socket) => {
        socket.once('close', () => this.#limit.leave(socket))
        if (!this.#limit.enter(socket)) this.#options.openFiles?.met('connection')
      })
      .on('drop', () => this.#options.openFiles?.met('connection'))
      .on('request', run)
      // `100 Continue` is sent by the handler that reads the body; a refusal goes out without it.
      .on('checkContinue', run)
      .on('checkExpectation', (request: IncomingMessage, response: ServerResponse) => {
        this.#begin(request, response, () => Promise.reject(new OciError('EXPECTATION_FAILED')))
      })
      .on('connect', (request, socket) => {
        // The error must not land in the middle of another answer.
        if (this.#connectionOf(request.socket).open > 0) socket.destroy()
        else sendRawError(socket, new OciError('UNSUPPORTED', { method: 'CONNECT' }, { allow: [] }))
      })
      .on('clientError', (error, socket) => this.#refuseNonsense(error, socket))
      // One timeout per connection is cheaper than one per response, even with the search for the stalled one.
      .setTimeout(this.#timeouts.idleMs, (socket: Socket) => {
        const { answering } = this.#connectionOf(socket)
        if (answering !== undefined) answering.fields.timedOut = true
        socket.destroy()
      })
  }

  #begin(request: IncomingMessage, response: ServerResponse, answer: typeof serve): void {
    const exchange = new Exchange(request, response)
    const connection = this.#connectionOf(request.socket)
    const turn = connection.last
    connection.last = exchange.closed
    connection.request = request
    if (++connection.open > MAX_PIPELINED) request.socket.destroy()
    const done = this.#run(exchange, turn, answer).then(() => {
      connection.open--
      connection.idleSince = performance.now()
      if (connection.answering === exchange) connection.answering = undefined
      this.#running.delete(exchange)
      logAccess(exchange, this.#options.log, this.#options.metrics)
    })
    this.#running.set(exchange, done)
  }

  async #run(exchange: Exchange, turn: Promise<void>, answer: typeof serve): Promise<void> {
    const { socket } = exchange.request
    const connection = this.#connectionOf(socket)
    try {
      await turn
      // A response without a socket (its turn had not come) gets no `close` event: the answer before it may have ended
      // the connection.
      if (socket.destroyed || socket.writableEnded) exchange.over()
      else {
        if (this.#draining) exchange.endConnection()
        connection.answering = exchange
        this.#refuseSurplus(exchange)
        await answer(exchange, this.#services)
      }
    } catch (error) {
      exchange.fail(this.#asOurs(error))
    }
    await exchange.closed
  }

  /** @throws OciError for a connection above the limit; its probes are answered nevertheless */
  #refuseSurplus(exchange: Exchange): void {
    const refusal = this.#limit.refusal(exchange.request.socket)
    if (refusal === undefined) return
    exchange.endConnection()
    if (!PROBES.has(exchange.request.url ?? '')) throw refusal
  }

  /** Exhausted file descriptors are an OciError: neither a bug nor the upstream's failure. */
  #asOurs(error: unknown): unknown {
    if (!isOutOfFiles(error)) return error
    this.#options.openFiles?.met('request', error)
    return error instanceof OciError ? error : outOfFiles(error)
  }

  #connectionOf(socket: Duplex): Connection {
    const known = this.#connections.get(socket)
    if (known) return known
    const connection: Connection = {
      ...{ open: 0, idleSince: performance.now(), last: Promise.resolve(), broken: false },
      ...{ request: undefined, answering: undefined },
    }
    this.#connections.set(socket, connection)
    return connection
  }

  /** Answers bytes that are no HTTP, after the valid requests before them. */
  #refuseNonsense(error: NodeJS.ErrnoException, socket: Duplex): void {
    const told = parserError(error)
    if (told === undefined) {
      socket.destroy()
      return
    }
    const connection = this.#connectionOf(socket)
    // The parser repeats its error for every further piece.
    if (connection.broken) return
    connection.broken = true
    this.#options.log.debug({ code: told.code, parser: error.code }, 'not a request')
    const { request } = connection
    if (connection.open > 0 && request?.complete === false) {
      // The body of that request is cut off or malformed: the handler that reads it would wait for ever.
      request.destroy(error)
      return
    }
    void connection.last.then(() => sendRawError(socket, told))
  }
}
