/**
 * Disk reservation of one download: taken before its file is opened, and released when its bytes are a blob, or gone.
 *
 * A blob larger than the whole budget may use a file for as long as it is followed; it is never adopted, and nothing
 * of it is kept. A download for which the disk has no room at all is refused.
 */
import { NEVER } from '../../base/condition.ts'
import type { Bytes } from '../../base/units.ts'
import type { Logger } from 'pino'
import type { BlobInfo, BlobStore } from '../../storage/blobs/blob-store.ts'
import type { Ingest, IngestIdentity, IngestStore, VerifiedFile } from '../../storage/ingest/ingest.ts'
import { lockOfBlob, type KeyedLocks } from '../../storage/locks/keyed-locks.ts'
import { noRoom, type SpaceReservation, type DiskSpace } from '../eviction/disk-space.ts'
import type { StorageHealth } from '../resilience/storage-health.ts'

export interface ReservationContext {
  readonly store: BlobStore
  readonly ingests: Pick<IngestStore, 'open'>
  /** Locks a blob from its adoption until the index knows it; the garbage collector takes the same lock. */
  readonly locks: KeyedLocks
  readonly diskSpace: Pick<DiskSpace, 'reserve' | 'changed'>
  readonly health: StorageHealth
  readonly log: Logger
}

interface BerthOptions {
  readonly identity: IngestIdentity
  readonly size: Bytes | undefined
  /** Opens a new file beside that of an earlier attempt. */
  readonly fresh: boolean
  /** Called when the blob is, or turns out to be, larger than the budget. */
  readonly onTransient: () => void
}

/** The reservation of a download of unknown length grows in steps of this. */
const STEP: Bytes = 64 * 1024 * 1024

export class DiskReservation {
  readonly ingest: Ingest
  readonly #context: ReservationContext
  readonly #options: BerthOptions
  readonly #refused = new AbortController()
  #admission: SpaceReservation
  /** The bytes that were asked for. */
  #size: Bytes
  #asking: Promise<void> = Promise.resolve()
  #left = false

  private constructor(
    context: ReservationContext,
    options: BerthOptions,
    ingest: Ingest,
    admission: SpaceReservation,
  ) {
    this.#context = context
    this.#options = options
    this.#size = options.size ?? 0
    this.#admission = admission
    this.ingest = ingest
    if (this.transient) this.#becomeTransient()
  }

  /** @throws the system's error, or one like it, when the disk will not take it */
  static async take(context: ReservationContext, options: BerthOptions): Promise<DiskReservation> {
    const { identity, size, fresh } = options
    const admission = await context.diskSpace.reserve(identity, size)
    try {
      if (admission.as === 'none') throw noRoom()
      const ingest = await context.ingests.open(identity, { fresh })
      return new DiskReservation(context, options, ingest, admission)
    } catch (error) {
      admission[Symbol.dispose]()
      throw error
    }
  }

  get transient(): boolean {
    return this.#admission.as === 'transient'
  }

  get stays(): boolean {
    return this.#admission.as === 'keep'
  }

  /** Aborts when the blob has turned out to be more than the disk has room for. */
  get refused(): AbortSignal {
    return this.#refused.signal
  }

  /**
   * Grows the reservation to the size that upstream says, or to what is here. Cheap: called after every write.
   *
   * @returns when the reservation fits what is known now
   */
  reckon(size: Bytes | undefined): Promise<void> {
    const atLeast = size ?? this.ingest.prefix - (this.ingest.prefix % STEP)
    if (atLeast > this.#size) {
      this.#size = atLeast
      this.#asking = this.#asking.then(() => this.#askFor(atLeast))
    }
    return this.#asking
  }

  /** Followers have all they need by now; a failure here only costs the next pull a download. */
  async adopt(file: VerifiedFile, adopted: (blob: BlobInfo) => Promise<void>): Promise<void> {
    const { store, locks, health, diskSpace: room, log } = this.#context
    const { digest } = file
    try {
      using _held = await locks.exclusive(lockOfBlob(digest), NEVER)
      const blob = await store.adopt(file)
      health.writeSucceeded()
      await adopted(blob)
    } catch (error) {
      health.writeFailed('a verified blob', error)
      log.debug({ err: error, digest }, 'not adopted')
      await this.discard()
      return
    }
    this.#leave()
    room.changed()
  }

  /** Keeps the partial file for a later attempt, where that is allowed. */
  async putAside(worthKeeping: boolean): Promise<void> {
    if (!worthKeeping || this.transient) return this.discard()
    await this.ingest.keep()
    this.#leave()
  }

  /** Never rejects; may be called again. */
  async discard(): Promise<void> {
    try {
      await this.ingest.discard()
    } catch (error) {
      this.#context.log.debug({ err: error, digest: this.#options.identity.digest }, 'a partial stays behind')
    }
    this.#leave()
  }

  async #askFor(size: Bytes): Promise<void> {
    const before = this.transient
    // The earlier reservation is released first, for it holds the same bytes.
    this.#admission[Symbol.dispose]()
    this.#admission = await this.#context.diskSpace.reserve(this.#options.identity, size)
    if (this.#left) this.#admission[Symbol.dispose]()
    else if (this.#admission.as === 'none') this.#refused.abort(noRoom())
    else if (this.transient && !before) this.#becomeTransient()
  }

  #becomeTransient(): void {
    this.ingest.disown()
    this.#options.onTransient()
  }

  #leave(): void {
    this.#left = true
    this.#admission[Symbol.dispose]()
  }
}
