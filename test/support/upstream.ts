/**
 * A registry that is not there: three real HTTP servers (registry, token service, CDN) on three ports, with
 * a log of what they saw and faults that can be switched on for any request at any time.
 *
 * Spec: the simulator section of the wire notes. Needs nothing of the test runner, so that the demo and the
 * benchmarks use it too.
 */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { createServer as createTlsServer, Server as TlsServer } from 'node:https'
import type { Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Content, Image } from './images.ts'
import { TokenService, type AuthOptions } from './upstream-auth.ts'
import { claimPort, type PortClaim } from './ports.ts'
import { cdnTargetOf, sendCdnError } from './upstream-cdn.ts'
import { Holdings } from './upstream-content.ts'
import { acceptSilently, neverAccept, type Silence } from './upstream-down.ts'
import { RequestLog, type Listener, type LogEntry } from './upstream-log.ts'
import { RegistryEndpoints, targetOf, type RegistryOptions } from './upstream-registry.ts'
import { Rules, type Behaviour, type Matcher, type Rule } from './upstream-rules.ts'
import { sendError, sendSmall, sendStatus, type Call } from './upstream-send.ts'
import { mayAnswer } from './upstream-wire.ts'

export interface UpstreamOptions extends AuthOptions, RegistryOptions {
  /** For every response, unless a rule says otherwise. */
  bytesPerSecond?: number | undefined
  latencyMs?: number | undefined
  /** Sends a request there, 307, before anybody looks at it; for a registry that is only the front of another. */
  elsewhere?: ((entry: LogEntry) => string | undefined) | undefined
  /** PEM; makes all three listeners speak TLS. */
  tls?: { cert: string; key: string } | undefined
  /** Default 127.0.0.1. The URLs name it. */
  host?: string | undefined
  /** In ms, in place of the process's clock: how long tokens and signed URLs are good. */
  now?: (() => number) | undefined
}

const LISTENERS = ['registry', 'auth', 'cdn'] as const

export async function startUpstream(options: UpstreamOptions = {}): Promise<UpstreamSimulator> {
  const simulator = new UpstreamSimulator(options)
  await simulator.start()
  return simulator
}

export class UpstreamSimulator implements AsyncDisposable {
  readonly log = new RequestLog()
  readonly rules = new Rules()
  readonly holdings = new Holdings()
  readonly tokens = new TokenService(() => this.now())
  readonly #servers: Record<Listener, Server>
  /** Of each: those as well that still negotiate TLS, which the server itself does not count as its own. */
  readonly #sockets: Record<Listener, Set<Socket>> = { registry: new Set(), auth: new Set(), cdn: new Set() }
  /** Kept while it is down: somebody else's server must not answer for it then. */
  readonly #claims = new Map<Listener, PortClaim>()
  readonly #endpoints: RegistryEndpoints
  #options: UpstreamOptions
  #silences: Silence[] = []

