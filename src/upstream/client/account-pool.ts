/**
 * An upstream of which we have several accounts: who has most pulls left is asked, and the next where it may not or
 * cannot.
 *
 * They all ask the same registry. So what goes wrong with it (no connection, nonsense, a server error) is its answer
 * whoever asked; only what is about an account (a limit of its pulls, credentials that are refused or cannot be had,
 * a repository that it may not read) is a reason to ask as somebody else. An image that one of them alone may read
 * looks to the others like one that is denied, or like none at all: who was shown to be blind to a repository is
 * asked about it after the others, for a while.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { LRUCache } from 'lru-cache'
import type { Digest } from '../../oci/digest.ts'
import type { Reference, RepositoryName } from '../../oci/reference.ts'
import { stoppedForMs, withheldPulls } from '../limits/quota-reserve.ts'
import type { AccountStatus, UpstreamStatus } from '../status.ts'
import {
  UpstreamError,
  type BlobRequest,
  type ReferrersPage,
  type TagPage,
  type Upstream,
  type UpstreamBlob,
  type UpstreamHead,
  type UpstreamManifest,
} from '../upstream.ts'

/** How long an account that may not read a repository is asked about it after the others. */
const BLIND_MEMORY: Milliseconds = 600_000
/** How long one whose credentials are not taken is asked after the others; it doubles while they stay wrong. */
const REFUSED_MEMORY: Milliseconds = 60_000
/** Whoever goes on with a wrong password may be locked out. */
const REFUSED_MOST: Milliseconds = 1_800_000

interface AccountsOptions {
  /** One for each account, with one account each, in the order of the configuration; all of the same upstream. */
  readonly clients: readonly Upstream[]
  /** Monotonic. */
  readonly now: () => Milliseconds
  readonly log: { debug(fields: object, message: string): void }
}

interface Question<T> {
  readonly name: RepositoryName
  /** It counts where pulls are counted. */
  readonly isPull?: boolean
  readonly ask: (client: Upstream) => Promise<T>
  /** There is none, as far as that account can see. */
  readonly isAbsent: (answer: T) => boolean
  /** Such an absence is none: the answer shows nothing either way. Default: none is such. */
  readonly isDoubtful?: (answer: T) => boolean
}

export class AccountPool implements Upstream {
  readonly key: string
  readonly #options: AccountsOptions
  readonly #accounts: readonly Caller[]

  constructor(options: AccountsOptions) {
    this.#options = options
    this.#accounts = options.clients.map((client) => new Caller(client))
    const [first] = options.clients
    if (first === undefined) throw new Error('there is nobody to ask as')
    this.key = first.key
  }

