/**
 * HTTP client over undici for one request and its answer; no redirects, no credentials, no retries.
 *
 * Every body, small or large, arrives through `dispatch` into a {@link ResponseBody}: only the head tells what the
 * request gets (a layer, a redirect, an error page).
 */
import type { Milliseconds } from '../../base/units.ts'
import { Agent, Pool, ProxyAgent, type Dispatcher } from 'undici'
import { SmallChunks } from '../../base/small-chunks.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import type { OpenFiles } from '../../telemetry/open-files.ts'
import type { InFlight } from './in-flight.ts'
import type { AddressRule } from './address-policy.ts'
import { ResponseBody, type Body } from './response-body.ts'
import { toUpstreamError } from './errors.ts'
import { StallTimeouts, type StallLimits } from './stall-timeouts.ts'
import { proxyFor, type ProxyChoice } from './proxy.ts'
import { UpstreamError } from '../upstream.ts'

/** The label of {@link Metrics}. */
export type RequestKind = 'ping' | 'token' | 'manifest' | 'blob' | 'tags' | 'referrers' | 'search'

export type Headers = Readonly<Record<string, string>>
export type ResponseHeaders = Readonly<Record<string, string | string[] | undefined>>

export interface Request {
  readonly kind: RequestKind
  readonly method: 'GET' | 'HEAD' | 'POST'
  readonly url: URL
  readonly headers: Headers
  /** The body of a POST. */
  readonly body?: string
  /** Replaces that of the {@link Timeouts}; counted, like that, from when a connection is free. */
  readonly headersTimeoutMs?: Milliseconds
  /** It ends the body as well. */
  readonly signal: AbortSignal
}

export interface Response {
  readonly url: URL
  readonly status: number
  readonly headers: ResponseHeaders
  readonly body: Body
}

interface Timeouts extends StallLimits {
  readonly connect: Milliseconds
}

export interface TransportOptions extends ProxyChoice {
  readonly key: string
  readonly maxConnections: number
  readonly timeouts: Timeouts
  /** PEM; replaces the certificates that Node trusts. */
  readonly ca?: string | undefined
  readonly addresses: AddressRule
  readonly metrics: Metrics
  /** Notified when no connection could be opened for want of a file descriptor. */
  readonly openFiles?: Pick<OpenFiles, 'met'> | undefined
  /** Counts the requests of all clients of an upstream. */
  readonly inFlight?: InFlight | undefined
}

const MAX_HEADER_SIZE = 64 * 1024

export class Transport {
  readonly #options: TransportOptions
  readonly #direct: Agent
  readonly #proxies = new Map<string, ProxyAgent>()