  constructor(options: UpstreamOptions) {
    this.#options = options
    this.#servers = {
      registry: this.#server('registry'),
      auth: this.#server('auth'),
      cdn: this.#server('cdn'),
    }
    this.#endpoints = new RegistryEndpoints(this.holdings, this, options)
  }

  get url(): string {
    return this.#urlOf('registry')
  }

  get authUrl(): string {
    return this.#urlOf('auth')
  }

  get cdnUrl(): string {
    return this.#urlOf('cdn')
  }

  now(): number {
    return (this.#options.now ?? performance.now.bind(performance))()
  }

  /** Changes how it behaves from the next request on; what is not named stays. */
  set(options: Omit<UpstreamOptions, 'tls' | 'host'>): void {
    this.#options = { ...this.#options, ...options }
    this.#endpoints.options = this.#options
  }

  /** `fault({ kind: 'blob', times: 1 }, { dropAfterBytes: 1000 })` */
  fault(matcher: Matcher, behaviour: Behaviour): Rule {
    return this.rules.add(matcher, behaviour)
  }

  addImage(repo: string, tag: string | undefined, image: Image): void {
    this.holdings.addImage(repo, tag, image)
  }

  addBlob(repo: string, blob: Content): void {
    this.holdings.addBlob(repo, blob)
  }

  /** To a manifest that is already there, or to a new image. */
  moveTag(repo: string, tag: string, to: Image): void {
    this.holdings.addImage(repo, tag, to)
  }

  deleteTag(repo: string, tag: string): void {
    this.holdings.repository(repo).tags.delete(tag)
  }

  deleteManifest(repo: string, digest: string): void {
    this.holdings.repository(repo).manifests.delete(digest)
  }

  deleteBlob(repo: string, digest: string): void {
    this.holdings.repository(repo).blobs.delete(digest)
  }

  deleteRepository(repo: string): void {
    this.holdings.repositories.delete(repo)
  }

  /** Up, on the same ports as before. */
  async start(): Promise<void> {
    for (const silence of this.#silences.splice(0)) await silence.end()
    const host = this.#options.host ?? '127.0.0.1'
    for (const listener of LISTENERS) {
      const server = this.#servers[listener]
      const claim = this.#claims.get(listener)
      if (claim !== undefined) await listenOn(server, host, claim.port)
      else this.#claims.set(listener, await listenAnywhere(server, host))
    }
  }

  /**
   * Running connections are cut; further ones do not come about, or come about and stay silent (a handshake
   * never ends then). Until `start`.
   */
  async hang(at: 'connect' | 'tls'): Promise<void> {
    await this.stop()
    const silence = at === 'connect' ? neverAccept : acceptSilently
    const host = this.#options.host ?? '127.0.0.1'
    this.#silences = await Promise.all(LISTENERS.map((listener) => silence(this.#portOf(listener), host)))
  }

  /** From the next connection on, which all of them will be. Only where it spoke TLS before. */
  useCertificate(pair: { cert: string; key: string }): void {
    for (const listener of LISTENERS) {
      const server = this.#servers[listener]
      if (!(server instanceof TlsServer)) throw new Error('this simulator does not speak TLS')
      server.setSecureContext(pair)
      this.#cut(listener)
    }
  }

  /** Down: connections are refused, running ones are cut. */
  async stop(): Promise<void> {
    for (const silence of this.#silences.splice(0)) await silence.end()
    await Promise.all(
      LISTENERS.map(async (listener) => {
        const server = this.#servers[listener]
        if (!server.listening) return
        await new Promise<void>((resolve) => {
          server.close(() => resolve())
          this.#cut(listener)
        })
      }),
    )
  }

  /** Nobody's next request finds a connection open. */
  closeIdleConnections(): void {
    for (const server of Object.values(this.#servers)) server.closeIdleConnections()
  }

  /** Down for good. */
  async close(): Promise<void> {
    await this.stop()
    for (const claim of this.#claims.values()) claim.release()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  #portOf(listener: Listener): number {
    return this.#claims.get(listener)?.port ?? 0
  }

  #cut(listener: Listener): void {
    for (const socket of this.#sockets[listener]) socket.destroy()
  }

  #urlOf(listener: Listener): string {
    const scheme = this.#options.tls === undefined ? 'http' : 'https'
    return `${scheme}://${this.#options.host ?? '127.0.0.1'}:${this.#portOf(listener)}`
  }

  #server(listener: Listener): Server {
    const handle = (request: IncomingMessage, response: ServerResponse): void =>
      void this.#handle(listener, request, response)
    // A keep-alive that outlives every test: no connection may close just as it is used again.
    const timeouts = { keepAliveTimeout: 600_000, requestTimeout: 0, maxHeaderSize: 65_536 }
    const { tls } = this.#options
    const server =
      tls === undefined ? createServer(timeouts, handle) : createTlsServer({ ...timeouts, ...tls }, handle)
    const sockets = this.#sockets[listener]
    return server.on('connection', (socket: Socket) => {
      sockets.add(socket)
      socket.once('close', () => sockets.delete(socket))
    })
  }

  async #handle(listener: Listener, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = request.url ?? '/'
    const path = url.split('?')[0] ?? '/'
    const target =
      listener === 'registry'
        ? targetOf(path)
        : listener === 'cdn'
          ? cdnTargetOf(path)
          : { kind: 'token' as const }
    const entry: LogEntry = {
      listener,
      kind: target.kind,
      method: request.method ?? 'GET',
      url,
      repo: target.repo,
      ref: target.ref,
      headers: request.headers,
      startedAt: performance.now(),
      endedAt: undefined,
      status: 0,
      bytesSent: 0,
      aborted: false,
    }
    this.log.begin(entry)
    if (listener === 'auth' && entry.method === 'POST') {
      entry.form = new URLSearchParams(await text(request).catch(() => ''))
    }
    request.resume()
    response.on('error', () => undefined)
    response.on('close', () => {
      entry.aborted = !response.writableFinished
      this.log.end(entry)
    })
    const { latencyMs, bytesPerSecond } = this.#options
    const behaviour: Behaviour = {
      ...(latencyMs === undefined ? {} : { latencyMs }),
      ...(bytesPerSecond === undefined ? {} : { bytesPerSecond }),
      ...this.rules.apply(entry),
    }
    await this.#answer({ entry, log: this.log, response, behaviour })
  }

  async #answer(call: Call): Promise<void> {
    const { behaviour, entry, response } = call
    if (behaviour.latencyMs !== undefined) await sleep(behaviour.latencyMs)
    if (response.destroyed || !(await mayAnswer(call))) return
    if (behaviour.cdnError !== undefined) {
      sendCdnError(call, behaviour.cdnError)
      return
    }
    if (behaviour.status !== undefined) {
      sendStatus(call, behaviour.status)
      return
    }
    const location = this.#options.elsewhere?.(entry)
    if (location !== undefined) {
      sendSmall(call, 307, '', { location })
      return
    }
    if (entry.listener === 'auth') {
      const known = (repo: string): boolean => this.holdings.repositories.has(repo)
      this.tokens.issue(call, this.#options, known)
      return
    }
    if (entry.listener === 'registry' && entry.kind !== 'cdn' && entry.kind !== 'hop') {
      if (!this.tokens.admit(call, this.#options, this.authUrl)) return
    }
    try {
      await this.#endpoints.answer(call)
    } catch (error) {
      // A broken simulator must look broken, not like a registry that hangs.
      if (response.headersSent) response.destroy()
      else sendError(call, 500, 'SIMULATOR_FAILED')
      throw error
    }
  }
}

const TRIES = 100

/** On a port of its own. */
async function listenAnywhere(server: Server, host: string): Promise<PortClaim> {
  for (let tries = 1; ; tries += 1) {
    const claim = await claimPort()
    try {
      await listenOn(server, host, claim.port)
      return claim
    } catch (error) {
      claim.release()
      if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE' || tries === TRIES) throw error
    }
  }
}

async function listenOn(server: Server, host: string, port: number): Promise<void> {
  server.listen(port, host)
  await once(server, 'listening')
}
