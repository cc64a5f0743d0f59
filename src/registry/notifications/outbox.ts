/**
 * Transactional outbox: queues events in the store for every endpoint that wants them.
 *
 * A write's event goes into the write's transaction. Pulls are many, so they are gathered and written a few times a
 * second, and a crash may lose the last of them. A write's transaction includes the pulls gathered before it, which
 * keeps the order.
 */
import type { Logger } from 'pino'
import type { EventRequest, Events, RepositoryEvent } from './event.ts'
import type { EpochMs, MetadataStore, MetadataTransaction } from '../../storage/metadata/metadata.ts'
import type { Backlog } from './backlog.ts'
import { eventOf, type Source } from './envelope.ts'

export interface OutboxOptions {
  readonly backlogs: readonly Backlog[]
  readonly metadata: Pick<MetadataStore, 'transaction'>
  readonly source: () => Source
  /** Origin of this server for its clients; undefined: the address to which each client is connected. */
  readonly publicUrl: string | undefined
  readonly scheme: 'http' | 'https'
  readonly log: Logger
  readonly now: () => EpochMs
}

interface Queued {
  readonly backlog: Backlog
  readonly endpoint: string
  readonly body: string
}

/** Pulls are written at this interval, or once this many are gathered. */
const GATHER_MS = 250
const GATHER = 500

export class Outbox implements Events {
  readonly #options: OutboxOptions
  #pulls: Queued[] = []
  #timer: NodeJS.Timeout | undefined
  #writing: Promise<void> | undefined

  constructor(options: OutboxOptions) {
    this.#options = options
  }

  queue(
    tx: MetadataTransaction,
    happenings: readonly RepositoryEvent[],
    cause: EventRequest | undefined,
  ): void {
    const events = happenings.flatMap((it) => this.#queued(it, cause))
    if (events.length === 0) return
    tx.queueEvents([...this.#takePulls(), ...events], this.#options.now())
  }

  pulled(pull: RepositoryEvent, cause: EventRequest): void {
    const events = this.#queued(pull, cause)
    if (events.length === 0) return
    this.#pulls.push(...events)
    if (this.#pulls.length >= GATHER && this.#writing === undefined) void this.flush()
    else this.#timer ??= setTimeout(() => void this.flush(), GATHER_MS).unref()
  }

  /** Writes the gathered pulls. Never rejects. */
  async flush(): Promise<void> {
    // One write at a time: behind a slow disk more pulls gather, and share the next commit.
    while (this.#writing !== undefined) await this.#writing
    if (this.#pulls.length === 0) return
    this.#writing = this.#write(this.#takePulls())
    await this.#writing
    this.#writing = undefined
  }

  async #write(pulls: readonly Queued[]): Promise<void> {
    const { metadata, log, now } = this.#options
    try {
      await metadata.transaction((tx) => tx.queueEvents(pulls, now()))
    } catch (err) {
      for (const { backlog } of pulls) backlog.lost()
      log.warn({ err, events: pulls.length }, 'pulls were not written down, nobody will be told of them')
    }
  }

  #takePulls(): readonly Queued[] {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const pulls = this.#pulls
    this.#pulls = []
    return pulls
  }

  /** One event, with one id, for all endpoints that want it. */
  #queued(happening: RepositoryEvent, cause: EventRequest | undefined): Queued[] {
    const { action } = happening
    const backlogs = this.#options.backlogs.filter((it) => it.wants(action) && it.admit(action))
    if (backlogs.length === 0) return []
    const { source, publicUrl, scheme, now } = this.#options
    const reached = cause?.reachedBy === undefined ? undefined : `${scheme}://${cause.reachedBy}`
    const base = publicUrl ?? reached
    const body = JSON.stringify(eventOf(happening, cause, { source: source(), base, at: now() }))
    return backlogs.map((backlog) => ({ backlog, endpoint: backlog.endpoint, body }))
  }
}
