/**
 * Retry budget of one transfer: how often a body that broke off is continued, and when it is given up.
 *
 * Progress resets the budget, so an upstream that breaks off every few megabytes is still good for a 10 GB
 * layer; one that gives a byte at a time is not.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { Digest } from '../../oci/digest.ts'
import type { RepositoryName } from '../../oci/reference.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import type { UpstreamError } from '../../upstream/upstream.ts'
import { backoff } from '../../base/backoff.ts'
import type { Origin } from '../origin.ts'

/** Tries in a row that brought less than {@link PROGRESS} before a download is given up. */
const MAX_IDLE_TRIES = 5
/** The least that counts as progress: a body cut after its first byte every time must come to an end. */
const PROGRESS: Bytes = 16 * 1024
/** The longest wait since the last progress, while clients hang on: upstream says how long to wait, not how often. */
const PATIENCE_MS: Milliseconds = 60_000

export interface RetryBudgetOptions {
  readonly origin: Origin
  readonly name: RepositoryName
  readonly digest: Digest
  readonly metrics: Metrics
  readonly log: Logger
}

export class RetryBudget {
  readonly #options: RetryBudgetOptions
  #idle = 0
  #waited: Milliseconds = 0

  constructor(options: RetryBudgetOptions) {
    this.#options = options
  }

  /**
   * Resolves when it is time to ask again.
   *
   * @param brought bytes that came since the last failure, by any request
   * @param promised clients have been told to expect the rest; before that an honest error is quicker
   * @throws `error` when it is not worth it, the signal's reason when that comes first
   */
  async afterFailure(
    error: UpstreamError,
    { brought, promised }: { brought: Bytes; promised: boolean },
    signal: AbortSignal,
  ): Promise<void> {
    const { origin, name, digest, metrics, log } = this.#options
    const progress = brought >= PROGRESS
    this.#idle = progress ? 0 : this.#idle + 1
    if (progress) this.#waited = 0
    const pause = error.retryAfterMs ?? backoff(this.#idle) * Math.random()
    this.#waited += pause
    const enough = this.#idle > MAX_IDLE_TRIES || this.#waited > PATIENCE_MS
    if (!promised || error.failure === 'denied' || enough) {
      origin.state.failed(name, error)
      throw error
    }
    const upstream = origin.upstream.key
    metrics.upstreamRetries.inc({ upstream, reason: error.failure })
    log.debug({ err: error, digest, upstream, idle: this.#idle }, 'continuing a transfer')
    await sleep(pause, undefined, { signal }).catch(() => signal.throwIfAborted())
  }
}
