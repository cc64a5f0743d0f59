/**
 * Follower (subscriber) of a running fill: reads the growing file for one client, first or late, at its own pace.
 *
 * The last bytes leave only when the digest is verified (`hold-back.ts`); inner ranges are given as the bytes come.
 */
import type { Bytes } from '../../base/units.ts'
import type { ByteSource, GrowingRange, StoredRange } from '../../storage/blobs/blob-store.ts'
import { OciError } from '../../oci/errors.ts'
import type { Attempt } from '../download/attempt.ts'
import type { Fill } from './fill.ts'
import { HOLD_BACK, holdsBack, type Stretch } from './hold-back.ts'

/** Where a client stands whose fill was diverted. */
export interface Place {
  readonly position: Bytes
  /** The attempt whose bytes the client has. */
  readonly sent: Attempt | undefined
  /** The client has the head of a response. */
  readonly promised: boolean
}

/** Continues in memory where the disk gave up, verified against what was sent before. */
type Divert = (place: Place, signal: AbortSignal) => Promise<ByteSource>

export class Follower implements ByteSource, GrowingRange {
  readonly #fill: Fill
  readonly #size: Bytes | undefined
  readonly #start: Bytes
  readonly #end: Bytes | undefined
  readonly #held: boolean
  readonly #divert: Divert
  readonly #place: Disposable
  #position: Bytes
  #attempt: Attempt | undefined
  #reading: Disposable | undefined
  #diverted: ByteSource | undefined

  /** @param size of the blob, as the client is told it */
  constructor(fill: Fill, size: Bytes | undefined, range: Stretch | undefined, divert: Divert) {
    this.#fill = fill
    this.#size = size
    this.#start = range?.start ?? 0
    this.#end = range?.end
    this.#position = this.#start
    this.#held = holdsBack(fill.size, range)
    this.#divert = divert
    this.#place = fill.follow()
  }

  /**
   * Resolves when the head of a response may be sent: a small body is verified before that.
   *
   * @throws OciError when the fill failed
   */
  async ready(signal: AbortSignal): Promise<void> {
    for (;;) {
      const { phase } = this.#fill
      if (phase.is === 'failed') throw phase.error
      this.#assertSize()
      if (phase.is === 'diverted') {
        await this.#goAround(false, signal)
        return
      }
      if (phase.is !== 'running' || !this.#held) return
      // Without a length, the bytes that have come are the least size.
      const atLeast = this.#fill.size ?? this.#fill.attempt?.download.ingest.prefix ?? 0
      if (atLeast > HOLD_BACK) return
      await this.#fill.changed(signal)
    }
  }

  async read(buffer: Buffer, signal: AbortSignal): Promise<Bytes> {
    const limit = await this.#reach(signal)
    if (this.#diverted !== undefined) return this.#diverted.read(buffer, signal)
    const want = Math.min(buffer.length, limit - this.#position)
    const source = this.#attempt?.download.ingest
    if (source === undefined || want <= 0) return 0
    const length = await source.read(buffer.subarray(0, want), this.#position)
    this.#position += length
    return length
  }

  async there(signal: AbortSignal): Promise<StoredRange | undefined> {
    const end = await this.#reach(signal)
    const source = this.#attempt?.download.ingest
    if (this.#diverted !== undefined || source?.descriptor === undefined) return undefined
    const read = (buffer: Buffer, position: Bytes): Promise<Bytes> => source.read(buffer, position)
    return { descriptor: source.descriptor, start: this.#position, end, read }
  }

  took(count: Bytes): void {
    this.#position += count
  }

  get growing(): GrowingRange {
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#reading?.[Symbol.dispose]()
    this.#reading = undefined
    this.#place[Symbol.dispose]()
    await this.#diverted?.[Symbol.asyncDispose]()
  }

  /**
   * Resolves with the end of the bytes that may be given out now; at once, with the position, when all were given
   * out or the fill is diverted.
   */
  async #reach(signal: AbortSignal): Promise<Bytes> {
    for (;;) {
      if (this.#diverted !== undefined) return this.#position
      this.#assertSize()
      const { phase, size } = this.#fill
      const end = this.#end ?? (phase.is === 'verified' ? size : undefined)
      if (end !== undefined && this.#position >= end) return this.#position
      if (phase.is === 'failed') throw phase.error
      if (phase.is === 'absent') throw new OciError('BLOB_UNKNOWN', { digest: this.#fill.digest })
      if (phase.is === 'diverted') {
        await this.#goAround(true, signal)
        continue
      }
      this.#chooseAttempt()
      const limit = this.#limit()
      if (limit > this.#position) return limit
      this.#attempt?.download.want(this.#position, this.#end ?? Number.POSITIVE_INFINITY)
      await this.#fill.changed(signal)
    }
  }

  /** Upstream said one size, sent wrong bytes, and says another now: the promised size can never come. */
  #assertSize(): void {
    const { size, contested, phase } = this.#fill
    // A diverted fill knows only the descriptor; the fill in memory compares the size itself.
    if (phase.is === 'diverted') return
    if (this.#size === undefined || (size === this.#size && !contested)) return
    if (size === undefined && !contested) return
    throw new OciError('BAD_GATEWAY', undefined, { message: 'upstream said the blob had another size' })
  }

  async #goAround(promised: boolean, signal: AbortSignal): Promise<void> {
    const place = { position: this.#position, sent: this.#attempt, promised }
    this.#diverted = await this.#divert(place, signal)
    // Its bytes have been read again by now; the disk may need the space.
    this.#reading?.[Symbol.dispose]()
    this.#reading = undefined
  }

  /**
   * Switches to the current attempt of the fill. After bytes of an earlier attempt were sent, that is allowed only
   * when the new one is verified and begins with the very same bytes.
   */
  #chooseAttempt(): void {
    const current = this.#fill.attempt
    if (current === this.#attempt || current === undefined) return
    if (this.#attempt !== undefined && this.#position > this.#start) {
      const { differsAt } = this.#attempt
      if (differsAt === undefined) return
      if (differsAt < this.#position) {
        throw new OciError('BAD_GATEWAY', undefined, { message: 'the bytes sent so far were wrong' })
      }
    }
    this.#reading?.[Symbol.dispose]()
    this.#attempt = current
    this.#reading = current.download.ingest.retain()
  }

  #limit(): Bytes {
    const attempt = this.#attempt
    // An attempt with a wrong digest gives out no further byte.
    if (attempt === undefined || attempt.wrong || attempt !== this.#fill.attempt) return this.#position
    const there = attempt.download.ingest.readableTo(this.#position)
    const wanted = Math.min(there, this.#end ?? there)
    if (!this.#held || this.#fill.phase.is === 'verified') return wanted
    return Math.min(wanted, (this.#fill.size ?? there) - HOLD_BACK)
  }
}
