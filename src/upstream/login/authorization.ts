/**
 * Challenge-response authentication (401): ask, read the challenge, get a token, ask again. Once.
 *
 * A repository's challenge is remembered, so that later requests bring a token along. Passwords and tokens go to the
 * upstream's own origin only (`redirects.ts` drops them at any other).
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { LRUCache } from 'lru-cache'
import { discardBody, readBody } from '../transport/response-body.ts'
import { bearerOf, parseChallenges, type BearerChallenge } from './challenge.ts'
import { basicHeader, saysExpired, type Account, type Credentials } from './credentials.ts'
import { pauseFor } from '../limits/retry.ts'
import type { Answer } from '../transport/redirects.ts'
import type { Token, TokenCache } from './token-cache.ts'
import { headerOf } from '../transport/transport.ts'
import { UpstreamError } from '../upstream.ts'

interface AuthorizationOptions {
  readonly key: string
  readonly account: Account
  readonly tokens: TokenCache
  /** Sends `GET /v2/`, which has a challenge where the resource gives none. */
  readonly ping: (authorization: string | undefined, signal: AbortSignal) => Promise<Answer>
  readonly now: () => Milliseconds
}

/** A refusal of a younger token is about the account, not about the token's age. */
const FRESH: Milliseconds = 10_000
/** Some registries take a token only from the next second on, or once all of their replicas know it. */
const SETTLED_AFTER: Milliseconds = 1_500
/** After a repository refused a settled token, no request waits for its token to settle for so long. */
const SETTLED_MEMORY: Milliseconds = 600_000
const MAX_REFUSAL_BYTES = 64 * 1024
/** Memory for challenges, any of which may be as long as a header, and what one takes beside its texts. */
const CHALLENGES_WEIGHT: Bytes = 1024 * 1024
const CHALLENGE_WEIGHT: Bytes = 256
/** ghcr.io's ping names this repository, which is an example, whatever is asked for. */
const EXAMPLE_SCOPE = 'repository:user/image:pull'

interface Sent {
  readonly header: string
  readonly challenge?: BearerChallenge
  readonly token?: Token
  /** The credentials in `header`, where it is Basic. */
  readonly credentials?: Credentials
}

type Scheme = BearerChallenge | 'basic'

