/**
 * Guard that puts every request of one client under its circuit breaker: tells the breaker what came of the request,
 * and refuses in its place.
 *
 * A question is judged as a whole, with its tries, its token and its redirects: one stumble that a second try
 * makes good is none. What goes wrong where the registry sent us (a CDN) is that blob's trouble, since the
 * registry has answered. Bodies are no business of the breaker.
 */
import type { Milliseconds } from '../../base/units.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import { Breaker, type Verdict } from './breaker.ts'
import type { BreakerStatus } from '../status.ts'
import { UpstreamError } from '../upstream.ts'

interface BreakerGuardOptions {
  readonly key: string
  readonly url: string
  /** The label of {@link Metrics}; undefined: this one has no figures of its own there. */
  readonly account: string | undefined
  readonly metrics: Pick<Metrics, 'upstreamBreakerOpen' | 'beforeScrape'>
  readonly log?: Record<'info' | 'warn', (fields: object, message: string) => void> | undefined
  /** Monotonic. */
  readonly now: () => Milliseconds
}

interface GuardedRequest {
  readonly name: string
  /** Its time-out is shorter than the upstream's own, and proves nothing. */
  readonly shortTimeout?: boolean | undefined
  /** Clients hang on the answer: it is asked for whatever the breaker says. */
  readonly committed?: boolean | undefined
  /** Less would do, and it may fail for no other reason than that there is more. */
  readonly bestEffort?: boolean | undefined
  readonly signal: AbortSignal
}

/** Where a question is, while it is asked. */
export interface GuardedCall {
  /** Who is asked now is somebody whom the registry named, not itself. */
  elsewhere: boolean
}

export class BreakerGuard {
  readonly #options: BreakerGuardOptions
  readonly #breaker: Breaker
  /** Each time anew: of two for one account, the other of which is on its way out, the newer has the last word. */
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

  /** What is thrown for now in place of asking. */
  get paused(): UpstreamError | undefined {
    return this.status.state === 'open' ? this.#refusal() : undefined
  }

  /** @throws UpstreamError at once while it is not to be asked; else what `ask` throws */
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

  /** Its figure is gone from the metrics. */
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

/** A connection there was, or may have been; everything else without an answer is none at all. */
const NO_ANSWER = new Set([
  'UND_ERR_HEADERS_TIMEOUT',
  'UND_ERR_CONNECT_TIMEOUT',
  'UND_ERR_BODY_TIMEOUT',
  'UND_ERR_SOCKET',
  'ETIMEDOUT',
  'ECONNRESET',
  'EPIPE',
])
/** It is we who have finished with it. */
const OURS = new Set(['UND_ERR_DESTROYED', 'UND_ERR_CLOSED'])

function verdictOn(
  error: unknown,
  { shortTimeout = false, bestEffort = false, signal }: GuardedRequest,
  { elsewhere }: GuardedCall,
): Verdict {
  if (signal.aborted || bestEffort || !(error instanceof UpstreamError)) return 'nothing'
  const { failure, status, ofTheAccount, ofTheTokenService, byProxy, outOfFiles } = error
  if (outOfFiles) return 'nothing'
  // Whichever names it is for: those of another service, or of none, may well be answered.
  if (ofTheTokenService) return 'nothing'
  const { code, name } = (error.cause ?? {}) as { code?: unknown; name?: unknown }
  if (typeof code === 'string' && OURS.has(code)) return 'nothing'
  if (elsewhere || failure === 'denied' || failure === 'busy') return 'answer'
  if (failure === 'broken') {
    if (byProxy) return 'error'
    if (status === undefined) return 'nothing'
    return status >= 500 ? 'error' : 'answer'
  }
  // There were no credentials to ask with.
  if (ofTheAccount) return 'nothing'
  if (shortTimeout && code === 'UND_ERR_HEADERS_TIMEOUT') return 'nothing'
  if (name === 'TimeoutError' || error.cause === undefined) return 'no answer'
  return typeof code === 'string' && NO_ANSWER.has(code) ? 'no answer' : 'no connection'
}