  headManifest(name: RepositoryName, reference: Reference, signal: AbortSignal): Promise<UpstreamHead> {
    return this.#ask<UpstreamHead>({
      name,
      ask: (client) => client.headManifest(name, reference, signal),
      isAbsent: ({ result }) => result !== 'present',
      isDoubtful: ({ result }) => result === 'unusable',
    })
  }

  manifest(
    name: RepositoryName,
    reference: Reference,
    signal: AbortSignal,
  ): Promise<UpstreamManifest | undefined> {
    return this.#ask({
      name,
      isPull: true,
      ask: (client) => client.manifest(name, reference, signal),
      isAbsent: isUndefined,
    })
  }

  headBlob(
    name: RepositoryName,
    digest: Digest,
    signal: AbortSignal,
  ): Promise<{ size: Bytes | undefined } | undefined> {
    return this.#ask({ name, ask: (client) => client.headBlob(name, digest, signal), isAbsent: isUndefined })
  }

  blob(name: RepositoryName, digest: Digest, request: BlobRequest): Promise<UpstreamBlob | undefined> {
    return this.#ask({ name, ask: (client) => client.blob(name, digest, request), isAbsent: isUndefined })
  }

  tags(
    name: RepositoryName,
    query: URLSearchParams,
    signal: AbortSignal,
    etag?: string,
  ): Promise<TagPage | undefined> {
    return this.#ask({ name, ask: (client) => client.tags(name, query, signal, etag), isAbsent: isUndefined })
  }

  referrers(
    name: RepositoryName,
    subject: Digest,
    query: URLSearchParams,
    signal: AbortSignal,
    etag?: string,
  ): Promise<ReferrersPage | undefined> {
    return this.#ask({
      name,
      ask: (client) => client.referrers(name, subject, query, signal, etag),
      isAbsent: isUndefined,
      // "None" may be the registry's word on what it can do, and not on what there is.
      isDoubtful: isUndefined,
    })
  }

  status(): UpstreamStatus {
    return { offline: false, accounts: this.#accounts.map(({ status }) => status) }
  }

  paused(): UpstreamError | undefined {
    const refusals = this.#accounts.map(({ client }) => client.paused?.())
    if (refusals.includes(undefined)) return undefined
    const wait = (refusal: UpstreamError | undefined): Milliseconds => refusal?.retryAfterMs ?? 0
    return refusals.toSorted((one, other) => wait(one) - wait(other))[0]
  }

  quotaBelow(reserve: number): UpstreamError | undefined {
    return withheldPulls(this.key, this.status(), reserve)
  }

  async close(): Promise<void> {
    await Promise.all(this.#accounts.map(({ client }) => client.close()))
  }

  async #ask<T>(question: Question<T>): Promise<T> {
    const { name, isPull = false, ask, isAbsent, isDoubtful = () => false } = question
    const failures: UpstreamError[] = []
    const blind: Caller[] = []
    let absent: { readonly answer: T } | undefined
    let hidden = false
    for (const account of this.#inOrder(name, isPull)) {
      const wasUp = account.status.breaker.state === 'closed'
      try {
        const answer = await ask(account.client)
        account.answered()
        if (!isAbsent(answer)) {
          account.mayRead(name)
          // They have called nothing what this one sees.
          for (const other of blind) other.mayNotRead(name, this.#options.now() + BLIND_MEMORY)
          return answer
        }
        if (account.isReader(name)) return answer
        const doubtful = isDoubtful(answer)
        if (absent === undefined || doubtful) absent = { answer }
        if (!doubtful) blind.push(account)
      } catch (error) {
        if (!(error instanceof UpstreamError)) throw error
        // Whose breaker is not closed may be kept from asking, while another is not.
        if (!isOfTheAccount(error) && (wasUp || error.failure !== 'unreachable')) throw error
        this.#failed(account, name, error)
        failures.push(error)
        hidden ||= !hasLooked(account, error)
      }
    }
    // Who may see it could not look: what the others do not see proves nothing.
    if (absent !== undefined && (!hidden || isDoubtful(absent.answer))) return absent.answer
    throw this.#together(failures)
  }

  #failed(account: Caller, name: RepositoryName, error: UpstreamError): void {
    const { log, now } = this.#options
    const { account: label, complaint } = account.status
    log.debug({ upstream: this.key, account: label, err: error }, 'asking as another account')
    if (error.ofTheAccount || complaint !== undefined) account.refused(now())
    else if (error.failure === 'denied') account.mayNotRead(name, now() + BLIND_MEMORY)
  }

  /** A limit ends, so it is told before what does not; what was said of the repository before what was not. */
  #together(failures: readonly UpstreamError[]): UpstreamError {
    const limits = failures.filter(({ failure }) => failure === 'busy')
    const [limit] = limits
    if (limit !== undefined) {
      const ofPulls = limits.every((it) => it.ofPulls)
      const waits = limits.flatMap(({ retryAfterMs }) => retryAfterMs ?? [])
      return new UpstreamError('busy', this.key, limit.message, {
        ...{ status: 429, ofPulls, cause: limit },
        ...(waits.length === 0 ? {} : { retryAfterMs: Math.min(...waits) }),
      })
    }
    const told = failures.filter(({ ofTheAccount }) => !ofTheAccount)
    const first = told.find(({ failure }) => failure !== 'denied') ?? told[0] ?? failures[0]
    return first ?? new UpstreamError('broken', this.key, 'no account has an answer')
  }

  /** Most pulls left first, then as configured; whoever would most likely be refused, last. */
  #inOrder(name: RepositoryName, isPull: boolean): Caller[] {
    const now = this.#options.now()
    const ranked = this.#accounts.map((account) => {
      const { status } = account
      const stopped = isPull ? stoppedForMs(status) : status.stoppedForMs
      const down = stopped !== undefined || status.breaker.state === 'open'
      const rank = down ? 3 : account.isRefused(now) ? 2 : account.isBlind(name, now) ? 1 : 0
      return { account, rank, left: status.pulls?.remaining ?? Infinity }
    })
    // Infinity less Infinity is nothing to sort by.
    const byLeft = (one: number, other: number): number => (one === other ? 0 : other - one)
    return ranked
      .toSorted((one, other) => one.rank - other.rank || byLeft(one.left, other.left))
      .map(({ account }) => account)
  }
}

class Caller {
  readonly client: Upstream
  /** Its credentials were not taken. */
  #refusedUntil: Milliseconds = Number.NEGATIVE_INFINITY
  #refusedFor: Milliseconds = 0
  readonly #blindUntil = new LRUCache<RepositoryName, Milliseconds>({
    maxSize: 1_000,
    sizeCalculation: () => 1,
  })
  readonly #readable = new LRUCache<RepositoryName, true>({ maxSize: 1_000, sizeCalculation: () => 1 })

  constructor(client: Upstream) {
    this.client = client
  }

  get status(): AccountStatus {
    const [status] = this.client.status().accounts
    if (status === undefined) throw new Error('a client without an account')
    return status
  }

  isRefused(now: Milliseconds): boolean {
    return this.#refusedUntil > now
  }

  refused(now: Milliseconds): void {
    // Whoever asks as it while it is left alone, for want of others, shows nothing new.
    if (this.status.complaint === undefined) this.#refusedFor = REFUSED_MEMORY
    else if (!this.isRefused(now)) {
      this.#refusedFor = Math.min(Math.max(this.#refusedFor * 2, REFUSED_MEMORY), REFUSED_MOST)
    }
    this.#refusedUntil = now + this.#refusedFor
  }

  answered(): void {
    // Some things are answered whoever asks.
    if (this.status.complaint !== undefined) return
    this.#refusedUntil = Number.NEGATIVE_INFINITY
    this.#refusedFor = 0
  }

  /** It has seen something of it. */
  isReader(name: RepositoryName): boolean {
    return this.#readable.has(name)
  }

  mayRead(name: RepositoryName): void {
    this.#blindUntil.delete(name)
    this.#readable.set(name, true)
  }

  mayNotRead(name: RepositoryName, until: Milliseconds): void {
    this.#readable.delete(name)
    this.#blindUntil.set(name, until)
  }

  isBlind(name: RepositoryName, now: Milliseconds): boolean {
    return (this.#blindUntil.get(name) ?? now) > now
  }
}

/** Whether the refusal was about the repository: then there is nothing that this account sees. */
function hasLooked({ status }: Caller, { failure, ofTheAccount }: UpstreamError): boolean {
  return failure === 'denied' && !ofTheAccount && status.complaint === undefined
}

/** Said of who asked, and not of what was asked for. */
function isOfTheAccount({ failure, ofTheAccount }: UpstreamError): boolean {
  return ofTheAccount || failure === 'denied' || failure === 'busy'
}

function isUndefined(answer: unknown): boolean {
  return answer === undefined
}
