/**
 * Where events go first: into the queues of all end-points that want them, in the store.
 *
 * Of a write: in its own commit. Pulls are many and hot: they are gathered and written a few times a second, so a
 * crash may take the last of them; whatever is queued after a pull takes it along, so the order stays.
 */
import type { Logger } from 'pino'
import type { EventRequest, Events, RepositoryEvent } from './event.ts'
import type { EpochMs, MetadataStore, MetadataTransaction } from '../../storage/metadata/metadata.ts'
import type { Backlog } from './backlog.ts'
import { eventOf, type Source } from './envelope.ts'

interface OutboxOptions {
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

/** Pulls are written down this often, or when so many are there. */
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

  /** Writes the pulls down that were gathered. Never rejects. */
  async flush(): Promise<void> {
    // One at a time: behind a slow disk they gather meanwhile, and share the next commit.
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
