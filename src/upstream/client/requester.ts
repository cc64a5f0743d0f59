/**
 * Asking an upstream: a question below `/v2/NAME/`, with credentials, redirects, retries and time-outs.
 *
 * The answer is whatever the registry (or where it sent us) says, except what is no answer at all: a 429, a
 * 5xx, and a 401 or 403 after our credentials were tried are thrown.
 */
import type { Milliseconds } from '../../base/units.ts'
import { readFileSync } from 'node:fs'
import type { LookupFunction } from 'node:net'
import type { RepositoryName } from '../../oci/reference.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import type { OpenFiles } from '../../telemetry/open-files.ts'
import type { InFlight } from '../transport/in-flight.ts'
import { AddressRule } from '../transport/address-policy.ts'
import { proxyRefusalOf, refusalOf, saysLimit } from '../transport/responses.ts'
import { Authorization } from '../login/authorization.ts'
import { Account } from '../login/credentials.ts'
import { ForeignRegistries } from '../login/foreign-registries.ts'
import { BreakerGuard, type GuardedCall } from '../limits/breaker-guard.ts'
import { withRetries } from '../limits/retry.ts'
import { proxyFor, type ProxyEnvironment } from '../transport/proxy.ts'
import { PullQuota } from '../limits/pull-quota.ts'
import { follow, type Answer } from '../transport/redirects.ts'
import { RateLimitPause } from '../limits/rate-limit-pause.ts'
import type { AccountStatus } from '../status.ts'
import { TokenService, type TokenRequest } from '../login/token-service.ts'
import { TokenCache } from '../login/token-cache.ts'
import { isOfRegistry } from '../transport/redirects.ts'
import {
  Transport,
  type Headers,
  type Request,
  type RequestKind,
  type Response,
  type Timeouts,
} from '../transport/transport.ts'
import { UpstreamError } from '../upstream.ts'

export interface RequesterOptions {
  readonly key: string
  /** Where `/v2/` is below. */
  readonly url: string
  /** It answers under the key of another: its quota is not that one's. Default false. */
  readonly isFallback?: boolean | undefined
  /** Default: none, so that everything is asked for without credentials. */
  readonly account?: Account | undefined
  /** PEM; in place of the system's. */
  readonly ca?: string | undefined
  readonly proxy?: string | undefined
  /** For `HTTPS_PROXY` and its kin. */
  readonly env?: ProxyEnvironment | undefined
  readonly maxConnections: number
  readonly timeouts: Timeouts
  readonly metrics: Metrics
  /** Told when no connection could be opened, for want of a free descriptor. */
  readonly openFiles?: Pick<OpenFiles, 'met'> | undefined
  readonly log?: Record<'debug' | 'info' | 'warn', (fields: object, message: string) => void> | undefined
  /** That all clients of this URL keep together. Default: of this one alone. */
  readonly pause?: RateLimitPause | undefined
  /** Told of every request, over all clients of an upstream. */
  readonly activity?: InFlight | undefined
  /** Monotonic. Default `performance.now`. */
  readonly now?: (() => Milliseconds) | undefined
  /** Upper end of the pause before the second try; it doubles. Default 250. */
  readonly backoffMs?: Milliseconds | undefined
  /** How often a question is asked at the most. Default 3. */
  readonly tries?: number | undefined
  /** In place of the system's resolver. */
  readonly resolve?: LookupFunction | undefined
}

const packageJson = new URL('../../../package.json', import.meta.url)
const { version } = JSON.parse(readFileSync(packageJson, 'utf8')) as { version: string }
export const USER_AGENT = `entrepot/${version}`

export interface UpstreamRequest {
  readonly kind: RequestKind
  readonly name: RepositoryName
  readonly method?: 'GET' | 'HEAD'
  /** Below `/v2/NAME/`. */
  readonly path: string
  readonly query?: URLSearchParams
  readonly headers?: Headers
  /** In place of the upstream's own. */
  readonly headersTimeoutMs?: Milliseconds
  /** Clients have been told to expect what it brings. */
  readonly committed?: boolean | undefined
  /** One of several at once, and one less would do: a limit that it meets is a limit of those. */
  readonly parallel?: boolean | undefined
  /** Others bring as much in its place: it is asked once, and that it fails is no sign of anything. */
  readonly bestEffort?: boolean | undefined
  readonly signal: AbortSignal
}

