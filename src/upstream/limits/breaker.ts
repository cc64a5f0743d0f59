/**
 * Circuit breaker of one upstream account: after a failure that is its own it is not asked for a while, so that nobody
 * waits for what is known to fail.
 *
 * Closed, everybody may ask. Open, nobody. When the time is over one question at a time is a probe: what comes
 * of it closes the breaker or opens it for twice as long; whoever asks meanwhile is refused. Any answer to
 * anybody closes it. Knows neither sockets nor names of errors: whoever asks tells what came of it.
 */
import type { Milliseconds } from '../../base/units.ts'
import type { BreakerStatus } from '../status.ts'

const FIRST_SILENCE_MS: Milliseconds = 10_000
const LONGEST_SILENCE_MS: Milliseconds = 300_000
/** Server errors without an answer in between, over at least so many repositories. */
const MOST_ERRORS = 5
const REPOSITORIES = 2
/** While a probe runs nobody knows how long it takes. */
const WHILE_PROBING_MS: Milliseconds = 1_000

/**
 * - `answer`: it said something, whatever that was, short of a server error
 * - `error`: a server error, which may be of one repository alone
 * - `no connection`: it could not be reached
 * - `no answer`: a time-out, or a connection that broke off before the head
 * - `nothing`: whoever asked has left, or it was not asked
 */
export type Verdict = 'answer' | 'error' | 'no connection' | 'no answer' | 'nothing'

export interface Asked {
  /** To be called once, whatever happens. @param why for people, where it is a failure */
  tell(verdict: Verdict, why?: string): void
}

interface BreakerOptions {
  /** Monotonic. */
  readonly now: () => Milliseconds
  /** After a change from closed to open, and back. */
  readonly onChange?: (status: BreakerStatus) => void
}

interface Opened {
  readonly until: Milliseconds
  readonly silence: Milliseconds
  readonly why: string
  /** By server errors: then another one proves nothing good. */
  readonly byErrors: boolean
}

export class Breaker {
  readonly #options: BreakerOptions
  #opened: Opened | undefined
  /** The question that is the probe. */
  #probe: Asked | undefined
  /** So many questions were answered. */
  #answers = 0
  #errors = 0
  readonly #repositories = new Set<string>()

  constructor(options: BreakerOptions) {
    this.#options = options
  }

  /**
   * Undefined: it is not to be asked now.
   *
   * @param insist somebody was promised the answer: asked whatever the breaker says, but never as the probe
   */
  ask(repository: string, { insist = false } = {}): Asked | undefined {
    const { state } = this.status()
    if (state === 'open' && !insist) return undefined
    if (state === 'half-open' && !insist && this.#probe !== undefined) return undefined
    const answersBefore = this.#answers
    const asked: Asked = {
      tell: (verdict, why = '') => {
        const wasProbe = this.#probe === asked
        if (wasProbe) this.#probe = undefined
        const unanswered = this.#answers === answersBefore
        this.#judge(verdict, { why, repository, unanswered, wasProbe })
      },
    }
    if (state === 'half-open' && !insist) this.#probe = asked
    return asked
  }

  status(): BreakerStatus {
    if (this.#opened === undefined) return { state: 'closed' }
    const { until, why } = this.#opened
    const left = until - this.#options.now()
    if (left > 0) return { state: 'open', forMs: left, why }
    return { state: 'half-open', forMs: this.#probe === undefined ? 0 : WHILE_PROBING_MS, why }
  }

  #judge(
    verdict: Verdict,
    /** `unanswered`: nobody else was answered meanwhile. */
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
      if (dead || (verdict === 'error' && tooManyErrors)) this.#open(why, FIRST_SILENCE_MS, !silent)
    } else if (verdict === 'answer' || (verdict === 'error' && !opened.byErrors)) {
      // It is there. What is wrong now may be one repository's trouble.
      this.#close()
    } else if (wasProbe) {
      // Those who had asked before it opened tell nothing new.
      this.#open(why, opened.silence * 2, !silent)
    }
  }

  #close(): void {
    this.#opened = undefined
    this.#options.onChange?.(this.status())
  }

  #open(why: string, silence: Milliseconds, byErrors: boolean): void {
    const again = this.#opened !== undefined
    const lasting = Math.min(silence, LONGEST_SILENCE_MS)
    this.#opened = { until: this.#options.now() + lasting, silence: lasting, why, byErrors }
    if (!again) this.#options.onChange?.(this.status())
  }
}
