/**
 * The simulated token service and the registry's demand for its tokens.
 */
import { randomUUID } from 'node:crypto'
import { sendError, sendJson, type Call } from './upstream-send.ts'

export interface TokenOptions {
  /** Default: the auth listener's `/token`. */
  realm?: string
  service?: string
  /** Seconds a token is good for, and `expires_in`. */
  ttl?: number
  fields?: 'token' | 'access_token' | 'both'
  /** Leaves `expires_in` and `issued_at` out. */
  noExpiry?: boolean
  /** Scope that the challenge names; default `repository:NAME:pull`. `none` leaves it out. */
  scope?: string
  /** Who gets tokens for `private` repositories, and, unless `anonymous`, for any. */
  credentials?: Credentials
  /** Default true. */
  anonymous?: boolean
  /** Repositories whose tokens grant nothing without credentials. */
  private?: readonly string[]
  /** Tokens of repositories that do not exist grant nothing, as on Docker Hub; else those are 404. */
  hideUnknown?: boolean
  /** Rewrites the `WWW-Authenticate` value(s). `none`: 401 without one, except on the ping. */
  challenge?: ((challenge: string) => string | string[]) | 'none'
  /** `GET /v2/` is 200 all the same. */
  openPing?: boolean
  /** Virtual seconds between `issued_at` and now. */
  clockSkew?: number
}

export interface Credentials {
  username: string
  password: string
}

/** A registry is either open, or behind tokens, or behind plain Basic. */
export interface AuthOptions {
  token?: TokenOptions | undefined
  basic?: Credentials | undefined
}

interface Grant {
  readonly scope: string
  /** Empty: the token is good for nothing. */
  readonly granted: boolean
  readonly expiresAt: number
}

export class TokenService {
  #grants = new Map<string, Grant>()

  /** Every token issued so far is refused from now on. */
  revokeTokens(): void {
    this.#grants.clear()
  }

  issue(call: Call, options: TokenOptions, exists: (repo: string) => boolean): void {
    const scope = new URL(call.entry.url, 'http://auth').searchParams.get('scope') ?? ''
    const sent = call.entry.headers.authorization
    const known =
      sent !== undefined && options.credentials !== undefined && sent === basicOf(options.credentials)
    if ((sent !== undefined && !known) || (sent === undefined && options.anonymous === false)) {
      sendJson(call, 401, { details: 'incorrect username or password' })
      return
    }
    const repo = repositoryOf(scope)
    const hidden =
      repo !== undefined &&
      ((options.private?.includes(repo) === true && !known) ||
        (options.hideUnknown === true && !exists(repo)))
    const ttl = options.ttl ?? 300
    const token = randomUUID()
    this.#grants.set(token, { scope, granted: !hidden, expiresAt: performance.now() + ttl * 1000 })
    const fields = options.fields ?? 'both'
    sendJson(call, 200, {
      ...(fields === 'access_token' ? {} : { token }),
      ...(fields === 'token' ? {} : { access_token: token }),
      ...(options.noExpiry === true
        ? {}
        : {
            expires_in: ttl,
            issued_at: new Date(Date.now() - (options.clockSkew ?? 0) * 1000).toISOString(),
          }),
    })
  }

  /** @returns false when the request was answered with a 401 */
  admit(call: Call, auth: AuthOptions, authUrl: string): boolean {
    if (auth.token !== undefined) return this.#admitToken(call, auth.token, authUrl)
    if (auth.basic === undefined || call.entry.headers.authorization === basicOf(auth.basic)) return true
    sendError(call, 401, 'UNAUTHORIZED', { 'www-authenticate': 'Basic realm="simulator"' })
    return false
  }

  #admitToken(call: Call, options: TokenOptions, authUrl: string): boolean {
    const { entry } = call
    const ping = entry.kind === 'ping'
    if (ping && options.openPing === true) return true
    const wanted = options.scope ?? (entry.repo === undefined ? '' : `repository:${entry.repo}:pull`)
    const token = /^Bearer (.+)$/i.exec(entry.headers.authorization ?? '')?.[1]
    const grant = token === undefined ? undefined : this.#grants.get(token)
    const live = grant !== undefined && grant.expiresAt > performance.now()
    if (live && (ping || (grant.granted && covers(grant.scope, wanted)))) return true
    const parameters = [
      `realm="${options.realm ?? `${authUrl}/token`}"`,
      `service="${options.service ?? 'simulator'}"`,
      ...(wanted === '' || wanted === 'none' ? [] : [`scope="${wanted}"`]),
      ...(token === undefined ? [] : [`error="${live ? 'insufficient_scope' : 'invalid_token'}"`]),
    ]
    const plain = `Bearer ${parameters.join(',')}`
    const { challenge } = options
    const header = challenge === 'none' ? (ping ? plain : undefined) : (challenge?.(plain) ?? plain)
    sendError(call, 401, 'UNAUTHORIZED', { 'www-authenticate': header })
    return false
  }
}

function covers(granted: string, wanted: string): boolean {
  return wanted === 'none' || wanted === '' || granted.split(' ').includes(wanted)
}

function repositoryOf(scope: string): string | undefined {
  return /^repository:(.+):[^:]*$/.exec(scope)?.[1]
}

function basicOf({ username, password }: Credentials): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`
}
