/**
 * The simulated token service and the registry's demand for its tokens.
 */
import { randomUUID } from 'node:crypto'
import { CHALLENGE_FORMATS, LITERAL_SCOPE, type ChallengeFormat } from './upstream-challenges.ts'
import { PAGE, sendError, sendJson, sendSmall, type Call } from './upstream-send.ts'

export interface TokenOptions {
  /** Default: the auth listener's `/token`. */
  realm?: string
  service?: string
  /** Seconds a token is good for, and `expires_in`. */
  ttl?: number
  /** Requests a token is good for. */
  uses?: number
  /** A token is refused for so long after it was given out. */
  settleMs?: number
  fields?: 'token' | 'access_token' | 'both'
  /** Leaves `expires_in` and `issued_at` out. */
  noExpiry?: boolean
  /** Scope that the challenge names; default `repository:NAME:pull`. `none` leaves it out. */
  scope?: string
  /** Who gets tokens for `private` repositories, and, unless `anonymous`, for any. */
  credentials?: Credentials
  /** The same by a POST with this as its `refresh_token`. */
  identityToken?: string
  /** Default true. */
  anonymous?: boolean
  /** Repositories whose tokens grant nothing without credentials. */
  private?: readonly string[]
  /** Repositories whose tokens grant nothing. */
  insufficientScope?: { repos: readonly string[] }
  /** Tokens of repositories that do not exist grant nothing, as on Docker Hub; else those are 404. */
  hideUnknown?: boolean
  /** Rewrites the `WWW-Authenticate` value(s). `none`: 401 without one, except on the ping. */
  challenge?: ((challenge: string) => string | string[]) | 'none'
  challengeFormat?: ChallengeFormat
  /** 401 without a challenge, except on the ping. */
  noChallengeOnResource?: boolean
  /** `GET /v2/` is 200 all the same. */
  pingOpen?: boolean
  /** How far its clock, as `Date` and `issued_at` tell it, is ahead. */
  clockSkewMs?: number
  /** Tokens are a day old when they are given out. */
  issuedAtPast?: boolean
  /** The challenge names a realm that is not its own. */
  hostileRealm?: keyof typeof HOSTILE_REALMS
}

export interface Credentials {
  username: string
  password: string
}

/** What the token service answers in place of a token; everything else of it is `TokenOptions`. */
export interface TokenEndpoint {
  /** To GET and POST. */
  status?: number
  getStatus?: number
  postStatus?: number
  /** Default: an OCI error. `details`: as Docker Hub says it. */
  body?: 'json' | 'html' | 'details'
  retryAfter?: string | number
  /** Takes the request and never answers. */
  hang?: boolean
}

/** A registry is either open, or behind tokens, or behind plain Basic. */
export interface AuthOptions {
  token?: TokenOptions | undefined
  basic?: Credentials | readonly Credentials[] | undefined
  tokenEndpoint?: TokenEndpoint | undefined
  /** Of `GET /v2/`. */
  ping?: { status: number } | undefined
  /** Whatever credentials are shown are out of date (ECR, after twelve hours). */
  credsExpired?: boolean | undefined
}

export const HOSTILE_REALMS = {
  otherDomain: 'https://tokens.example/token',
  linkLocal: 'http://169.254.169.254/latest/meta-data',
}

const EXPIRED = 'Your authorization token has expired. Reauthenticate and try again.'
const DAY_MS = 86_400_000

interface Grant {
  readonly scope: string
  /** Empty: the token is good for nothing. */
  readonly granted: boolean
  readonly settledAt: number
  readonly expiresAt: number
  usesLeft: number
}

export class TokenService {
  readonly #now: () => number
  #grants = new Map<string, Grant>()

  /** @param now in ms; decides how long tokens are good */
  constructor(now: () => number) {
    this.#now = now
  }

  /** Every token issued so far is refused from now on. */
  revokeTokens(): void {
    this.#grants.clear()
  }

