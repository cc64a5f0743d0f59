/**
 * Client of token services: by GET as most like it, by POST where a service wants that, and by the other method where
 * the first does not work. The method that worked is remembered by realm.
 *
 * Specs: distribution, token authentication and OAuth2 token authentication.
 */
import { LRUCache } from 'lru-cache'
import { isObject, jsonObjectIn } from '../../oci/json.ts'
import { refusalOf } from '../transport/responses.ts'
import { readBody } from '../transport/response-body.ts'
import type { BearerChallenge } from './challenge.ts'
import { basicHeader, IDENTITY_TOKEN, type Credentials } from './credentials.ts'
import type { Answer } from '../transport/redirects.ts'
import type { Headers } from '../transport/transport.ts'
import { UpstreamError } from '../upstream.ts'

export interface IssuedToken {
  readonly value: string
  /** Undefined where the service did not say. */
  readonly lifetimeSeconds: number | undefined
}

interface TokenServiceOptions {
  readonly key: string
  readonly send: (request: TokenRequest) => Promise<Answer>
}

export interface TokenRequest {
  readonly method: 'GET' | 'POST'
  readonly url: URL
  readonly headers: Headers
  /** The form of a POST, which is never redirected. */
  readonly body?: string
  readonly signal: AbortSignal
}

type Method = TokenRequest['method']

const MAX_ANSWER_BYTES = 1024 * 1024
const MAX_WORDS = 300
/** After these statuses the other method is tried: GCR, Artifactory, ACR and others answer so to a POST. */
const TRY_OTHER: Readonly<Record<Method, ReadonlySet<number>>> = {
  GET: new Set([404, 405, 501]),
  POST: new Set([301, 302, 303, 307, 308, 400, 401, 404, 405, 501]),
}

export class TokenService {
  readonly #options: TokenServiceOptions
  /** Realm -> the method that worked with credentials. */
  readonly #methods = new LRUCache<string, Method>({ maxSize: 100, sizeCalculation: () => 1 })

  constructor(options: TokenServiceOptions) {
    this.#options = options
  }

  /** @throws UpstreamError, or what the signal or a broken body threw */
  async ask(
    realm: URL,
    challenge: BearerChallenge,
    credentials: Credentials | undefined,
    signal: AbortSignal,
  ): Promise<IssuedToken> {
    if (credentials === undefined) {
      return await this.#read(await this.#options.send(getRequest(realm, challenge, undefined, signal)))
    }
    const usual: Method = credentials.username === IDENTITY_TOKEN ? 'POST' : 'GET'
    const memory = `${usual} ${realm.href}`
    const first = this.#methods.get(memory) ?? usual
    const second = first === 'GET' ? 'POST' : 'GET'
    const ask = (method: Method): Promise<Answer> =>
      this.#options.send(requestOf(method, realm, challenge, credentials, signal))
    const answer = await ask(first)
    if (!TRY_OTHER[first].has(answer.status)) return await this.#read(answer, credentials)
    const refusal = await this.#refusal(answer, credentials)
    try {
      const token = await this.#read(await ask(second), credentials)
      this.#methods.set(memory, second)
      return token
    } catch (error) {
      // The answer that looked at the credentials is the one to believe.
      throw refusal.failure === 'denied' ? refusal : error
    }
  }

  async #read(answer: Answer, credentials?: Credentials): Promise<IssuedToken> {
    if (answer.status !== 200) throw await this.#refusal(answer, credentials)
    const token = tokenIn(await readBody(answer.body, MAX_ANSWER_BYTES))
    if (token !== undefined) return token
    throw new UpstreamError('broken', this.#options.key, `the token service ${answer.url.host} gave no token`)
  }

  async #refusal(answer: Answer, credentials: Credentials | undefined): Promise<UpstreamError> {
    const words = wordsIn(await readBody(answer.body, MAX_ANSWER_BYTES))
    const said = words && concealed(words, credentials)
    return refusalOf(this.#options.key, answer, { words: said, scope: 'account' })
  }
}

function requestOf(
  method: Method,
  realm: URL,
  challenge: BearerChallenge,
  credentials: Credentials,
  signal: AbortSignal,
): TokenRequest {
  if (method === 'GET') return getRequest(realm, challenge, credentials, signal)
  const { username, password } = credentials
  const form = new URLSearchParams(
    username === IDENTITY_TOKEN
      ? { grant_type: 'refresh_token', refresh_token: password }
      : { grant_type: 'password', username, password },
  )
  form.set('client_id', 'entrepot')
  form.set('access_type', 'online')
  if (challenge.service !== undefined) form.set('service', challenge.service)
  if (challenge.scope !== undefined) form.set('scope', challenge.scope)
  const headers = { 'content-type': 'application/x-www-form-urlencoded' }
  return { method, url: realm, headers, body: form.toString(), signal }
}

function getRequest(
  realm: URL,
  { service, scope }: BearerChallenge,
  credentials: Credentials | undefined,
  signal: AbortSignal,
): TokenRequest {
  const url = new URL(realm)
  if (service !== undefined) url.searchParams.set('service', service)
  if (scope !== undefined) url.searchParams.set('scope', scope)
  const headers: Headers = credentials === undefined ? {} : { authorization: basicHeader(credentials) }
  return { method: 'GET', url, headers, signal }
}

/** `issued_at` is ignored on purpose: with a skewed clock every token would be born expired. */
function tokenIn(bytes: Buffer | undefined): IssuedToken | undefined {
  const { token, access_token, expires_in } = (bytes && jsonObjectIn(bytes.toString())) ?? {}
  const value = [token, access_token].find((it) => typeof it === 'string' && it !== '')
  // A token is sent as a header: a line break in it must not make another one.
  if (typeof value !== 'string' || !/^[\x21-\x7e]+$/.test(value)) return undefined
  const seconds = Number(expires_in)
  return { value, lifetimeSeconds: Number.isFinite(seconds) && seconds > 0 ? seconds : undefined }
}

/** The error's text: Docker Hub has `details`, OAuth2 `error_description`, others the errors of a registry. */
function wordsIn(bytes: Buffer | undefined): string | undefined {
  const { details, error_description, message, errors } = (bytes && jsonObjectIn(bytes.toString())) ?? {}
  const first: unknown = Array.isArray(errors) ? errors[0] : undefined
  const inner = isObject(first) ? first['message'] : undefined
  const words = [details, inner, error_description, message].find((it) => typeof it === 'string' && it !== '')
  if (typeof words !== 'string') return undefined
  // eslint-disable-next-line no-control-regex -- what comes from elsewhere must not draw on a terminal
  return words.replace(/[\x00-\x1f\x7f-\x9f]+/g, ' ').slice(0, MAX_WORDS)
}

/** Removes credentials that a service echoes, which must reach neither the log nor clients. */
function concealed(words: string, credentials: Credentials | undefined): string {
  const { username = '', password = '' } = credentials ?? {}
  const hidden = password === '' ? words : words.replaceAll(password, '[hidden]')
  // A user name of a letter or two occurs in every sentence.
  const isName = username.length > 2 && username !== IDENTITY_TOKEN
  return isName ? hidden.replaceAll(username, '[hidden]') : hidden
}
