/**
 * Delivery of events to one end-point: one after the other, each until it is taken, that is answered 2xx or 3xx.
 *
 * An event leaves the store after that, so one that was sent when the process ended is sent again. No request of a
 * client waits for a delivery, and no delivery for that of another end-point.
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
  /** For the whole of one attempt. */
  readonly timeoutMs: Milliseconds
  /** The longest pause between two attempts. */
  readonly backoffMs: Milliseconds
  readonly proxy: string | undefined
  /** In place of the address, which may hold a secret. */
  readonly label: string
  readonly backlog: Backlog
  readonly metadata: Pick<MetadataStore, 'events' | 'transaction'>
  readonly metrics: Pick<Metrics, 'notificationsDelivered' | 'notificationsFailed'>
  readonly log: Logger
}

/** The most events in memory. */
const BATCH = 50
/** After the first failure; it doubles. */
const FIRST_PAUSE: Milliseconds = 250
/** A command in another process may queue events: the store is read so often without being woken. */
const LOOK_AGAIN: Milliseconds = 30_000
/** How long an attempt that is under way may take at shutdown. */
const LAST_ATTEMPT: Milliseconds = 3000
/** The most that is read of an answer's body, which is ignored. */
const MAX_ANSWER_BYTES = 64 * 1024

export class Delivery {
  readonly #options: DeliveryOptions
  readonly #dispatcher: Dispatcher
  readonly #stopping = new AbortController()
  readonly #breakingOff = new AbortController()
  #queued = Promise.withResolvers<undefined>()
  /** Numbers of the last event that the end-point took, and of the last one that left the store. */
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

  /** There may be new events. */
  wake(): void {
    this.#queued.resolve(undefined)
  }

  /** An attempt that is under way may come to its end; events that are not taken wait in the store. */
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

  /** @returns no events after a wait, when it is time to look again */
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

  /** @returns false when the process stops before the event is taken */
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
      // Between half of it and all of it: several instances must not come back in step.
      await sleep(pause * (0.5 + Math.random() / 2), undefined, {
        signal: this.#stopping.signal,
        ref: false,
      }).catch(() => undefined)
      if (this.#stopped()) return false
    }
  }

  /** @returns why it was not taken */
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
      // Read away, so that the connection can be used again; whether that succeeds does not matter.
      await body.dump({ limit: MAX_ANSWER_BYTES, signal }).catch(() => undefined)
      return statusCode >= 200 && statusCode < 400 ? undefined : `it answered ${statusCode}`
    } catch (error) {
      return error instanceof Error ? error.message || error.name : String(error)
    }
  }

  /** Takes delivered events out of the store, also those that are delivered meanwhile. Never rejects. */
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
