/**
 * Circuit breaker of one upstream account: after a failure of the upstream it is not asked for a while, so that no
 * client waits for a request that is known to fail.
 *
 * Closed: every request is sent. Open: none. When the time is over (half-open), one request at a time is a probe: its
 * result closes the breaker or opens it for twice as long; the others are refused meanwhile. Any answer to any
 * request closes it. The breaker knows neither sockets nor names of errors: its caller tells it the verdict.
 */
import { Penalty } from '../../base/backoff.ts'
import type { Milliseconds } from '../../base/units.ts'
import type { BreakerStatus } from '../status.ts'

const OPEN = { first: 10_000, most: 300_000 }
/** Server errors without an answer in between, over at least so many repositories. */
const MOST_ERRORS = 5
const REPOSITORIES = 2
/** The retry time of refusals while a probe runs, which may take any time. */
const WHILE_PROBING_MS: Milliseconds = 1_000

/**
 * - `answer`: any answer but a server error
 * - `error`: a server error, which may be of one repository alone
 * - `no connection`: the upstream could not be reached
 * - `no answer`: a time-out, or a connection that broke off before the head
 * - `nothing`: the caller has left, or the upstream was not asked
 */
export type Verdict = 'answer' | 'error' | 'no connection' | 'no answer' | 'nothing'

export interface Asked {
  /** Must be called once, whatever happens. @param why for people, where it is a failure */
  tell(verdict: Verdict, why?: string): void
}

interface BreakerOptions {
  /** Monotonic. */
  readonly now: () => Milliseconds
  /** Called after a change from closed to open, and back. */
  readonly onChange?: (status: BreakerStatus) => void
}

interface Opened {
  readonly why: string
  /** Server errors opened it: then a further one does not prove that the upstream works. */
  readonly byErrors: boolean
}

export class Breaker {
  readonly #options: BreakerOptions
  readonly #penalty: Penalty
  #opened: Opened | undefined
  #probe: Asked | undefined
  #answers = 0
  #errors = 0
  readonly #repositories = new Set<string>()

  constructor(options: BreakerOptions) {
    this.#options = options
    this.#penalty = new Penalty({ ...OPEN, now: options.now })
  }

  /**
   * @param force a client was promised the answer: sent even while open, but never as the probe
   * @returns undefined: the upstream must not be asked now
   */
  ask(repository: string, { force = false } = {}): Asked | undefined {
    const { state } = this.status()
    if (state === 'open' && !force) return undefined
    if (state === 'half-open' && !force && this.#probe !== undefined) return undefined
    const answersBefore = this.#answers
    const asked: Asked = {
      tell: (verdict, why = '') => {
        const wasProbe = this.#probe === asked
        if (wasProbe) this.#probe = undefined
        const unanswered = this.#answers === answersBefore
        this.#judge(verdict, { why, repository, unanswered, wasProbe })
      },
    }
    if (state === 'half-open' && !force) this.#probe = asked
    return asked
  }

  status(): BreakerStatus {
    if (this.#opened === undefined) return { state: 'closed' }
    const { why } = this.#opened
    const { leftMs } = this.#penalty
    if (leftMs > 0) return { state: 'open', forMs: leftMs, why }
    return { state: 'half-open', forMs: this.#probe === undefined ? 0 : WHILE_PROBING_MS, why }
  }

  #judge(
    verdict: Verdict,
    /** `unanswered`: no other request was answered meanwhile. */
    question: { why: string; repository: string; unanswered: boolean; wasProbe: boolean },
  ): void {
    const { why, repository, unanswered, wasProbe } = question
    if (verdict === 'nothing') return
    const silent = verdict === 'no connection' || verdict === 'no answer'
    if (!silent) this.#answers += 1
    if (verdict === 'answer') {
      this.#errors = 0
      this.#repositories.clear()
    } else if (verdict === 'error') {
      this.#errors += 1
      if (this.#repositories.size < REPOSITORIES) this.#repositories.add(repository)
    }
    const opened = this.#opened
    if (opened === undefined) {
      const tooManyErrors = this.#errors >= MOST_ERRORS && this.#repositories.size >= REPOSITORIES
      const dead = verdict === 'no connection' || (verdict === 'no answer' && unanswered)
      if (dead || (verdict === 'error' && tooManyErrors)) this.#open({ why, byErrors: !silent })
    } else if (verdict === 'answer' || (verdict === 'error' && !opened.byErrors)) {
      // The upstream is up. The present failure may be one repository's.
      this.#opened = undefined
      this.#penalty.end()
      this.#options.onChange?.(this.status())
    } else if (wasProbe) {
      // Requests that were sent before it opened tell nothing new.
      this.#open({ why, byErrors: !silent })
    }
  }

  #open(opened: Opened): void {
    const again = this.#opened !== undefined
    this.#opened = opened
    this.#penalty.begin()
    if (!again) this.#options.onChange?.(this.status())
  }
}
