/** Exponential backoff after failures in a row, and the penalty that lasts as long, in which a thing is not tried. */
import type { Milliseconds } from './units.ts'

interface BackoffLimits {
  readonly first: Milliseconds
  readonly most: Milliseconds
}

/** The waits between two attempts of one transfer. */
const TRANSFER: BackoffLimits = { first: 200, most: 5_000 }

/** @param failures before the last one */
export function backoff(failures: number, { first, most } = TRANSFER): Milliseconds {
  return Math.min(first * 2 ** failures, most)
}

interface PenaltyOptions extends BackoffLimits {
  /** Monotonic. */
  readonly now: () => Milliseconds
}

export class Penalty {
  readonly #options: PenaltyOptions
  #failures = 0
  #lasting: Milliseconds = 0
  #until = Number.NEGATIVE_INFINITY

  constructor(options: PenaltyOptions) {
    this.#options = options
  }

  /** 0: it is over. */
  get leftMs(): Milliseconds {
    return Math.max(this.#until - this.#options.now(), 0)
  }

  get running(): boolean {
    return this.leftMs > 0
  }

  /** Starts now, for twice as long as the last one. */
  begin(): void {
    this.#lasting = backoff(this.#failures, this.#options)
    this.#failures += 1
    this.#until = this.#options.now() + this.#lasting
  }

  /** A running one starts again with its length: a failure meanwhile proves nothing new. */
  beginOrRenew(atLeast: Milliseconds = 0): void {
    if (!this.running) this.begin()
    this.#until = this.#options.now() + Math.max(this.#lasting, atLeast)
  }

  /** Resets the next one to the first length; a running one goes on. */
  forgive(): void {
    this.#failures = 0
  }

  end(): void {
    this.forgive()
    this.#until = Number.NEGATIVE_INFINITY
  }
}
