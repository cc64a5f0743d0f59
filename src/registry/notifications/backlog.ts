/**
 * Backlog of one end-point: how many events wait for it, and which are dropped because too many do.
 *
 * An estimate: an event that was queued by a commit that failed counts until the queue has once been empty.
 */
import { createHash } from 'node:crypto'
import type { Logger } from 'pino'
import type { EventAction } from './event.ts'
import type { Metrics } from '../../telemetry/metrics.ts'

interface BacklogOptions {
  readonly url: string
  readonly ignoreActions: readonly EventAction[]
  /** The name of the end-point in metrics and in the log: its address may hold a secret. */
  readonly label: string
  readonly metrics: Pick<Metrics, 'notificationsQueued' | 'notificationsDropped'>
  readonly log: Logger
}

/** A receiver that is away for long misses pulls first: there are many, and no program depends on them. */
export const MOST_PULLS = 10_000
export const MOST_EVENTS = 100_000

export class Backlog {
  /** The queue's name in the store. */
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

  /** Counts one more event, unless there are too many. @returns whether it is to be queued */
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

  /** An event that counted was not written down, and will never be delivered. */
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
