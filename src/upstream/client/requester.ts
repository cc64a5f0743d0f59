/**
 * Requester of one upstream account: a request below `/v2/NAME/`, with credentials, redirects, retries and time-outs.
 *
 * It answers what the registry (or a redirect's target) says, but throws a 429, a 5xx, and a 401 or 403 despite
 * credentials.
 */
import type { Milliseconds } from '../../base/units.ts'
import { readFileSync } from 'node:fs'
import type { LookupFunction } from 'node:net'
import { AddressRule } from '../transport/address-policy.ts'
import { proxyRefusalOf, refusalOf, saysLimit } from '../transport/responses.ts'
import { Authorization } from '../login/authorization.ts'
import { Account } from '../login/credentials.ts'
import { ForeignRegistries } from '../login/foreign-registries.ts'
import { BreakerGuard, type GuardedCall, type GuardedRequest } from '../limits/breaker-guard.ts'
import { withRetries } from '../limits/retry.ts'
import { proxyFor } from '../transport/proxy.ts'
import { PullQuota } from '../limits/pull-quota.ts'
import { follow, isOfRegistry, type Answer, type Follower } from '../transport/redirects.ts'
import { RateLimitPause } from '../limits/rate-limit-pause.ts'
import type { AccountStatus } from '../status.ts'
import { TokenService, type TokenRequest } from '../login/token-service.ts'
import { TokenCache } from '../login/token-cache.ts'
import {
  Transport,
  type Headers,
  type Request,
  type RequestKind,
  type TransportOptions,
} from '../transport/transport.ts'
import { UpstreamError } from '../upstream.ts'

export interface RequesterOptions extends Omit<TransportOptions, 'addresses'> {
  /** The registry's URL, without `/v2/`. */
  readonly url: string
  /** It answers under the key of another upstream, and has a quota of its own. Default false. */
  readonly isFallback?: boolean | undefined
  /** Default: none, so that no credentials are sent. */
  readonly account?: Account | undefined
  readonly log?: Record<'debug' | 'info' | 'warn', (fields: object, message: string) => void> | undefined
  /** Shared by all clients of this URL. Default: one of its own. */
  readonly pause?: RateLimitPause | undefined
  /** Monotonic. Default `performance.now`. */
  readonly now?: (() => Milliseconds) | undefined
  /** Upper end of the pause before the second try; it doubles. Default 250. */
  readonly backoffMs?: Milliseconds | undefined
  /** The most times that a request is sent. Default 3. */
  readonly tries?: number | undefined
  /** Replaces the system's resolver. */
  readonly resolve?: LookupFunction | undefined
}

const packageJson = new URL('../../../package.json', import.meta.url)
const { version } = JSON.parse(readFileSync(packageJson, 'utf8')) as { version: string }
export const USER_AGENT = `entrepot/${version}`

export interface UpstreamRequest extends GuardedRequest {
  readonly kind: RequestKind
  readonly method?: 'GET' | 'HEAD'
  /** Below `/v2/NAME/`. */
  readonly path: string
  readonly query?: URLSearchParams
  readonly headers?: Headers
  /** One of several at once, of which fewer would do: a 429 begins no pause. */
  readonly parallel?: boolean | undefined
}

