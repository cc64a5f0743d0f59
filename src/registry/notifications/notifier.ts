/**
 * Notifications: events into the queues of the end-points that want them, and out of these to the end-points.
 */
import type { Logger } from 'pino'
import type { EventAction, Events } from './event.ts'
import type { EpochMs, MetadataStore } from '../../storage/metadata/metadata.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import { Backlog } from './backlog.ts'
import { Delivery } from './delivery.ts'
import type { Source } from './envelope.ts'
import { Outbox } from './outbox.ts'

interface EndpointSettings {
  readonly url: string
  readonly headers: Readonly<Record<string, string | readonly string[]>>
  readonly ignoreActions: readonly EventAction[]
  readonly timeout: number
  readonly backoff: number
  readonly proxy: string | undefined
}

interface NotifierOptions {
  readonly endpoints: readonly EndpointSettings[]
  readonly metadata: MetadataStore
  readonly source: () => Source
  /** Origin under which clients reach us; undefined: the address that each has connected to. */
  readonly publicUrl: string | undefined
  readonly scheme: 'http' | 'https'
  readonly metrics: Metrics
  readonly log: Logger
  readonly now: () => EpochMs
}

/** What waits for an end-point that is no longer configured is kept so long: it may have been a mistake. */
const ORPHANS_MS = 7 * 86_400_000

export class Notifier implements AsyncDisposable {
  readonly events: Events
  readonly #options: NotifierOptions
  readonly #outbox: Outbox
  readonly #backlogs: readonly Backlog[]
  #deliveries: readonly Delivery[] = []
  #listening: Disposable | undefined

  constructor(options: NotifierOptions) {
    const { endpoints, metrics, log } = options
    this.#options = options
    const labels = labelsOf(endpoints.map(({ url }) => url))
    this.#backlogs = endpoints.map(
      (endpoint, at) => new Backlog({ ...endpoint, label: labels[at] ?? '', metrics, log }),
    )
    this.#outbox = new Outbox({ ...options, backlogs: this.#backlogs })
    this.events = this.#outbox
  }

  /** Delivers what waits, and what comes. Without it everything waits in the store. */
  async start(): Promise<void> {
    const { endpoints, metadata } = this.#options
    for (const backlog of this.#backlogs) backlog.count(await metadata.events.count(backlog.endpoint))
    await this.#dropOrphans()
    const labels = labelsOf(endpoints.map(({ url }) => url))
    this.#deliveries = endpoints.flatMap((endpoint, at) => {
      const backlog = this.#backlogs[at]
      if (backlog === undefined) return []
      const { timeout: timeoutMs, backoff: backoffMs } = endpoint
      return [
        new Delivery({
          ...this.#options,
          ...endpoint,
          timeoutMs,
          backoffMs,
          label: labels[at] ?? '',
          backlog,
        }),
      ]
    })
    this.#listening = metadata.events.onQueued(() => {
      for (const delivery of this.#deliveries) delivery.wake()
    })
    for (const delivery of this.#deliveries) delivery.start()
  }

  /** What was gathered is written down, what is being told may come to its end. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#outbox.flush()
    this.#listening?.[Symbol.dispose]()
    await Promise.all(this.#deliveries.map((it) => it.stop()))
  }

  async #dropOrphans(): Promise<void> {
    const { metadata, log, now } = this.#options
    const known = new Set(this.#backlogs.map(({ endpoint }) => endpoint))
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

/** The host of each; those of one host are numbered. */
function labelsOf(urls: readonly string[]): string[] {
  const seen = new Map<string, number>()
  return urls.map((url) => {
    const { host } = new URL(url)
    const number = (seen.get(host) ?? 0) + 1
    seen.set(host, number)
    return number === 1 ? host : `${host} #${number}`
  })
}
