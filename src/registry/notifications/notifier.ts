/** Notifications: queues each event for the endpoints that want it, and delivers the queues. */
import type { EventAction, Events } from './event.ts'
import type { MetadataStore } from '../../storage/metadata/metadata.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import { Backlog } from './backlog.ts'
import { Delivery } from './delivery.ts'
import { Outbox, type OutboxOptions } from './outbox.ts'

interface EndpointSettings {
  readonly url: string
  readonly headers: Readonly<Record<string, string | readonly string[]>>
  readonly ignoreActions: readonly EventAction[]
  readonly timeout: number
  readonly backoff: number
  readonly proxy: string | undefined
}

interface NotifierOptions extends Omit<OutboxOptions, 'backlogs'> {
  readonly endpoints: readonly EndpointSettings[]
  readonly metadata: MetadataStore
  readonly metrics: Metrics
}

/** Lifetime of the events of a removed endpoint: its removal may have been a mistake. */
const ORPHANS_MS = 7 * 86_400_000

export class Notifier implements AsyncDisposable {
  readonly events: Events
  readonly #options: NotifierOptions
  readonly #outbox: Outbox
  readonly #queues: readonly { settings: EndpointSettings; label: string; backlog: Backlog }[]
  #deliveries: readonly Delivery[] = []
  #listening: Disposable | undefined

  constructor(options: NotifierOptions) {
    const { endpoints, metrics, log } = options
    this.#options = options
    this.#queues = labelled(endpoints).map(({ settings, label }) => {
      return { settings, label, backlog: new Backlog({ ...settings, label, metrics, log }) }
    })
    this.#outbox = new Outbox({ ...options, backlogs: this.#queues.map(({ backlog }) => backlog) })
    this.events = this.#outbox
  }

  /** Starts to deliver queued and new events. Before that they wait in the store. */
  async start(): Promise<void> {
    const { metadata } = this.#options
    for (const { backlog } of this.#queues) backlog.count(await metadata.events.count(backlog.endpoint))
    await this.#dropOrphans()
    this.#deliveries = this.#queues.map(({ settings, label, backlog }) => {
      const { timeout: timeoutMs, backoff: backoffMs } = settings
      return new Delivery({ ...this.#options, ...settings, timeoutMs, backoffMs, label, backlog })
    })
    this.#listening = metadata.events.onQueued(() => {
      for (const delivery of this.#deliveries) delivery.wake()
    })
    for (const delivery of this.#deliveries) delivery.start()
  }

  /** Writes the gathered pulls, and lets deliveries in flight finish. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#outbox.flush()
    this.#listening?.[Symbol.dispose]()
    await Promise.all(this.#deliveries.map((it) => it.stop()))
  }

  async #dropOrphans(): Promise<void> {
    const { metadata, log, now } = this.#options
    const known = new Set(this.#queues.map(({ backlog }) => backlog.endpoint))
    for (const endpoint of await metadata.events.endpoints()) {
      if (known.has(endpoint)) continue
      const [oldest] = await metadata.events.next(endpoint, 1)
      const events = await metadata.events.count(endpoint)
      const drop = oldest !== undefined && now() - oldest.queuedAt > ORPHANS_MS
      if (drop) await metadata.transaction((tx) => tx.dropEvents(endpoint, Number.MAX_SAFE_INTEGER))
      log.warn(
        { events, dropped: drop },
        'notifications wait for an end-point that is not configured any more',
      )
    }
  }
}

/** Labels each endpoint for metrics and the log by its host, numbered where several have the same. */
function labelled(endpoints: readonly EndpointSettings[]): { settings: EndpointSettings; label: string }[] {
  const seen = new Map<string, number>()
  return endpoints.map((settings) => {
    const { host } = new URL(settings.url)
    const number = (seen.get(host) ?? 0) + 1
    seen.set(host, number)
    return { settings, label: number === 1 ? host : `${host} #${number}` }
  })
}