export class Requester {
  readonly #options: RequesterOptions
  readonly #base: URL
  readonly #addresses: AddressRule
  readonly #transport: Transport
  readonly #authorization: Authorization
  readonly #foreign: ForeignRegistries
  readonly #account: Account
  /** Undefined for a fallback, whose figures are not those of the upstream. */
  readonly #quota: PullQuota | undefined
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
    this.#quota = isFallback ? undefined : new PullQuota({ ...options, account: account.label, now })
    this.#pause = options.pause ?? new RateLimitPause(now)
    this.#pullPause = new RateLimitPause(now)
    this.#guard = new BreakerGuard({ ...options, account: isFallback ? undefined : account.label, now })
    const service = new TokenService({ key, send: (request) => this.#askTokenService(request) })
    const timeoutMs = timeouts.headers
    const tokens = new TokenCache({ key, upstream: this.#base, account, service, timeoutMs, now })
    this.#foreign = new ForeignRegistries({
      ...{ key, metrics, service, timeoutMs, now },
      ping: (url, signal) => this.#ping(url, signal),
    })
    this.#authorization = new Authorization({
      ...{ key, account, tokens, now },
      ping: (authorization, signal) => this.#ping(this.#url(''), signal, authorization),
    })
  }

  /** @throws UpstreamError at once, without a request, during a pause and while the breaker is open */
  async ask(question: UpstreamRequest): Promise<Answer> {
    const paused = this.#pause.error ?? (isPull(question) ? this.#pullPause.error : undefined)
    if (paused !== undefined) throw paused
    try {
      const answer = await this.#guard.run(question, (call) => this.#ask(question, call))
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
    const attempt = async (): Promise<Answer> => {
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
      if (kind === 'manifest' && !answer.elsewhere) this.#quota?.read(answer.headers)
      if (isRefusal(kind, answer)) throw await this.#refusal(question, answer)
      return answer
    }
    const { key, backoffMs, tries, log } = this.#options
    return await withRetries(attempt, {
      signal,
      backoffMs,
      tries: question.bestEffort === true ? 1 : tries,
      onRetry: (reason, error) => {
        this.retried(reason)
        log?.debug({ upstream: key, reason, err: error }, 'asking upstream again')
      },
    })
  }

  #ping(url: URL, signal: AbortSignal, authorization?: string): Promise<Answer> {
    return this.#follow({
      kind: 'ping',
      method: 'GET',
      url,
      headers: withAuthorization({}, authorization),
      signal,
    })
  }

  /** Begins the pause that the error asks for. @returns the error, with what is left of the pause */
  #beginPause(error: UpstreamError): UpstreamError {
    const { key, log } = this.#options
    const ofPulls = error.scope === 'pulls'
    const pause = ofPulls ? this.#pullPause : this.#pause
    if (pause.begin(error)) {
      const facts = { upstream: key, account: this.#account.label, forMs: pause.leftMs, err: error }
      log?.warn(facts, ofPulls ? 'limits our pulls' : 'limits our requests')
    }
    return pause.error ?? error
  }

  /** A CDN's 429 is no limit of the registry, but a failure of that blob alone. */
  async #refusal(question: UpstreamRequest, answer: Answer): Promise<UpstreamError> {
    const { key } = this.#options
    const { kind } = question
    const ofPulls = answer.status === 429 && isPull(question) && (await saysLimit(answer))
    const error = refusalOf(key, answer, { scope: ofPulls ? 'pulls' : 'host' })
    const { status, retryAfterMs } = error
    if (error.failure !== 'busy' || kind !== 'blob' || !answer.elsewhere) return error
    return new UpstreamError('broken', key, error.message, { status, retryAfterMs })
  }

  /** Sends without retries: the request that needs the token has its own. */
  async #askTokenService(request: TokenRequest): Promise<Answer> {
    const { method, url } = request
    if (!this.#addresses.allows(url)) {
      throw new UpstreamError('broken', this.#options.key, `the token realm ${url.host} is not ours to dial`)
    }
    const token = this.#withUserAgent({ kind: 'token', ...request })
    if (method === 'GET') return await this.#follow(token)
    // A redirect must not take a form with a password along.
    return this.#notOfProxy({ ...(await this.#transport.send(token)), hops: 0, elsewhere: false })
  }

  async #follow(request: Request, call: GuardedCall = { elsewhere: false }): Promise<Answer> {
    const { kind, signal } = request
    const send: Transport['send'] = (it) => {
      call.elsewhere = it.url.origin !== request.url.origin
      return this.#transport.send(it)
    }
    const abroad: Follower['abroad'] = (response, again) => this.#foreign.answered(response, signal, again)
    const follower = {
      ...{ key: this.#options.key, transport: { send }, addresses: this.#addresses },
      // A token service that redirects to another registry must not make this client ask for tokens in a loop.
      ...(kind === 'token' || kind === 'ping' ? {} : { abroad }),
    }
    const answer = await follow(follower, this.#withUserAgent(request))
    // A CDN's page in place of a blob is detected later; a web site's page means that there is no referrers API.
    const mayBeAPage = ['blob', 'referrers'].includes(kind) && !isOfRegistry(answer)
    return mayBeAPage ? answer : this.#notOfProxy(answer)
  }

  /** @throws UpstreamError where a proxy answered */
  #notOfProxy(answer: Answer): Answer {
    const refusal = proxyRefusalOf(this.#options.key, answer, proxyFor(answer.url, this.#options))
    if (refusal !== undefined) throw refusal
    return answer
  }

  #withUserAgent(request: Request): Request {
    const headers = { 'user-agent': USER_AGENT, 'accept-encoding': 'identity', ...request.headers }
    return { ...request, headers }
  }

  #url(path: string): URL {
    const prefix = this.#base.pathname.replace(/\/+$/, '')
    return new URL(`${prefix}/v2/${path}`, this.#base)
  }

  get paused(): UpstreamError | undefined {
    return this.#guard.paused
  }

  get status(): AccountStatus {
    return {
      account: this.#account.label,
      breaker: this.#guard.status,
      pulls: this.#quota?.current,
      pullsStoppedForMs: this.#pullPause.leftMs,
      stoppedForMs: this.#pause.leftMs,
      complaint: this.#account.complaint,
    }
  }

  retried(reason: string): void {
    this.#options.metrics.upstreamRetries.inc({ upstream: this.#options.key, reason })
  }

  async close(): Promise<void> {
    this.#quota?.close()
    this.#guard.close()
    this.#account.close()
    this.#foreign.close()
    await this.#transport.close()
  }
}

function withAuthorization(headers: Headers | undefined, authorization: string | undefined): Headers {
  return { ...headers, ...(authorization === undefined ? {} : { authorization }) }
}

/** Whether Docker Hub counts the request. */
function isPull({ kind, method = 'GET' }: UpstreamRequest): boolean {
  return kind === 'manifest' && method === 'GET'
}

function isRefusal(kind: RequestKind, answer: Answer): boolean {
  const { status } = answer
  // ghcr.io redirects requests for referrers to its web site, whose 429 is no limit of the registry.
  if (status === 429) return kind !== 'referrers' || isOfRegistry(answer)
  // 501 is no failure of the server: the caller reads it as "not supported".
  return status >= 500 && status !== 501
}