  constructor(options: TransportOptions) {
    this.#options = options
    const { addresses, timeouts } = options
    this.#direct = new Agent({
      ...this.#common(),
      connect: { ...this.#tls(), lookup: addresses.lookup, timeout: timeouts.connect },
    })
  }

  /** Resolves when the head of the final answer has come. @throws UpstreamError, or the signal's reason */
  async send(request: Request): Promise<Response> {
    const { signal, url } = request
    signal.throwIfAborted()
    return await new Promise<Response>((resolve, reject) => {
      const handler = new Exchange(request, this.#options, resolve, reject)
      this.#dispatcherFor(url).dispatch(
        {
          origin: url.origin,
          path: url.pathname + url.search,
          method: request.method,
          headers: request.headers,
          headersTimeout: request.headersTimeoutMs ?? this.#options.timeouts.headers,
          ...(request.body === undefined ? {} : { body: request.body }),
        },
        handler,
      )
    })
  }

  /** Aborts the requests and bodies in flight. */
  async close(): Promise<void> {
    await Promise.all([this.#direct, ...this.#proxies.values()].map((it) => it.destroy()))
  }

  #dispatcherFor(url: URL): Dispatcher {
    const proxy = proxyFor(url, this.#options)
    if (proxy === undefined) return this.#direct
    let agent = this.#proxies.get(proxy)
    if (agent === undefined) {
      const { timeouts } = this.#options
      const limited = (origin: string | URL, options: object): Pool =>
        new Pool(origin, { ...options, ...this.#common() })
      agent = new ProxyAgent({
        ...this.#common(),
        uri: proxy,
        connectTimeout: timeouts.connect,
        requestTls: this.#tls(),
        // Otherwise the agent's connections to the proxy itself would have no limits.
        clientFactory: limited,
        factory: limited,
      })
      this.#proxies.set(proxy, agent)
    }
    return agent
  }

  #common() {
    const { maxConnections, timeouts } = this.#options
    return {
      connections: maxConnections,
      pipelining: 1,
      // An image's requests come in bursts; a connection that closed meanwhile costs one silent retry.
      keepAliveTimeout: 30_000,
      // The flow control window of one HTTP/2 stream would limit the speed of a layer.
      allowH2: false,
      headersTimeout: timeouts.headers,
      bodyTimeout: timeouts.idle,
      maxHeaderSize: MAX_HEADER_SIZE,
    }
  }

  #tls(): { ca?: string[] } {
    const { ca } = this.#options
    return ca === undefined ? {} : { ca: [ca] }
  }
}

/** Undici's callbacks of one request; settles once, then feeds the body. */
class Exchange implements Dispatcher.DispatchHandler {
  readonly #request: Request
  readonly #options: TransportOptions
  readonly #resolve: (response: Response) => void
  readonly #reject: (error: unknown) => void
  readonly #onAbort = (): void => {
    this.#abort()
  }
  readonly #pace: StallTimeouts
  #controller: Dispatcher.DispatchController | undefined
  #body: ResponseBody | undefined
  /** Defined for a chunked body. */
  #chunks: SmallChunks | undefined

  constructor(
    request: Request,
    options: TransportOptions,
    resolve: (response: Response) => void,
    reject: (error: unknown) => void,
  ) {
    this.#request = request
    this.#options = options
    this.#resolve = resolve
    this.#reject = reject
    const { headersTimeoutMs: headers = options.timeouts.headers } = request
    this.#pace = new StallTimeouts({ ...options.timeouts, headers }, (reason) => {
      this.#controller?.abort(reason)
    })
    request.signal.addEventListener('abort', this.#onAbort, { once: true })
    options.inFlight?.began()
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller
    if (this.#request.signal.aborted) this.#abort()
    else this.#pace.asked()
  }

  onResponseStart(controller: Dispatcher.DispatchController, status: number, headers: ResponseHeaders): void {
    if (status < 200) return
    this.#body = new ResponseBody(controller)
    if (headers['transfer-encoding'] !== undefined) this.#chunks = new SmallChunks()
    this.#pace.answered(this.#body)
    this.#count(`${Math.floor(status / 100)}xx`)
    this.#resolve({ url: this.#request.url, status, headers, body: this.#body })
  }

  onResponseData(_controller: Dispatcher.DispatchController, chunk: Buffer): void {
    this.#options.metrics.upstreamBytes.inc({ upstream: this.#options.key }, chunk.length)
    this.#pace.received(chunk.length)
    this.#body?.push(chunk)
    if (this.#chunks?.areTooSmall(chunk.length) === true) {
      const { key } = this.#options
      const what = `${this.#request.url.host} sends its body in chunks that are too small`
      this.#body?.abort(new UpstreamError('broken', key, what))
    }
  }

  onResponseEnd(): void {
    this.#settled()
    this.#body?.finish()
  }

  onResponseError(_controller: Dispatcher.DispatchController, cause: Error): void {
    this.#settled()
    const { key } = this.#options
    const { url } = this.#request
    const error = toUpstreamError(key, url.host, cause, proxyFor(url, this.#options))
    if (error.outOfFiles) this.#options.openFiles?.met('upstream', cause)
    if (this.#body !== undefined) {
      this.#body.fail(error)
    } else if (!this.#request.signal.aborted) {
      this.#count(error.outOfFiles ? 'not_asked' : error.failure)
      this.#reject(error)
    }
  }

  #abort(): void {
    const reason: unknown = this.#request.signal.reason
    // Undici cannot take back queued requests: the caller goes on, the request dies when it starts.
    this.#reject(reason)
    this.#body?.abort(reason)
    this.#controller?.abort(new Error('no longer wanted'))
  }

  #settled(): void {
    this.#pace.end()
    this.#options.inFlight?.ended()
    this.#request.signal.removeEventListener('abort', this.#onAbort)
  }

  #count(code: string): void {
    const { metrics, key } = this.#options
    metrics.upstreamRequests.inc({ upstream: key, kind: this.#request.kind, code })
  }
}

export function headerOf(headers: ResponseHeaders, name: string): string | undefined {
  const value = headers[name]
  return typeof value === 'string' ? value : value?.[0]
}