export class Authorization {
  readonly #options: AuthorizationOptions
  /** Repository -> its challenge. */
  readonly #challenges = new LRUCache<string, BearerChallenge>({
    maxSize: CHALLENGES_WEIGHT,
    sizeCalculation: ({ realm, service = '', scope = '', error = '' }, name) =>
      CHALLENGE_WEIGHT + name.length + realm.length + service.length + scope.length + error.length,
  })
  /** Repository -> until when a refusal is final, and no request waits for its token to settle. */
  readonly #refusesSettled = new LRUCache<string, Milliseconds>({ max: 1_000 })
  /** The challenge of the ping, for all repositories whose own 401 has none. */
  #pinged: Scheme | undefined
  #basic = false

  constructor(options: AuthorizationOptions) {
    this.#options = options
  }

  /**
   * @param send called at most four times, with the `Authorization` to use (undefined: none)
   * @returns its last answer
   * @throws UpstreamError `denied` when it stays at 401 or 403; those of a redirect's target are passed on
   */
  async run(
    name: string,
    signal: AbortSignal,
    send: (authorization: string | undefined) => Promise<Answer>,
  ): Promise<Answer> {
    const { account } = this.#options
    let sent = await this.#upFront(name, signal)
    let waited = false
    for (let renewed = false; ;) {
      const answer = await send(sent?.header)
      if (!isRefusal(answer)) {
        // An upstream that fails has not looked at the credentials.
        const looked = answer.status < 500 && answer.status !== 429
        if (sent?.credentials !== undefined && looked) account.accepted()
        if (sent?.token !== undefined && looked) this.#refusesSettled.delete(name)
        return answer
      }
      const challenge = bearerOf(challengesOf(answer))
      const insufficient = answer.status === 401 && challenge?.error?.toLowerCase() === 'insufficient_scope'
      const unsettled = insufficient ? 0 : this.#unsettledFor(name, answer, sent)
      if (!waited && unsettled > 0) {
        discardBody(answer.body)
        await pauseFor(unsettled, signal)
        waited = true
        continue
      }
      // This request has waited in vain; others need not.
      if (waited) this.#refusesSettled.set(name, this.#options.now() + SETTLED_MEMORY)
      const next = await this.#next(name, answer, sent, { renewed, insufficient }, signal)
      if (next === undefined) throw this.#denied(name, answer, insufficient && sent?.token !== undefined)
      renewed = renewed || sent !== undefined
      sent = next
    }
  }

  /** How long until a 401 to that token would be final; 0: it is. */
  #unsettledFor(name: string, answer: Answer, sent: Sent | undefined): Milliseconds {
    if (answer.status !== 401 || sent?.token === undefined || sent.challenge === undefined) return 0
    const now = this.#options.now()
    if ((this.#refusesSettled.get(name) ?? now) > now) return 0
    const given = schemeOf(answer)
    const same = given === undefined || (given !== 'basic' && isSame(scopedFor(name, given), sent.challenge))
    return same ? SETTLED_AFTER - (now - sent.token.issuedAt) : 0
  }

  async #upFront(name: string, signal: AbortSignal): Promise<Sent | undefined> {
    if (this.#basic) return await this.#withBasic(signal)
    const challenge = this.#challenges.get(name)
    if (challenge === undefined) return undefined
    try {
      return await this.#withToken(challenge, signal)
    } catch (error) {
      if (error instanceof UpstreamError && error.failure !== 'busy') this.#forget(name)
      throw error
    }
  }

  /** A realm that has moved, or never was one, must not lock every request out until the next start. */
  #forget(name: string): void {
    this.#challenges.delete(name)
    this.#pinged = undefined
  }

  /** @returns what to try after a refusal; undefined: nothing. The answer's body is drained. */
  async #next(
    name: string,
    answer: Answer,
    sent: Sent | undefined,
    { renewed, insufficient }: { renewed: boolean; insufficient: boolean },
    signal: AbortSignal,
  ): Promise<Sent | undefined> {
    const given = schemeOf(answer)
    if (sent?.credentials !== undefined && typeof given !== 'object') {
      return await this.#withNewerBasic(answer, sent, sent.credentials, renewed, signal)
    }
    discardBody(answer.body)
    if (renewed) return undefined
    const scheme = given ?? (await this.#ungiven(answer, sent, signal))
    if (scheme === undefined) return undefined
    this.#basic = scheme === 'basic'
    if (scheme === 'basic') return await this.#withBasic(signal)
    const challenge = scopedFor(name, scheme)
    this.#challenges.set(name, challenge)
    if (sent?.token !== undefined && sent.challenge !== undefined) {
      const fresh = this.#options.now() - sent.token.issuedAt < FRESH
      const same = isSame(challenge, sent.challenge)
      if (fresh && same && (insufficient || answer.status === 403)) return undefined
      if (same) this.#options.tokens.invalidate(challenge, sent.token)
    }
    return await this.#withToken(challenge, signal)
  }

  /** The scheme to use after a refusal without a challenge. */
  async #ungiven(answer: Answer, sent: Sent | undefined, signal: AbortSignal): Promise<Scheme | undefined> {
    const { account, ping } = this.#options
    if (sent !== undefined) return sent.challenge
    // A 403 without a challenge is final for a client without credentials.
    if (answer.status === 403 && (await account.get(signal)) === undefined) return undefined
    if (this.#pinged === undefined) {
      const pinged = await ping(undefined, signal)
      discardBody(pinged.body)
      const offered = schemeOf(pinged)
      // The ping knows no repository: a scope that names one is an example. A word such as `aws` is a real scope.
      this.#pinged =
        typeof offered === 'object' && /^(repository:|$)/.test(offered.scope ?? '')
          ? { ...offered, scope: undefined }
          : offered
    }
    return this.#pinged
  }

  async #withToken(challenge: BearerChallenge, signal: AbortSignal): Promise<Sent> {
    const token = await this.#options.tokens.get(challenge, signal)
    return { header: `Bearer ${token.value}`, challenge, token }
  }

  async #withBasic(signal: AbortSignal): Promise<Sent | undefined> {
    const credentials = await this.#options.account.get(signal)
    return credentials === undefined ? undefined : { header: basicHeader(credentials), credentials }
  }

  /** After Basic was refused: newer credentials, where the refusal was about the old ones and there are some. */
  async #withNewerBasic(
    answer: Answer,
    { header }: Sent,
    credentials: Credentials,
    renewed: boolean,
    signal: AbortSignal,
  ): Promise<Sent | undefined> {
    const { account, key } = this.#options
    const why = await this.#whyRejected(answer, header, signal)
    if (why === undefined) return undefined
    if (renewed) {
      account.rejected(`${key} ${why}`)
      return undefined
    }
    const newer = await account.renewed(credentials, `${key} ${why}`, signal)
    return newer === undefined ? undefined : { header: basicHeader(newer), credentials: newer }
  }

  /** @returns undefined: the credentials are good, but may not read this repository */
  async #whyRejected(answer: Answer, header: string, signal: AbortSignal): Promise<string | undefined> {
    if (answer.status === 401) {
      discardBody(answer.body)
      return 'answered 401'
    }
    let words = await textOf(answer)
    if (words === '') {
      // A HEAD has no body that says why: the ping tells whether it is the account.
      const pinged = await this.#options.ping(header, signal)
      words = await textOf(pinged)
      if (pinged.status === 401) return 'answered 401'
      if (pinged.status !== 403) return undefined
    }
    return saysExpired(words) ? 'says that they have expired' : undefined
  }

  #denied(name: string, answer: Answer, insufficientScope: boolean): UpstreamError {
    if (schemeOf(answer) === undefined) this.#forget(name)
    const { key } = this.#options
    return new UpstreamError('denied', key, `${key} refuses: ${answer.status}`, {
      status: answer.status,
      insufficientScope,
    })
  }
}