export class Requester {
  readonly #options: RequesterOptions
  readonly #base: URL
  readonly #addresses: AddressRule
  readonly #transport: Transport
  readonly #authorization: Authorization
  readonly #foreign: ForeignRegistries
  readonly #account: Account
  /** Undefined for a fallback: that one's figures are not those of the upstream. */
  readonly #budget: PullQuota | undefined
  readonly #pause: RateLimitPause
  readonly #pullPause: RateLimitPause
  readonly #guard: BreakerGuard

  constructor(options: RequesterOptions) {
    this.#options = options
    this.#base = new URL(options.url)
    this.#addresses = new AddressRule(this.#base, options.resolve)
    this.#transport = new Transport({ ...options, addresses: this.#addresses })
    const { key, metrics, timeouts, isFallback = false, now = () => performance.now() } = options
    const { account = new Account({ key, source: undefined, metrics }) } = options
    this.#account = account
    this.#budget = isFallback ? undefined : new PullQuota({ ...options, account: account.label, now })
    this.#pause = options.pause ?? new RateLimitPause(now)
    this.#pullPause = new RateLimitPause(now)
    this.#guard = new BreakerGuard({ ...options, account: isFallback ? undefined : account.label, now })
    const service = new TokenService({ key, send: (request) => this.#askTokenService(request) })
    const upstream = this.#base
    const timeoutMs = timeouts.headers
    const tokens = new TokenCache({ key, upstream, account, service, timeoutMs, now })
    this.#foreign = new ForeignRegistries({
      ...{ key, metrics, service, timeoutMs, now },
      ping: (url, signal) => this.#follow({ kind: 'ping', method: 'GET', url, headers: {}, signal }),
    })
    this.#authorization = new Authorization({
      key,
      account,
      tokens,
      now,
      ping: (authorization, signal) =>
        this.#follow({
          kind: 'ping',
          method: 'GET',
          url: this.#url(''),
          headers: withAuthorization({}, authorization),
          signal,
        }),
    })
  }

  /**
   * With retries, redirects and credentials; an answer that is none (429, 5xx, and 401 or 403 of the registry
   * itself) is thrown. While upstream wants to be left alone, so is what it said then, and nothing is asked; nor
   * is it while its breaker is open.
   */
  async ask(question: UpstreamRequest): Promise<Answer> {
    const paused = this.#pause.error ?? (isPull(question) ? this.#pullPause.error : undefined)
    if (paused !== undefined) throw paused
    try {
      const { name, headersTimeoutMs, committed, bestEffort, signal } = question
      const shortTimeout = headersTimeoutMs !== undefined
      const answer = await this.#guard.run({ name, shortTimeout, committed, bestEffort, signal }, (call) =>
        this.#ask(question, call),
      )
      this.#pause.succeeded()
      if (isPull(question)) this.#pullPause.succeeded()
      return answer
    } catch (error) {
      const isBusy = error instanceof UpstreamError && error.failure === 'busy'
      throw isBusy && question.parallel !== true ? this.#beginPause(error) : error
    }
  }

  async #ask(question: UpstreamRequest, call: GuardedCall): Promise<Answer> {
    const { kind, name, method = 'GET', path, query, headers, headersTimeoutMs, signal } = question
    const url = this.#url(`${name}/${path}`)
    if (query !== undefined) url.search = query.toString()
    return await this.#withRetries(question, async () => {
      const answer = await this.#authorization.run(name, signal, (authorization) =>
        this.#follow(
          {
            kind,
            method,
            url,
            headers: withAuthorization(headers, authorization),
            ...(headersTimeoutMs === undefined ? {} : { headersTimeoutMs }),
            signal,
          },
          call,
        ),
      )
      if (kind === 'manifest' && !answer.elsewhere) this.#budget?.read(answer.headers)
      if (isRefusal(kind, answer)) throw await this.#refusal(question, answer)
      return answer
    })
  }

  /** The error, with the pause that it begins. */
  #beginPause(error: UpstreamError): UpstreamError {
    const { key, log } = this.#options
    const pause = error.ofPulls ? this.#pullPause : this.#pause
    if (pause.begin(error)) {
      const facts = { upstream: key, account: this.#account.label, forMs: pause.leftMs, err: error }
      log?.warn(facts, error.ofPulls ? 'limits our pulls' : 'limits our requests')
    }
    return pause.error ?? error
  }

  /** A CDN that has had enough of us is no limit of the registry: that is about its blob alone. */
  async #refusal(question: UpstreamRequest, answer: Answer): Promise<UpstreamError> {
    const { key } = this.#options
    const { kind } = question
    const ofPulls = answer.status === 429 && isPull(question) && (await saysLimit(answer))
    const error = refusalOf(key, answer, { ofPulls })
    const { status, retryAfterMs } = error
    if (error.failure !== 'busy' || kind !== 'blob' || !answer.elsewhere) return error
    return new UpstreamError('broken', key, error.message, {
      ...(status === undefined ? {} : { status }),
      ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
    })
  }

  /** Not tried again here: whoever needs the token does. */
  async #askTokenService(request: TokenRequest): Promise<Answer> {
    const { method, url } = request
    if (!this.#addresses.allows(url)) {
      throw new UpstreamError('broken', this.#options.key, `the token realm ${url.host} is not ours to dial`)
    }
    const token = this.#withManners({ kind: 'token', ...request })
    if (method === 'GET') return await this.#follow(token)
    // A redirect must not take a form with a password along.
    return this.#spoken({ ...(await this.#transport.send(token)), hops: 0, elsewhere: false })
  }

  async #withRetries(
    { bestEffort = false, signal }: UpstreamRequest,
    attempt: () => Promise<Answer>,
  ): Promise<Answer> {
    const { backoffMs, tries, log } = this.#options
    return await withRetries(attempt, {
      signal,
      backoffMs,
      tries: bestEffort ? 1 : tries,
      onRetry: (reason, error) => {
        this.retried(reason)
        log?.debug({ upstream: this.#options.key, reason, err: error }, 'asking upstream again')
      },
    })
  }

  async #follow(request: Request, call: GuardedCall = { elsewhere: false }): Promise<Answer> {
    const transport: Pick<Transport, 'send'> = {
      send: (it) => {
        call.elsewhere = it.url.origin !== request.url.origin
        return this.#transport.send(it)
      },
    }
    const follower = {
      ...{ key: this.#options.key, transport, addresses: this.#addresses },
      // A token service that sends us elsewhere must not make us ask for tokens for ever.
      ...(request.kind === 'token' || request.kind === 'ping' ? {} : { abroad: this.#abroad(request) }),
    }
    const answer = await follow(follower, this.#withManners(request))
    // A CDN may send a page in place of a blob, and that is read there; where referrers are a web site's, that is no API.
    const mayBeAPage = ['blob', 'referrers'].includes(request.kind) && !isOfRegistry(answer)
    return mayBeAPage ? answer : this.#spoken(answer)
  }

  /** @throws UpstreamError where it is the word of a proxy */
  #spoken(answer: Answer): Answer {
    const refusal = proxyRefusalOf(this.#options.key, answer, proxyFor(answer.url, this.#options))
    if (refusal !== undefined) throw refusal
    return answer
  }

  #abroad({ signal }: Request) {
    return (response: Response, send: (authorization: string) => Promise<Response>): Promise<Response> =>
      this.#foreign.answered(response, signal, send)
  }

  #withManners(request: Request): Request {
    const headers = { 'user-agent': USER_AGENT, 'accept-encoding': 'identity', ...request.headers }
    return { ...request, headers }
  }

  #url(path: string): URL {
    const prefix = this.#base.pathname.replace(/\/+$/, '')
    return new URL(`${prefix}/v2/${path}`, this.#base)
  }

  get leftAlone(): UpstreamError | undefined {
    return this.#guard.paused
  }

  get status(): AccountStatus {
    return {
      account: this.#account.label,
      breaker: this.#guard.status,
      pulls: this.#budget?.current,
      pullsStoppedForMs: this.#pullPause.leftMs,
      stoppedForMs: this.#pause.leftMs,
      complaint: this.#account.complaint,
    }
  }

  retried(reason: string): void {
    this.#options.metrics.upstreamRetries.inc({ upstream: this.#options.key, reason })
  }

  async close(): Promise<void> {
    this.#budget?.close()
    this.#guard.close()
    this.#account.close()
    this.#foreign.close()
    await this.#transport.close()
  }
}

function withAuthorization(headers: Headers | undefined, authorization: string | undefined): Headers {
  return { ...headers, ...(authorization === undefined ? {} : { authorization }) }
}

/** What Docker Hub counts. */
function isPull({ kind, method = 'GET' }: UpstreamRequest): boolean {
  return kind === 'manifest' && method === 'GET'
}

function isRefusal(kind: RequestKind, answer: Answer): boolean {
  const { status } = answer
  // ghcr.io sends those who ask for referrers to its web site, which may be tired of them: not its word.
  if (status === 429) return kind !== 'referrers' || isOfRegistry(answer)
  // 501 is not a stumble: whoever asked reads it as "not here".
  return status >= 500 && status !== 501
}
