/**
 * Delivery of events to one endpoint, at least once and in order: each is retried until it is answered 2xx or 3xx.
 *
 * An event leaves the store after that, so an event that was in flight when the process ended is sent again. No client
 * request waits for a delivery, and no delivery for that of another endpoint.
 */
import { backoff } from '../../base/backoff.ts'
import type { Milliseconds } from '../../base/units.ts'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import { Agent, ProxyAgent, type Dispatcher } from 'undici'
import type { MetadataStore, QueuedEvent } from '../../storage/metadata/metadata.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import type { Backlog } from './backlog.ts'
import { envelopeOf, EVENTS_TYPE } from './envelope.ts'

interface DeliveryOptions {
  readonly url: string
  readonly headers: Readonly<Record<string, string | readonly string[]>>
  /** Limit of one attempt. */
  readonly timeoutMs: Milliseconds
  /** Longest pause between two attempts. */
  readonly backoffMs: Milliseconds
  readonly proxy: string | undefined
  /** Logged instead of the URL, which may contain a secret. */
  readonly label: string
  readonly backlog: Backlog
  readonly metadata: Pick<MetadataStore, 'events' | 'transaction'>
  readonly metrics: Pick<Metrics, 'notificationsDelivered' | 'notificationsFailed'>
  readonly log: Logger
}

/** Limit of events in memory. */
const BATCH = 50
/** Pause after the first failure; doubles with each. */
const FIRST_PAUSE: Milliseconds = 250
/** Poll interval: a command in another process may queue events, which wakes no delivery here. */
const LOOK_AGAIN: Milliseconds = 30_000
/** Time for the attempt in flight at shutdown. */
const LAST_ATTEMPT: Milliseconds = 3000
/** Bytes of an answer's body that are read; its content is ignored. */
const MAX_ANSWER_BYTES = 64 * 1024

export class Delivery {
  readonly #options: DeliveryOptions
  readonly #dispatcher: Dispatcher
  readonly #stopping = new AbortController()
  readonly #breakingOff = new AbortController()
  #queued = Promise.withResolvers<undefined>()
  /** Ids of the last event that the endpoint accepted, and of the last one deleted from the store. */
  #taken = 0
  #forgotten = 0
  #forgetting: Promise<void> | undefined
  #running: Promise<void> | undefined
  #failing = false

  constructor(options: DeliveryOptions) {
    this.#options = options
    const { timeoutMs, proxy } = options
    const limits = {
      connections: 1,
      pipelining: 1,
      keepAliveTimeout: 30_000,
      headersTimeout: timeoutMs,
      bodyTimeout: timeoutMs,
    }
    this.#dispatcher =
      proxy === undefined
        ? new Agent({ ...limits, connect: { timeout: timeoutMs } })
        : new ProxyAgent({ ...limits, uri: proxy, connectTimeout: timeoutMs })
  }

  start(): void {
    this.#running ??= this.#run()
  }

  /** Called when there may be new events. */
  wake(): void {
    this.#queued.resolve(undefined)
  }

  /** Lets the attempt in flight finish; events that were not accepted stay in the store. */
  async stop(): Promise<void> {
    this.#stopping.abort(new Error('shutting down'))
    this.wake()
    const timer = setTimeout(() => this.#breakingOff.abort(new Error('shutting down')), LAST_ATTEMPT)
    try {
      await this.#running
      await this.#forgetting
      await this.#forget()
    } finally {
      clearTimeout(timer)
      await this.#dispatcher.destroy()
    }
  }

  /** Never rejects. */
  async #run(): Promise<void> {
    while (!this.#stopped()) {
      for (const event of await this.#next()) {
        if (this.#stopped() || !(await this.#deliver(event))) return
        this.#taken = event.id
        this.#options.backlog.delivered()
        this.#forgetting ??= this.#forget().finally(() => {
          this.#forgetting = undefined
        })
      }
    }
  }

  /** @returns the next events; none after a wait, when the store has to be read again */
  async #next(): Promise<readonly QueuedEvent[]> {
    const { metadata, backlog, label, log } = this.#options
    this.#queued = Promise.withResolvers<undefined>()
    try {
      const events = await metadata.events.next(backlog.endpoint, BATCH, this.#taken)
      if (events.length > 0) return events
      backlog.count(0)
    } catch (err) {
      log.warn({ err, endpoint: label }, 'notifications cannot be read')
    }
    if (this.#stopped()) return []
    const timer = setTimeout(() => this.wake(), LOOK_AGAIN).unref()
    await this.#queued.promise
    clearTimeout(timer)
    return []
  }

  /** @returns false when the process stops before the event is accepted */
  async #deliver(event: QueuedEvent): Promise<boolean> {
    const { label, backoffMs, metrics, log } = this.#options
    for (let failures = 0; ; failures++) {
      const reason = await this.#attempt(event)
      if (reason === undefined) {
        metrics.notificationsDelivered.inc({ endpoint: label })
        if (this.#failing) log.info({ endpoint: label }, 'notifications are taken again')
        this.#failing = false
        return true
      }
      if (this.#breakingOff.signal.aborted) return false
      metrics.notificationsFailed.inc({ endpoint: label })
      if (!this.#failing) log.warn({ endpoint: label, reason }, 'notifications are not taken')
      this.#failing = true
      const pause = backoff(failures, { first: FIRST_PAUSE, most: backoffMs })
      // Jitter of up to one half, so that several instances do not retry in step.
      await sleep(pause * (0.5 + Math.random() / 2), undefined, {
        signal: this.#stopping.signal,
        ref: false,
      }).catch(() => undefined)
      if (this.#stopped()) return false
    }
  }

  /** @returns why the event was not accepted; undefined: it was */
  async #attempt(event: QueuedEvent): Promise<string | undefined> {
    const { url, headers, timeoutMs } = this.#options
    const { origin, pathname, search } = new URL(url)
    const signal = AbortSignal.any([AbortSignal.timeout(timeoutMs), this.#breakingOff.signal])
    try {
      const { statusCode, body } = await this.#dispatcher.request({
        origin,
        path: pathname + search,
        method: 'POST',
        headers: { 'user-agent': 'entrepot', ...mutable(headers), 'content-type': EVENTS_TYPE },
        body: envelopeOf(event.body),
        signal,
      })
      // The answer is read so that the connection can be reused; a failure of that does not matter.
      await body.dump({ limit: MAX_ANSWER_BYTES, signal }).catch(() => undefined)
      return statusCode >= 200 && statusCode < 400 ? undefined : `it answered ${statusCode}`
    } catch (error) {
      return error instanceof Error ? error.message || error.name : String(error)
    }
  }

  /** Deletes delivered events from the store, including those delivered meanwhile. Never rejects. */
  async #forget(): Promise<void> {
    const { metadata, backlog, label, log } = this.#options
    while (this.#forgotten < this.#taken) {
      const upTo = this.#taken
      try {
        await metadata.transaction((tx) => tx.dropEvents(backlog.endpoint, upTo))
      } catch (err) {
        // The next delivery tries again.
        log.warn({ err, endpoint: label }, 'notifications that were taken will be sent again after a restart')
        return
      }
      this.#forgotten = upTo
    }
  }

  #stopped(): boolean {
    return this.#stopping.signal.aborted
  }
}

function mutable(headers: DeliveryOptions['headers']): Record<string, string | string[]> {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [name, typeof value === 'string' ? value : [...value]]),
  )
}
