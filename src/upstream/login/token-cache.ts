/**
 * Cache of bearer tokens of one upstream, with one request per realm, service and scope (single-flight).
 *
 * The account's credentials go only to a realm that {@link credentialsMayGo} allows. {@link TokenService} asks for
 * the tokens; here they are kept, by the process's own clock.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { LRUCache } from 'lru-cache'
import type { BearerChallenge } from './challenge.ts'
import type { Account } from './credentials.ts'
import { abandonable } from '../../base/condition.ts'
import { credentialsMayGo, isAcceptableRealm } from './realm-policy.ts'
import type { IssuedToken, TokenService } from './token-service.ts'
import { UpstreamError } from '../upstream.ts'

export interface Token {
  readonly value: string
  readonly issuedAt: Milliseconds
}

interface TokenOptions {
  readonly key: string
  readonly upstream: URL
  readonly account: Account
  readonly service: Pick<TokenService, 'ask'>
  /** Limit for the service, which goes on after the waiting requests have left: its answer serves many. */
  readonly timeoutMs: Milliseconds
  /** Monotonic. */
  readonly now: () => Milliseconds
}

/** The specification's lifetime of a token without `expires_in`. */
const DEFAULT_LIFETIME_SECONDS = 60
/** Memory for tokens, and what one takes beside its texts. */
const TOKENS_WEIGHT: Bytes = 8 * 1024 * 1024
const TOKEN_WEIGHT: Bytes = 256
const LIFETIME_SECONDS = { min: 5, max: 24 * 60 * 60 }
/** A token is renewed ten per cent early, since it has to last until the request has arrived. */
const USABLE_MS_PER_SECOND = 900

/** Circuit breaker per token service: after as many failures as one request has tries it is not asked for so long. */
const FAILURES_BEFORE_SILENCE = 3
const SILENCE_MS: Milliseconds = 10_000

interface Silent {
  readonly error: UpstreamError
  readonly failures: number
  readonly until: Milliseconds
}

export class TokenCache {
  readonly #options: TokenOptions
  readonly #cache: LRUCache<string, Token, BearerChallenge>
  /** Token services that do not answer, by host. */
  readonly #silent = new LRUCache<string, Silent>({
    maxSize: TOKENS_WEIGHT,
    sizeCalculation: ({ error }, host) => TOKEN_WEIGHT + host.length + error.message.length,
  })

  constructor(options: TokenOptions) {
    this.#options = options
    this.#cache = new LRUCache({
      maxSize: TOKENS_WEIGHT,
      sizeCalculation: ({ value }, key) => TOKEN_WEIGHT + key.length + value.length,
      ttl: LIFETIME_SECONDS.min * 1000,
      ttlResolution: 0,
      perf: { now: options.now },
      fetchMethod: async (_key, _stale, { context, options: entry }) => {
        const { value, lifetimeSeconds = DEFAULT_LIFETIME_SECONDS } = await this.#fetch(context)
        const { min, max } = LIFETIME_SECONDS
        entry.ttl = Math.min(Math.max(lifetimeSeconds, min), max) * USABLE_MS_PER_SECOND
        return { value, issuedAt: options.now() }
      },
    })
  }

  /** @throws UpstreamError, or the signal's reason; then other callers still get the token */
  async get(challenge: BearerChallenge, signal: AbortSignal): Promise<Token> {
    const token = await abandonable(this.#cache.fetch(keyOf(challenge), { context: challenge }), signal)
    if (token === undefined) throw this.#broken('the token request was given up')
    return token
  }

  /** The next {@link get} asks again, unless another request already did. */
  invalidate(challenge: BearerChallenge, token: Token): void {
    const key = keyOf(challenge)
    if (this.#cache.peek(key) === token) this.#cache.delete(key)
  }

  async #fetch(challenge: BearerChallenge): Promise<IssuedToken> {
    const { upstream, timeoutMs, now } = this.#options
    const realm = URL.parse(challenge.realm)
    if (realm === null || !isAcceptableRealm(upstream, realm)) {
      throw this.#broken('the token realm is not https')
    }
    const silent = this.#silent.get(realm.host)
    if (silent !== undefined && silent.until > now()) throw silent.error
    const signal = AbortSignal.timeout(timeoutMs)
    try {
      const token = await this.#ask(realm, challenge, signal)
      this.#silent.delete(realm.host)
      return token
    } catch (cause) {
      const error = this.#failureOf(cause, realm)
      if (error.ofTheTokenService) this.#failed(realm.host, error)
      throw error
    }
  }

  async #ask(realm: URL, challenge: BearerChallenge, signal: AbortSignal): Promise<IssuedToken> {
    const { upstream, account, service } = this.#options
    const credentials = await account.get(signal)
    if (credentials === undefined) return await service.ask(realm, challenge, undefined, signal)
    if (!credentialsMayGo(upstream, realm)) {
      // Asking without them would only turn a hijacked answer into a puzzling "denied".
      throw this.#broken(`our credentials are not for the token realm ${realm.host}`)
    }
    return await account.tryWith(credentials, signal, (it) => service.ask(realm, challenge, it, signal))
  }

  #failureOf(cause: unknown, { host }: URL): UpstreamError {
    const { key } = this.#options
    if (!(cause instanceof UpstreamError)) {
      const message = `the token service ${host} does not answer`
      return new UpstreamError('unreachable', key, message, { ofTheTokenService: true, cause })
    }
    const { failure, message, status, retryAfterMs, scope } = cause
    const noAnswer = failure === 'unreachable' && scope !== 'account' && !cause.outOfFiles
    if (!noAnswer && (status ?? 0) < 500) return cause
    return new UpstreamError(failure, key, message, {
      ...{ status, retryAfterMs, scope },
      ofTheTokenService: true,
      cause: cause.cause,
    })
  }

  /** Counts a failure: later requests fail at once, but all tries of one request are made. */
  #failed(host: string, error: UpstreamError): void {
    const failures = (this.#silent.get(host)?.failures ?? 0) + 1
    const until = failures < FAILURES_BEFORE_SILENCE ? 0 : this.#options.now() + SILENCE_MS
    this.#silent.set(host, { error, failures, until })
  }

  #broken(message: string): UpstreamError {
    return new UpstreamError('broken', this.#options.key, message)
  }
}

function keyOf({ realm, service, scope }: BearerChallenge): string {
  return JSON.stringify([realm, service, scope])
}
