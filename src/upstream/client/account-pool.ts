/**
 * Account pool of one upstream: the account with most pulls left is asked, and the next one if that cannot answer.
 *
 * All accounts ask the same registry. So the registry's failures (no connection, nonsense, a server error) are its
 * answer to every account; only a failure of the account (its pull limit, refused or missing credentials, a
 * repository that it may not read) is a reason to ask as another. To the other accounts a private image looks denied,
 * or absent: an account that turned out to be blind to a repository is asked about it after the others, for a while.
 */
import type { LRUCache } from 'lru-cache'
import { createLru } from '../../base/lru.ts'
import { Penalty } from '../../base/backoff.ts'
import type { Milliseconds } from '../../base/units.ts'
import type { RepositoryName } from '../../oci/reference.ts'
import { stoppedForMs, withheldPulls } from '../limits/quota-reserve.ts'
import type { AccountStatus, UpstreamStatus } from '../status.ts'
import { UpstreamError, type Upstream } from '../upstream.ts'
import { CandidateUpstream, type Question } from './candidates.ts'

/** How long an account that may not read a repository is asked about it after the others. */
const BLIND_MEMORY: Milliseconds = 600_000
/**
 * How long an account with refused credentials is asked after the others. It doubles while they stay wrong: the
 * registry may lock an account that goes on with a wrong password.
 */
const REFUSED = { first: 60_000, most: 1_800_000 }

interface AccountPoolOptions {
  /** One client per account, in the order of the configuration; all of the same upstream. */
  readonly clients: readonly Upstream[]
  /** Monotonic. */
  readonly now: () => Milliseconds
  readonly log: { debug(fields: object, message: string): void }
}

export class AccountPool extends CandidateUpstream<PooledAccount> {
  readonly #log: AccountPoolOptions['log']
  readonly #accounts: readonly PooledAccount[]

  constructor({ clients, now, log }: AccountPoolOptions) {
    const [first] = clients
    if (first === undefined) throw new Error('a pool needs an account')
    super(first.key)
    this.#log = log
    this.#accounts = clients.map((client) => new PooledAccount(client, now))
  }

  status(): UpstreamStatus {
    return { offline: false, accounts: this.#accounts.map(({ status }) => status) }
  }

  paused(): UpstreamError | undefined {
    const refusals = this.#accounts.map(({ upstream }) => upstream.paused?.())
    if (refusals.includes(undefined)) return undefined
    const wait = (refusal: UpstreamError | undefined): Milliseconds => refusal?.retryAfterMs ?? 0
    return refusals.toSorted((one, other) => wait(one) - wait(other))[0]
  }

  quotaBelow(reserve: number): UpstreamError | undefined {
    return withheldPulls(this.key, this.status(), reserve)
  }

  async close(): Promise<void> {
    await Promise.all(this.#accounts.map(({ upstream }) => upstream.close()))
  }

  protected async ask<T>({
    name,
    signal,
    isPull = false,
    ask,
    findingOf,
  }: Question<T, PooledAccount>): Promise<T> {
    const failures: UpstreamError[] = []
    const blind: PooledAccount[] = []
    let absent: { readonly answer: T; readonly doubtful: boolean } | undefined
    let hidden = false
    for (const account of this.#inOrder(name, isPull)) {
      const wasUp = account.status.breaker.state === 'closed'
      try {
        const answer = await ask(account, signal)
        account.answered()
        const finding = findingOf(answer)
        if (finding === 'found') {
          account.mayRead(name)
          // The blind accounts called absent what this account sees.
          for (const other of blind) other.mayNotRead(name)
          return answer
        }
        if (account.isReader(name)) return answer
        const doubtful = finding === 'doubtful'
        if (absent === undefined || doubtful) absent = { answer, doubtful }
        if (!doubtful) blind.push(account)
      } catch (error) {
        if (!(error instanceof UpstreamError)) throw error
        // The open breaker of an account may keep it from asking, while another account can.
        if (!isOfTheAccount(error) && (wasUp || error.failure !== 'unreachable')) throw error
        this.#failed(account, name, error)
        failures.push(error)
        hidden ||= !hasLooked(account, error)
      }
    }
    // An account that may see it could not look, so the "absent" of the others proves nothing.
    if (absent !== undefined && (!hidden || absent.doubtful)) return absent.answer
    throw this.#together(failures)
  }

  #failed(account: PooledAccount, name: RepositoryName, error: UpstreamError): void {
    const { account: label, complaint } = account.status
    this.#log.debug({ upstream: this.key, account: label, err: error }, 'asking as another account')
    if (error.scope === 'account' || complaint !== undefined) account.refused()
    else if (error.failure === 'denied') account.mayNotRead(name)
  }

  /** A limit comes first, since it ends; then what an account was told of the repository. */
  #together(failures: readonly UpstreamError[]): UpstreamError {
    const limits = failures.filter(({ failure }) => failure === 'busy')
    const [limit] = limits
    if (limit !== undefined) {
      const scope = limits.every((it) => it.scope === 'pulls') ? 'pulls' : 'host'
      const waits = limits.flatMap(({ retryAfterMs }) => retryAfterMs ?? [])
      return new UpstreamError('busy', this.key, limit.message, {
        ...{ status: 429, scope, cause: limit },
        retryAfterMs: waits.length === 0 ? undefined : Math.min(...waits),
      })
    }
    const told = failures.filter(({ scope }) => scope !== 'account')
    const first = told.find(({ failure }) => failure !== 'denied') ?? told[0] ?? failures[0]
    return first ?? new UpstreamError('broken', this.key, 'no account has an answer')
  }

