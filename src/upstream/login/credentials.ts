/**
 * Accounts of an upstream: where their credentials come from, and whether the upstream accepts them.
 *
 * Only an {@link Account} hands credentials out, so that one place knows whether they were accepted.
 */
import type { Milliseconds } from '../../base/units.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import { UpstreamError } from '../upstream.ts'

export interface Credentials {
  /** {@link IDENTITY_TOKEN}: the password is a token that is exchanged for others. */
  readonly username: string
  readonly password: string
}

/** The user name that docker and its credential helpers write beside an identity token. */
export const IDENTITY_TOKEN = '<token>'

export interface CredentialSource {
  /**
   * @returns undefined: there are none, so ask without
   * @throws UpstreamError when they cannot be had, or the signal's reason
   */
  get(signal: AbortSignal): Promise<Credentials | undefined>
  /** Called when the upstream refused these: the next {@link get} looks for newer ones. */
  rejected?(credentials: Credentials): void
  /** Ends the processes that it started. */
  close?(): void
}

/** The user name and the password that the configuration itself holds. */
export class FixedCredentials implements CredentialSource {
  readonly #credentials: Credentials

  constructor(credentials: Credentials) {
    this.#credentials = credentials
  }

  get(): Promise<Credentials | undefined> {
    return Promise.resolve(this.#credentials)
  }
}

interface AccountOptions {
  readonly key: string
  /** The account's place in the configuration; `anonymous` without credentials. */
  readonly label?: string | undefined
  /** undefined: every request goes without credentials. */
  readonly source: CredentialSource | undefined
  readonly metrics: Pick<Metrics, 'upstreamCredentialsRejected' | 'beforeScrape'>
  /** Wall clock, for a time that people read. */
  readonly now?: (() => Milliseconds) | undefined
}

export class Account {
  /** A number for metrics and people; never the user's name. */
  readonly label: string
  readonly #options: AccountOptions
  #rejection: { readonly since: Date; readonly why: string } | undefined
  /** An earlier account of the same label may have removed the metric when it closed. */
  readonly #beforeScrape = (): void => this.#count()

  constructor(options: AccountOptions) {
    this.#options = options
    this.label = options.label ?? (options.source === undefined ? 'anonymous' : '1')
    this.#count()
    options.metrics.beforeScrape.add(this.#beforeScrape)
  }

  /** A sentence for the operator while the upstream refuses the credentials. */
  get complaint(): string | undefined {
    if (this.#rejection === undefined) return undefined
    const { since, why } = this.#rejection
    return `rejected since ${since.toISOString()}: ${why}`
  }

  /** @throws UpstreamError when they cannot be had, or the signal's reason */
  async get(signal: AbortSignal): Promise<Credentials | undefined> {
    return await this.#options.source?.get(signal)
  }

  accepted(): void {
    this.#rejection = undefined
    this.#count()
  }

  rejected(why: string): void {
    const { now = Date.now } = this.#options
    this.#rejection = { since: this.#rejection?.since ?? new Date(now()), why }
    this.#count()
  }

  /** Calls `ask` with these credentials, and where they are refused, once more with newer ones. */
  async tryWith<T>(
    credentials: Credentials,
    signal: AbortSignal,
    ask: (credentials: Credentials) => Promise<T>,
  ): Promise<T> {
    const first = await this.#judged(() => ask(credentials))
    if ('answer' in first) return first.answer
    const newer = await this.renewed(credentials, first.rejection.message, signal)
    if (newer === undefined) throw first.rejection
    const second = await this.#judged(() => ask(newer))
    if ('answer' in second) return second.answer
    this.rejected(second.rejection.message)
    throw second.rejection
  }

  /** Newer credentials than the refused ones; undefined, and a complaint, where there are none. */
  async renewed(refused: Credentials, why: string, signal: AbortSignal): Promise<Credentials | undefined> {
    const { source } = this.#options
    source?.rejected?.(refused)
    const found = await source?.get(signal)
    if (found !== undefined && !areSame(found, refused)) return found
    this.rejected(why)
    return undefined
  }

  close(): void {
    const { key, metrics, source } = this.#options
    metrics.beforeScrape.delete(this.#beforeScrape)
    metrics.upstreamCredentialsRejected.remove({ upstream: key, account: this.label })
    source?.close?.()
  }

  async #judged<T>(ask: () => Promise<T>): Promise<{ answer: T } | { rejection: UpstreamError }> {
    try {
      const answer = await ask()
      this.accepted()
      return { answer }
    } catch (error) {
      if (error instanceof UpstreamError && isRejection(error)) return { rejection: error }
      throw error
    }
  }

  #count(): void {
    const { metrics, key, source } = this.#options
    if (source === undefined) return
    const labels = { upstream: key, account: this.label }
    metrics.upstreamCredentialsRejected.set(labels, this.#rejection === undefined ? 0 : 1)
  }
}

/** A 403 may be about the repository only; a 401 is about the account. */
function isRejection({ failure, status, message }: UpstreamError): boolean {
  return failure === 'denied' && (status === 401 || saysExpired(message))
}

/** Detects ECR's "Your authorization token has expired", after twelve hours. */
export function saysExpired(words: string): boolean {
  return /\bexpired\b/i.test(words)
}

/** RFC 7617, in UTF-8. A password may hold anything: that of `_json_key` is a file of JSON. */
export function basicHeader({ username, password }: Credentials): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`
}

/** @throws UpstreamError unless the credentials of a file or a program can be sent */
export function usable(key: string, credentials: Credentials): Credentials {
  // RFC 7617 § 2: the first colon ends the name.
  if (credentials.username === '' || credentials.username.includes(':')) {
    throw unavailable(key, 'the user name of its credentials is empty or has a colon in it')
  }
  return credentials
}

/** The error for credentials that cannot be used or had, which is not the upstream's fault. */
export function unavailable(key: string, message: string): UpstreamError {
  return new UpstreamError('unreachable', key, message, { scope: 'account' })
}

export function areSame(one: Credentials, other: Credentials): boolean {
  return one.username === other.username && one.password === other.password
}