/** Whether the registry itself refuses: a redirect's signed URL that has expired sends no challenge. */
function isRefusal(answer: Answer): boolean {
  const { status, hops, elsewhere } = answer
  if (hops > 0) return !elsewhere && status === 401 && schemeOf(answer) !== undefined
  return status === 401 || status === 403
}

function challengesOf(answer: Answer): ReturnType<typeof parseChallenges> {
  return parseChallenges(answer.headers['www-authenticate'])
}

function schemeOf(answer: Answer): Scheme | undefined {
  if (headerOf(answer.headers, 'www-authenticate') === undefined) return undefined
  const challenges = challengesOf(answer)
  return bearerOf(challenges) ?? (challenges.some(({ scheme }) => scheme === 'basic') ? 'basic' : undefined)
}

/** The server chooses the scope; where it names none, or its example, this client does. */
function scopedFor(name: string, challenge: BearerChallenge): BearerChallenge {
  const { scope } = challenge
  return scope === undefined || scope === EXAMPLE_SCOPE
    ? { ...challenge, scope: `repository:${name}:pull` }
    : challenge
}

async function textOf({ body }: Answer): Promise<string> {
  const bytes = await readBody(body, MAX_REFUSAL_BYTES).catch(() => undefined)
  return bytes?.toString() ?? ''
}

function isSame(one: BearerChallenge, other: BearerChallenge): boolean {
  return one.realm === other.realm && one.service === other.service && one.scope === other.scope
}