  /** Sorts by most pulls left, then as configured; accounts that would most likely be refused come last. */
  #inOrder(name: RepositoryName, isPull: boolean): PooledAccount[] {
    const ranked = this.#accounts.map((account) => {
      const { status } = account
      const stopped = isPull ? stoppedForMs(status) : status.stoppedForMs
      const down = stopped !== undefined || status.breaker.state === 'open'
      const rank = down ? 3 : account.isRefused ? 2 : account.isBlind(name) ? 1 : 0
      return { account, rank, left: status.pulls?.remaining ?? Infinity }
    })
    // Infinity minus Infinity is NaN, which cannot be sorted by.
    const byLeft = (one: number, other: number): number => (one === other ? 0 : other - one)
    return ranked
      .toSorted((one, other) => one.rank - other.rank || byLeft(one.left, other.left))
      .map(({ account }) => account)
  }
}

class PooledAccount {
  readonly upstream: Upstream
  readonly #refused: Penalty
  /** Whether the account has read something of a repository. */
  readonly #reads: LRUCache<RepositoryName, boolean>

  constructor(upstream: Upstream, now: () => Milliseconds) {
    this.upstream = upstream
    this.#refused = new Penalty({ ...REFUSED, now })
    this.#reads = createLru(2_000, { now })
  }

  get status(): AccountStatus {
    const [status] = this.upstream.status().accounts
    if (status === undefined) throw new Error('a client without an account')
    return status
  }

  get isRefused(): boolean {
    return this.#refused.running
  }

  refused(): void {
    if (this.status.complaint === undefined) this.#refused.end()
    this.#refused.beginOrRenew()
  }

  answered(): void {
    // While there is a complaint, the answer was one that any credentials get.
    if (this.status.complaint === undefined) this.#refused.end()
  }

  isReader(name: RepositoryName): boolean {
    return this.#reads.get(name) === true
  }

  isBlind(name: RepositoryName): boolean {
    return this.#reads.get(name) === false
  }

  mayRead(name: RepositoryName): void {
    this.#reads.set(name, true)
  }

  mayNotRead(name: RepositoryName): void {
    // lru-cache keeps an entry through the last millisecond of its time.
    this.#reads.set(name, false, { ttl: BLIND_MEMORY - 1 })
  }
}

/** Whether the refusal was about the repository: then the account sees nothing of it. */
function hasLooked({ status }: PooledAccount, { failure, scope }: UpstreamError): boolean {
  return failure === 'denied' && scope !== 'account' && status.complaint === undefined
}

/** Whether the refusal is about the account that asked, and not about what it asked for. */
function isOfTheAccount({ failure, scope }: UpstreamError): boolean {
  return scope === 'account' || failure === 'denied' || failure === 'busy'
}
