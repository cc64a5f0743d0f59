/**
 * Transactional outbox: events are queued in the store for all end-points that want them.
 *
 * The event of a write goes into its commit. Pulls are many: they are gathered and written a few times a second, so a
 * crash may take the last of them; an event of a write takes those that were gathered before it along, so the order
 * stays.
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
  /** Origin under which clients reach us; undefined: the address that each has connected to. */
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

/** Pulls are written so often, or when so many have been gathered. */
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

  /** Writes the pulls that were gathered. Never rejects. */
  async flush(): Promise<void> {
    // One write at a time: behind a slow disk pulls gather meanwhile, and share the next commit.
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

  /** The same event, with the same id, for each that wants it. */
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
