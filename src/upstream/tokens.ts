/**
 * Bearer tokens of one upstream's token service: one request per (realm, service, scope) however many need it.
 *
 * Our credentials go to a realm on the upstream's own registrable domain only, and over https (plain http
 * only where the upstream itself is plain http). Spec: distribution, token authentication.
 */
import { LRUCache } from 'lru-cache'
import { isIP } from 'node:net'
import { classifyAddress, hostOf } from './addresses.ts'
import { readBody } from './body.ts'
import type { BearerChallenge } from './challenge.ts'
import { abortable } from './manners.ts'
import type { Answer } from './redirects.ts'
import type { Headers } from './transport.ts'
import { UpstreamError, type Milliseconds } from './upstream.ts'

export interface Credentials {
  readonly username: string
  readonly password: string
}

export interface Token {
  readonly value: string
  readonly issuedAt: Milliseconds
}

interface TokenOptions {
  readonly key: string
  readonly upstream: URL
  readonly credentials: Credentials | undefined
  /** Asks the token service, once; a refusal is thrown. */
  readonly ask: (url: URL, headers: Headers, signal: AbortSignal) => Promise<Answer>
  /** Monotonic. */
  readonly now: () => Milliseconds
}

/** The service gets this long, whoever waits: its answer serves many. */
const ASK_TIMEOUT: Milliseconds = 15_000
const MAX_ANSWER_BYTES = 1024 * 1024
/** What the specification says of an answer without `expires_in`. */
const DEFAULT_LIFETIME_SECONDS = 60
const LIFETIME_SECONDS = { min: 5, max: 24 * 60 * 60 }

export class TokenCache {
  readonly #options: TokenOptions
  readonly #cache: LRUCache<string, Token, BearerChallenge>

  constructor(options: TokenOptions) {
    this.#options = options
    this.#cache = new LRUCache({
      max: 1000,
      ttl: LIFETIME_SECONDS.min * 1000,
      ttlResolution: 0,
      perf: { now: options.now },
      fetchMethod: async (_key, _stale, { context, options: entry }) => {
        const { token, lifetimeSeconds } = await this.#fetch(context)
        // Ten per cent early: it has to last until the request has arrived.
        entry.ttl = lifetimeSeconds * 900
        return token
      },
    })
  }

  /** @throws UpstreamError, or the signal's reason; others that wait for the same token are not disturbed */
  async get(challenge: BearerChallenge, signal: AbortSignal): Promise<Token> {
    const token = await abortable(this.#cache.fetch(keyOf(challenge), { context: challenge }), signal)
    if (token === undefined) throw this.#broken('the token request was given up')
    return token
  }

  /** The next {@link get} asks again, unless somebody already did. */
  invalidate(challenge: BearerChallenge, token: Token): void {
    const key = keyOf(challenge)
    if (this.#cache.peek(key) === token) this.#cache.delete(key)
  }

  async #fetch(challenge: BearerChallenge): Promise<{ token: Token; lifetimeSeconds: number }> {
    const { upstream, credentials, now } = this.#options
    const realm = URL.parse(challenge.realm)
    if (realm === null || !isAcceptableRealm(upstream, realm)) {
      throw this.#broken('the token realm is not https')
    }
    const withCredentials = credentials !== undefined && credentials.username !== ''
    if (withCredentials && !credentialsMayGo(upstream, realm)) {
      // Asking without them would only turn a hijacked answer into a puzzling "denied".
      throw this.#broken(`our credentials are not for the token realm ${realm.host}`)
    }
    if (challenge.service !== undefined) realm.searchParams.set('service', challenge.service)
    if (challenge.scope !== undefined) realm.searchParams.set('scope', challenge.scope)
    const headers = withCredentials ? { authorization: basicHeader(credentials) } : {}
    const bytes = await this.#ask(realm, headers)
    const parsed = bytes === undefined ? undefined : parseAnswer(bytes)
    if (parsed === undefined) throw this.#broken(`the token service ${realm.host} gave no token`)
    return { token: { value: parsed.value, issuedAt: now() }, lifetimeSeconds: parsed.lifetimeSeconds }
  }

  async #ask(realm: URL, headers: Headers): Promise<Buffer | undefined> {
    const { ask, key } = this.#options
    try {
      const answer = await ask(realm, headers, AbortSignal.timeout(ASK_TIMEOUT))
      return await readBody(answer.body, MAX_ANSWER_BYTES)
    } catch (cause) {
      if (cause instanceof UpstreamError) throw cause
      const message = `the token service ${realm.host} does not answer`
      throw new UpstreamError('unreachable', key, message, { cause })
    }
  }

  #broken(message: string): UpstreamError {
    return new UpstreamError('broken', this.#options.key, message)
  }
}

export function basicHeader({ username, password }: Credentials): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`
}

function keyOf({ realm, service, scope }: BearerChallenge): string {
  return JSON.stringify([realm, service, scope])
}

/** `issued_at` is left aside on purpose: with a skewed clock it would make every token old at birth. */
function parseAnswer(bytes: Buffer): { value: string; lifetimeSeconds: number } | undefined {
  let answer: unknown
  try {
    answer = JSON.parse(bytes.toString())
  } catch {
    return undefined
  }
  if (typeof answer !== 'object' || answer === null) return undefined
  const { token, access_token, expires_in } = answer as Record<string, unknown>
  const value = [token, access_token].find((it) => typeof it === 'string' && it !== '')
  // What is not a header value must not become one.
  if (typeof value !== 'string' || !/^[\x21-\x7e]+$/.test(value)) return undefined
  const seconds = Number(expires_in)
  const lifetime = Number.isFinite(seconds) && seconds > 0 ? seconds : DEFAULT_LIFETIME_SECONDS
  return {
    value,
    lifetimeSeconds: Math.min(Math.max(lifetime, LIFETIME_SECONDS.min), LIFETIME_SECONDS.max),
  }
}

function isAcceptableRealm(upstream: URL, realm: URL): boolean {
  if (realm.protocol === 'https:') return true
  return realm.protocol === 'http:' && upstream.protocol === 'http:'
}

/** Whether `realm` may see what the operator configured for `upstream`. */
export function credentialsMayGo(upstream: URL, realm: URL): boolean {
  const [here, there] = [hostOf(upstream), hostOf(realm)]
  const bothLoopback = isLoopback(here) && isLoopback(there)
  if (realm.protocol === 'http:') return upstream.protocol === 'http:' && (here === there || bothLoopback)
  if (realm.protocol !== 'https:') return false
  const domain = registrableDomain(here)
  return here === there || (domain !== undefined && domain === registrableDomain(there))
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || (isIP(host) !== 0 && classifyAddress(host) === 'loopback')
}

/** Below these anybody can have a name, so a shared suffix means nothing there. */
const SHARED = new Set([
  'amazonaws.com',
  'azurecr.io',
  'azurewebsites.net',
  'cloudfront.net',
  'github.io',
  'windows.net',
])
const SECOND_LEVEL = new Set(['ac', 'co', 'com', 'edu', 'go', 'gov', 'gv', 'ne', 'net', 'or', 'org'])

/** An approximation of the public suffix list; undefined where only the same host will do. */
function registrableDomain(host: string): string | undefined {
  const labels = host.split('.')
  if (isIP(host) !== 0 || labels.length < 2) return undefined
  const [second = '', top = ''] = labels.slice(-2)
  const length = top.length === 2 && SECOND_LEVEL.has(second) ? 3 : 2
  const domain = labels.slice(-length).join('.')
  return labels.length < length || SHARED.has(domain) ? undefined : domain
}
