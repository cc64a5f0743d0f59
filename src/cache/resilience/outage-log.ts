/**
 * Outage log: a failure that repeats is worth two lines, one when it begins and one when it is over.
 *
 * It is over at the first success after a time without failures: a disk that is nearly full takes small files, a
 * damaged database answers some questions.
 */
import type { Milliseconds } from '../../base/units.ts'
import type { Logger } from 'pino'

const QUIET_MS: Milliseconds = 30_000

interface OutageOptions {
  readonly log: Logger
  readonly now: () => Milliseconds
  /** Constant phrases for the log. */
  readonly begins: string
  readonly ends: string
}

export class OutageLog {
  readonly #options: OutageOptions
  #lasting = false
  #failedAt = Number.NEGATIVE_INFINITY

  constructor(options: OutageOptions) {
    this.#options = options
  }

  get lasting(): boolean {
    return this.#lasting
  }

  get quiet(): Milliseconds {
    // A clock that was set back must not keep the outage going for ever.
    return Math.abs(this.#options.now() - this.#failedAt)
  }

  failed(error: unknown, facts: Readonly<Record<string, unknown>> = {}): void {
    const { log, now, begins } = this.#options
    this.#failedAt = now()
    log[this.#lasting ? 'debug' : 'warn']({ err: error, ...facts }, begins)
    this.#lasting = true
  }

  worked(): void {
    if (!this.#lasting || this.quiet < QUIET_MS) return
    this.#lasting = false
    this.#options.log.info(this.#options.ends)
  }
}