  /** Answers a request for a token. */
  issue(call: Call, auth: AuthOptions, exists: (repo: string) => boolean): void {
    const options = auth.token ?? {}
    if (auth.tokenEndpoint !== undefined && refusesTokens(call, auth.tokenEndpoint)) return
    const { form, url, method } = call.entry
    const asked = form ?? new URL(url, 'http://auth').searchParams
    const scope = asked.get('scope') ?? ''
    const sent = method === 'POST' || call.entry.headers.authorization !== undefined
    const known = sent && auth.credsExpired !== true && isKnown(call, options)
    if ((sent && !known) || (!sent && options.anonymous === false)) {
      sendJson(call, 401, {
        details: auth.credsExpired === true ? EXPIRED : 'incorrect username or password',
      })
      return
    }
    const repo = repositoryOf(scope)
    const hidden =
      repo !== undefined &&
      (options.insufficientScope?.repos.includes(repo) === true ||
        (options.private?.includes(repo) === true && !known) ||
        (options.hideUnknown === true && !exists(repo)))
    const ttl = options.ttl ?? 300
    const token = randomUUID()
    this.#grants.set(token, {
      scope,
      granted: !hidden,
      settledAt: this.#now() + (options.settleMs ?? 0),
      expiresAt: this.#now() + ttl * 1000,
      usesLeft: options.uses ?? Infinity,
    })
    const fields = options.fields ?? 'both'
    const issuedAt = skewedClock(options) - (options.issuedAtPast === true ? DAY_MS : 0)
    sendJson(
      call,
      200,
      {
        ...(fields === 'access_token' ? {} : { token }),
        ...(fields === 'token' ? {} : { access_token: token }),
        ...(options.noExpiry === true
          ? {}
          : { expires_in: ttl, issued_at: new Date(issuedAt).toISOString() }),
      },
      dateOf(options),
    )
  }

  /** @returns false when the request was answered with a refusal */
  admit(call: Call, auth: AuthOptions, authUrl: string): boolean {
    const { kind, headers } = call.entry
    if (kind === 'ping' && auth.ping !== undefined) {
      sendError(call, auth.ping.status, 'UNKNOWN')
      return false
    }
    if (auth.token !== undefined) return this.#admitToken(call, auth.token, authUrl)
    if (auth.basic === undefined) return true
    if (auth.credsExpired === true && headers.authorization !== undefined) {
      sendJson(call, 403, { errors: [{ code: 'DENIED', message: EXPIRED }] })
      return false
    }
    if ([auth.basic].flat().some((it) => headers.authorization === basicOf(it))) return true
    sendError(call, 401, 'UNAUTHORIZED', { 'www-authenticate': 'Basic realm="simulator"' })
    return false
  }

  #admitToken(call: Call, options: TokenOptions, authUrl: string): boolean {
    const { entry } = call
    const ping = entry.kind === 'ping'
    if (ping && options.pingOpen === true) return true
    const own = options.challengeFormat === 'literalScope' ? LITERAL_SCOPE : options.scope
    const wanted = own ?? (entry.repo === undefined ? '' : `repository:${entry.repo}:pull`)
    const token = /^Bearer (.+)$/i.exec(entry.headers.authorization ?? '')?.[1]
    const grant = token === undefined ? undefined : this.#grants.get(token)
    const now = this.#now()
    const live = grant !== undefined && grant.settledAt <= now && grant.expiresAt > now && grant.usesLeft > 0
    if (live && (ping || (grant.granted && covers(grant.scope, wanted)))) {
      grant.usesLeft -= 1
      return true
    }
    const realm = options.hostileRealm === undefined ? options.realm : HOSTILE_REALMS[options.hostileRealm]
    const parameters = [
      `realm="${realm ?? `${authUrl}/token`}"`,
      `service="${options.service ?? 'simulator'}"`,
      ...(wanted === '' || wanted === 'none' ? [] : [`scope="${wanted}"`]),
      ...(token === undefined ? [] : [`error="${live ? 'insufficient_scope' : 'invalid_token'}"`]),
    ]
    sendError(call, 401, 'UNAUTHORIZED', {
      'www-authenticate': challengeOf(`Bearer ${parameters.join(',')}`, options, ping),
      ...dateOf(options),
    })
    return false
  }
}

/** @returns whether it answered, or decided not to */
function refusesTokens(call: Call, endpoint: TokenEndpoint): boolean {
  if (endpoint.hang === true) return true
  const { getStatus, postStatus, body = 'json', retryAfter } = endpoint
  const status = (call.entry.method === 'POST' ? postStatus : getStatus) ?? endpoint.status
  if (status === undefined) return false
  const headers = retryAfter === undefined ? {} : { 'retry-after': retryAfter }
  if (body === 'json') sendError(call, status, 'DENIED', headers)
  else if (body === 'details') sendJson(call, status, { details: 'too many failed logins' }, headers)
  else sendSmall(call, status, PAGE, { ...headers, 'content-type': 'text/html; charset=utf-8' })
  return true
}

function isKnown({ entry }: Call, { credentials, identityToken }: TokenOptions): boolean {
  const { form, headers } = entry
  if (form === undefined) {
    return credentials !== undefined && headers.authorization === basicOf(credentials)
  }
  return form.get('grant_type') === 'refresh_token'
    ? identityToken !== undefined && form.get('refresh_token') === identityToken
    : form.get('grant_type') === 'password' &&
        credentials !== undefined &&
        form.get('username') === credentials.username &&
        form.get('password') === credentials.password
}

function challengeOf(plain: string, options: TokenOptions, ping: boolean): string | string[] | undefined {
  const { challenge, challengeFormat, noChallengeOnResource } = options
  if (challenge === 'none' || noChallengeOnResource === true) return ping ? plain : undefined
  if (challengeFormat !== undefined) return CHALLENGE_FORMATS[challengeFormat](plain)
  return challenge?.(plain) ?? plain
}

/** Unix time in ms, as it believes. */
function skewedClock({ clockSkewMs = 0 }: TokenOptions): number {
  return Date.now() + clockSkewMs
}

function dateOf(options: TokenOptions): { date?: string } {
  return options.clockSkewMs === undefined ? {} : { date: new Date(skewedClock(options)).toUTCString() }
}

function covers(granted: string, wanted: string): boolean {
  return wanted === 'none' || wanted === '' || granted.split(' ').includes(wanted)
}

function repositoryOf(scope: string): string | undefined {
  return /^repository:(.+):[^:]*$/.exec(scope)?.[1]
}

export function basicOf({ username, password }: Credentials): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`
}
