/**
 * Backlog of one notification endpoint: counts its queued events, and drops new ones beyond a limit.
 *
 * The count is an estimate: an event whose commit failed is counted until the queue has once been empty.
 */
import { createHash } from 'node:crypto'
import type { Logger } from 'pino'
import type { EventAction } from './event.ts'
import type { Metrics } from '../../telemetry/metrics.ts'

interface BacklogOptions {
  readonly url: string
  readonly ignoreActions: readonly EventAction[]
  /** Name of the endpoint in metrics and the log: its URL may contain a secret. */
  readonly label: string
  readonly metrics: Pick<Metrics, 'notificationsQueued' | 'notificationsDropped'>
  readonly log: Logger
}

/** During a long outage the receiver loses pulls first: they are many, and no program depends on them. */
export const MOST_PULLS = 10_000
export const MOST_EVENTS = 100_000

export class Backlog {
  /** Name of the queue in the store. */
  readonly endpoint: string
  readonly #options: BacklogOptions
  #waiting = 0
  #dropping = false

  constructor(options: BacklogOptions) {
    this.#options = options
    this.endpoint = createHash('sha256').update(options.url).digest('hex').slice(0, 32)
  }

  wants(action: EventAction): boolean {
    return !this.#options.ignoreActions.includes(action)
  }

  /** Counts one more event. @returns false when there are too many: the event must be dropped */
  admit(action: EventAction): boolean {
    const limit = action === 'pull' ? MOST_PULLS : MOST_EVENTS
    if (this.#waiting < limit) {
      this.count(this.#waiting + 1)
      return true
    }
    const { label, metrics, log } = this.#options
    metrics.notificationsDropped.inc({ endpoint: label })
    if (!this.#dropping) {
      log.warn(
        { endpoint: label, waiting: this.#waiting },
        'too many notifications wait, new ones are dropped',
      )
    }
    this.#dropping = true
    return false
  }

  /** A counted event could not be written, and will never be delivered. */
  lost(): void {
    this.#options.metrics.notificationsDropped.inc({ endpoint: this.#options.label })
    this.delivered()
  }

  delivered(): void {
    this.count(Math.max(0, this.#waiting - 1))
  }

  count(waiting: number): void {
    this.#waiting = waiting
    if (waiting < MOST_PULLS / 2) this.#dropping = false
    this.#options.metrics.notificationsQueued.set({ endpoint: this.#options.label }, waiting)
  }
}
