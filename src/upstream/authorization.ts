/**
 * The dance of 401: ask, read the challenge, get a token, ask again. Once.
 *
 * What a repository's challenge was is remembered, so that later requests bring a token along. `Basic` goes
 * to the upstream's own origin only, tokens likewise (`redirects.ts` drops them at any other).
 */
import { LRUCache } from 'lru-cache'
import { discardBody } from './body.ts'
import { bearerOf, parseChallenges, type BearerChallenge } from './challenge.ts'
import type { Answer } from './redirects.ts'
import { basicHeader, type Credentials, type Token, type TokenCache } from './tokens.ts'
import { headerOf } from './transport.ts'
import { UpstreamError, type Milliseconds } from './upstream.ts'

interface AuthorizationOptions {
  readonly key: string
  readonly credentials: Credentials | undefined
  readonly tokens: TokenCache
  /** `GET /v2/` without credentials: where a challenge is to be had when the resource gives none. */
  readonly ping: (signal: AbortSignal) => Promise<Answer>
  readonly now: () => Milliseconds
}

/** A refusal of a token this young means the account, not the token. */
const FRESH: Milliseconds = 10_000

interface Sent {
  readonly header: string
  readonly challenge?: BearerChallenge
  readonly token?: Token
}

export class Authorization {
  readonly #options: AuthorizationOptions
  /** By repository. */
  readonly #challenges = new LRUCache<string, BearerChallenge>({ max: 10_000 })
  #basic = false

  constructor(options: AuthorizationOptions) {
    this.#options = options
  }

  /**
   * The answer of `send`, called with the `Authorization` to use (undefined: none), at most three times.
   *
   * @throws UpstreamError `denied` when it stays at 401 or 403; those of a redirect's target are passed on
   */
  async run(
    name: string,
    signal: AbortSignal,
    send: (authorization: string | undefined) => Promise<Answer>,
  ): Promise<Answer> {
    let sent = await this.#upFront(name, signal)
    for (let renewed = false; ;) {
      const answer = await send(sent?.header)
      if (answer.hops > 0 || (answer.status !== 401 && answer.status !== 403)) return answer
      discardBody(answer.body)
      const challenge = bearerOf(challengesOf(answer))
      const insufficient = answer.status === 401 && challenge?.error?.toLowerCase() === 'insufficient_scope'
      const next = await this.#next(name, answer, sent, { renewed, insufficient }, signal)
      if (next === undefined) throw this.#denied(answer, insufficient && sent?.token !== undefined)
      renewed = renewed || sent !== undefined
      sent = next
    }
  }

  async #upFront(name: string, signal: AbortSignal): Promise<Sent | undefined> {
    const { credentials } = this.#options
    if (this.#basic && credentials !== undefined) return { header: basicHeader(credentials) }
    const challenge = this.#challenges.get(name)
    return challenge === undefined ? undefined : await this.#withToken(challenge, signal)
  }

  /** What to try after a refusal; undefined: nothing. */
  async #next(
    name: string,
    answer: Answer,
    sent: Sent | undefined,
    { renewed, insufficient }: { renewed: boolean; insufficient: boolean },
    signal: AbortSignal,
  ): Promise<Sent | undefined> {
    if (renewed) return undefined
    const challenge = await this.#challengeOf(name, answer, sent, signal)
    if (challenge === 'basic') {
      const { credentials } = this.#options
      if (credentials === undefined || sent !== undefined) return undefined
      this.#basic = true
      return { header: basicHeader(credentials) }
    }
    if (challenge === undefined) return undefined
    this.#challenges.set(name, challenge)
    if (sent?.token !== undefined && sent.challenge !== undefined) {
      const fresh = this.#options.now() - sent.token.issuedAt < FRESH
      const same = isSame(challenge, sent.challenge)
      if (fresh && same && (insufficient || answer.status === 403)) return undefined
      if (same) this.#options.tokens.invalidate(challenge, sent.token)
    }
    return await this.#withToken(challenge, signal)
  }

  async #challengeOf(
    name: string,
    answer: Answer,
    sent: Sent | undefined,
    signal: AbortSignal,
  ): Promise<BearerChallenge | 'basic' | undefined> {
    const given = schemeOf(answer)
    if (given !== undefined) return given
    if (sent?.challenge !== undefined) return sent.challenge
    // A 403 without a word to somebody without credentials is an answer; so is one to Basic.
    if (sent !== undefined || (answer.status === 403 && this.#options.credentials === undefined))
      return undefined
    const ping = await this.#options.ping(signal)
    discardBody(ping.body)
    const offered = schemeOf(ping)
    // The ping's scope is none, or a dummy: it knows no repository.
    return typeof offered === 'object' ? { ...offered, scope: `repository:${name}:pull` } : offered
  }

  async #withToken(challenge: BearerChallenge, signal: AbortSignal): Promise<Sent> {
    const token = await this.#options.tokens.get(challenge, signal)
    return { header: `Bearer ${token.value}`, challenge, token }
  }

  #denied(answer: Answer, insufficientScope: boolean): UpstreamError {
    const { key } = this.#options
    return new UpstreamError('denied', key, `${key} refuses: ${answer.status}`, {
      status: answer.status,
      insufficientScope,
    })
  }
}

function challengesOf(answer: Answer): ReturnType<typeof parseChallenges> {
  return parseChallenges(answer.headers['www-authenticate'])
}

function schemeOf(answer: Answer): BearerChallenge | 'basic' | undefined {
  if (headerOf(answer.headers, 'www-authenticate') === undefined) return undefined
  const challenges = challengesOf(answer)
  return bearerOf(challenges) ?? (challenges.some(({ scheme }) => scheme === 'basic') ? 'basic' : undefined)
}

function isSame(one: BearerChallenge, other: BearerChallenge): boolean {
  return one.realm === other.realm && one.service === other.service && one.scope === other.scope
}
