/**
 * Guard of one client's requests: it tells the circuit breaker their results, and refuses requests while it is open.
 *
 * A request is judged as a whole, with its tries, its token and its redirects: a failure that a second try makes good
 * does not count, nor does a body's. A failure at a redirect's target (a CDN) is that blob's: the registry answered.
 */
import type { Milliseconds } from '../../base/units.ts'
import type { RepositoryName } from '../../oci/reference.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import { Breaker, type Verdict } from './breaker.ts'
import type { BreakerStatus } from '../status.ts'
import { UpstreamError } from '../upstream.ts'

interface BreakerGuardOptions {
  readonly key: string
  readonly url: string
  /** The label in {@link Metrics}; undefined: the client has no metrics. */
  readonly account: string | undefined
  readonly metrics: Pick<Metrics, 'upstreamBreakerOpen' | 'beforeScrape'>
  readonly log?: Record<'info' | 'warn', (fields: object, message: string) => void> | undefined
  /** Monotonic. */
  readonly now: () => Milliseconds
}

export interface GuardedRequest {
  readonly name: RepositoryName
  /** Shorter than the upstream's own: exceeding it proves nothing. */
  readonly headersTimeoutMs?: Milliseconds
  /** Clients have been promised the answer: it is sent even while the breaker is open. */
  readonly committed?: boolean | undefined
  /** The caller can do without: it is sent once, and its failure may come from sending several at once. */
  readonly bestEffort?: boolean | undefined
  readonly signal: AbortSignal
}

/** Progress of one request. */
export interface GuardedCall {
  /** The request is at a redirect's target, and not at the registry. */
  elsewhere: boolean
}

export class BreakerGuard {
  readonly #options: BreakerGuardOptions
  readonly #breaker: Breaker
  /** Set at each scrape: when a reload replaces an upstream, the newer breaker of an account must set its gauge. */
  readonly #beforeScrape = (): void => {
    const { key, account, metrics } = this.#options
    if (account === undefined) return
    const open = this.status.state === 'closed' ? 0 : 1
    metrics.upstreamBreakerOpen.set({ upstream: key, account }, open)
  }

  constructor(options: BreakerGuardOptions) {
    this.#options = options
    this.#breaker = new Breaker({ now: options.now, onChange: (status) => this.#tell(status) })
    options.metrics.beforeScrape.add(this.#beforeScrape)
  }

  get status(): BreakerStatus {
    return this.#breaker.status()
  }

  /** The refusal of a request while the breaker is open. */
  get paused(): UpstreamError | undefined {
    return this.status.state === 'open' ? this.#refusal() : undefined
  }

  /** @throws UpstreamError at once while the breaker is open; else what `ask` throws */
  async run<T>(question: GuardedRequest, ask: (call: GuardedCall) => Promise<T>): Promise<T> {
    const { name, committed = false } = question
    const asked = this.#breaker.ask(name, { force: committed })
    if (asked === undefined) throw this.#refusal()
    const call: GuardedCall = { elsewhere: false }
    let verdict: Verdict = 'nothing'
    let why = ''
    try {
      const answer = await ask(call)
      verdict = 'answer'
      return answer
    } catch (error) {
      verdict = verdictOn(error, question, call)
      why = error instanceof Error ? error.message : ''
      throw error
    } finally {
      asked.tell(verdict, why)
    }
  }

  /** Removes the account's gauge from the metrics. */
  close(): void {
    const { key, account, metrics } = this.#options
    metrics.beforeScrape.delete(this.#beforeScrape)
    if (account !== undefined) metrics.upstreamBreakerOpen.remove({ upstream: key, account })
  }

  #refusal(): UpstreamError {
    const { key, url } = this.#options
    const { forMs = 0, why = '' } = this.#breaker.status()
    const message = `${new URL(url).host} is left alone for now: ${why}`
    return new UpstreamError('unreachable', key, message, { retryAfterMs: forMs })
  }

  #tell({ state, forMs, why }: BreakerStatus): void {
    const { key, url, account, log } = this.#options
    const facts = { upstream: key, url, account }
    if (state === 'closed') log?.info(facts, 'upstream answers again')
    else log?.warn({ ...facts, forMs, why }, 'upstream is left alone')
  }
}

/** Codes of errors after which a connection existed, or may have; with any other code there was none. */
const NO_ANSWER = new Set([
  'UND_ERR_HEADERS_TIMEOUT',
  'UND_ERR_CONNECT_TIMEOUT',
  'UND_ERR_BODY_TIMEOUT',
  'UND_ERR_SOCKET',
  'ETIMEDOUT',
  'ECONNRESET',
  'EPIPE',
])
/** Codes of errors that come from closing the client here. */
const OURS = new Set(['UND_ERR_DESTROYED', 'UND_ERR_CLOSED'])

function verdictOn(
  error: unknown,
  { headersTimeoutMs, bestEffort = false, signal }: GuardedRequest,
  { elsewhere }: GuardedCall,
): Verdict {
  if (signal.aborted || bestEffort || !(error instanceof UpstreamError)) return 'nothing'
  const { failure, status, scope, ofTheTokenService, byProxy, outOfFiles } = error
  if (outOfFiles) return 'nothing'
  // Names with another token service, or none, may well be answered.
  if (ofTheTokenService) return 'nothing'
  const { code, name } = (error.cause ?? {}) as { code?: unknown; name?: unknown }
  if (typeof code === 'string' && OURS.has(code)) return 'nothing'
  if (elsewhere || failure === 'denied' || failure === 'busy') return 'answer'
  if (failure === 'broken') {
    if (byProxy) return 'error'
    if (status === undefined) return 'nothing'
    return status >= 500 ? 'error' : 'answer'
  }
  // The account has no credentials, so the registry was not asked.
  if (scope === 'account') return 'nothing'
  if (headersTimeoutMs !== undefined && code === 'UND_ERR_HEADERS_TIMEOUT') return 'nothing'
  if (name === 'TimeoutError' || error.cause === undefined) return 'no answer'
  return typeof code === 'string' && NO_ANSWER.has(code) ? 'no answer' : 'no connection'
}
