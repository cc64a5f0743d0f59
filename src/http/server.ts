/**
 * HTTP server: its limits, its connections, its graceful shutdown. One log line per request.
 *
 * Requests of one connection are answered one after the other, whatever was pipelined; nothing is written
 * into a connection while a response is under way on it. `close` lets what runs come to its end.
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
  /** System calls that Node lacks, where they can be had. */
  readonly kernel?: LinuxSyscalls | undefined
  /** Default true: the kernel sends files without our copying them. */
  readonly sendfile?: boolean
  /** What clients call us. Default: whatever they like. */
  readonly publicUrl?: string | undefined
  /** Lets an nginx in front of us send them, where there is one. */
  readonly accel?: XAccelRedirect | undefined
  /** Used where the server listens on a loopback address, and nowhere else. */
  readonly ifLoopback?: IfLoopback | undefined
  /** Connections of clients at once. Default: as many as come. */
  readonly mostConnections?: number | undefined
  /** Told when a client is refused at that limit, or at that of open files. */
  readonly openFiles?: Pick<OpenFiles, 'met'> | undefined
}

export interface IfLoopback {
  /** Sees every request. */
  readonly proxyWatch: Pick<ProxyWatch, 'see'>
  /** Requests under other hosts are refused. */
  readonly hosts: Pick<AllowedHosts, 'serves'>
}

export interface HttpTimeouts {
  /** A request's head has to arrive in this time. */
  readonly headersMs: number
  /** Between two requests of a connection; longer than load balancers wait. */
  readonly keepAliveMs: number
  /** A client may take nothing, or send nothing of a body it has announced, for so long. */
  readonly idleMs: number
  /** How often `headersMs` is checked. */
  readonly checkMs: number
  /** How often the certificate's files are looked at. */
  readonly tlsPollMs: number
}

const TIMEOUTS: HttpTimeouts = {
  headersMs: 15_000,
  keepAliveMs: 75_000,
  idleMs: 300_000,
  checkMs: 5000,
  tlsPollMs: 5000,
}

/** Handlers get so long to release what they hold, after their connections are gone. */
const UNWIND_MS = 5000

/** The most requests of one connection that wait for their turn. No known client pipelines at all. */
const MAX_PIPELINED = 32

const PROBES: ReadonlySet<string> = new Set(['/livez', '/readyz', '/metrics'])

interface Connection {
  /** Requests that are not answered yet. */
  open: number
  /** Since when there are none; monotonic. */
  idleSince: number
  /** Resolves when the request that came last is answered. */
  last: Promise<void>
  /** The request that came last. */
  request: IncomingMessage | undefined
  /** The request that is being answered. */
  answering: Exchange | undefined
  /** The parser has given up on it; nothing more will be read. */
  broken: boolean
}

export class HttpServer {
  readonly #options: HttpServerOptions
  readonly #timeouts: HttpTimeouts
  readonly #services: Services
  readonly #server: Server | TlsServer
  readonly #sockets = new Set<Socket>()
  /** With TLS a connection counts from the end of its handshake on. */
  readonly #limit: ConnectionLimit<Socket>
  readonly #connections = new WeakMap<Duplex, Connection>()
  /** Each until its handler has returned and its log line is written. */
  readonly #running = new Map<Exchange, Promise<void>>()
  #draining = false
  #listener = ''
  #ifLoopback: IfLoopback | undefined
  #certificate: ServerCertificate | undefined

  /** A request is being answered. */
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
      // No limit for a whole request: a layer may take an hour. Idle ones are ended by `idleMs`.
      requestTimeout: 0,
      headersTimeout: this.#timeouts.headersMs,
      keepAliveTimeout: this.#timeouts.keepAliveMs,
      connectionsCheckingInterval: this.#timeouts.checkMs,
      maxHeaderSize: 64 * 1024,
      // Our own refusal has a body.
      requireHostHeader: false,
    }
    this.#limit = new ConnectionLimit(options.mostConnections, (socket) => this.#connectionOf(socket))
    this.#server = options.tls
      ? createTlsServer({ ...limits, handshakeTimeout: this.#timeouts.headersMs })
      : createServer(limits)
    if (options.mostConnections !== undefined) this.limitConnections(options.mostConnections)
    this.#hear()
  }

  /** @throws TlsError, or the system's error when the address cannot be had */
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

  /** Limits the clients that are connected at once, from now on. */
  limitConnections(most: number): void {
    this.#limit.limitTo(most)
    this.#server.maxConnections = this.#limit.acceptable
  }

  /** Graceful shutdown: stops accepting, waits up to `graceMs` for what runs, breaks the rest off. */
  async close(graceMs: number): Promise<void> {
    this.#draining = true
    this.#certificate?.stopWatching()
    const { promise: closed, resolve } = Promise.withResolvers<undefined>()
    // Stops listening, and closes the connections on which nothing runs. An error means it never listened.
    this.#server.close(() => resolve(undefined))
    for (const exchange of this.#running.keys()) exchange.endConnection()
    await this.#idle(graceMs)
    for (const exchange of this.#running.keys()) exchange.breakOff()
    // A connection may have sent half a head, or half a TLS handshake: no exchange ends it.
    for (const socket of this.#sockets) socket.destroy()
    await this.#idle(UNWIND_MS)
    await closed
  }

  /** Waits until no request runs, including those that arrive meanwhile on connections that were busy. */
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
      // The handler that reads the body sends `100 Continue`; a refusal goes out without it.
      .on('checkContinue', run)
      .on('checkExpectation', (request: IncomingMessage, response: ServerResponse) => {
        this.#begin(request, response, () => Promise.reject(new OciError('EXPECTATION_FAILED')))
      })
      .on('connect', (request, socket) => {
        // An error must not be written into the middle of another answer.
        if (this.#connectionOf(request.socket).open > 0) socket.destroy()
        else sendRawError(socket, new OciError('UNSUPPORTED', { method: 'CONNECT' }, { allow: [] }))
      })
      .on('clientError', (error, socket) => this.#refuseNonsense(error, socket))
      // Set once for the connection: setting it for each response would cost more than to look up which one timed out.
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
      // A response that waited for its turn had no socket and hears no close of it: the answer before it may have ended
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

  /** @throws OciError to a client that came when there was no place; probes of the process are answered all the same */
  #refuseSurplus(exchange: Exchange): void {
    const refusal = this.#limit.refusal(exchange.request.socket)
    if (refusal === undefined) return
    exchange.endConnection()
    if (!PROBES.has(exchange.request.url ?? '')) throw refusal
  }

  /** A process out of file descriptors is an OciError: it is no bug, and no upstream's fault. */
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

  /** Answers what is no HTTP, after the proper requests that came before it. */
  #refuseNonsense(error: NodeJS.ErrnoException, socket: Duplex): void {
    const told = parserError(error)
    if (told === undefined) {
      socket.destroy()
      return
    }
    const connection = this.#connectionOf(socket)
    // The parser reports the same error again with every further piece.
    if (connection.broken) return
    connection.broken = true
    this.#options.log.debug({ code: told.code, parser: error.code }, 'not a request')
    const { request } = connection
    if (connection.open > 0 && request?.complete === false) {
      // The body of that request breaks off, or is none: the handler that reads it would wait for ever.
      request.destroy(error)
      return
    }
    void connection.last.then(() => sendRawError(socket, told))
  }
}
