/**
 * Fill: one blob on its way from an upstream into the cache, shared by all clients that wait for it.
 *
 * No request owns a fill: a client that leaves closes its follower, not the download. Only bytes that have their
 * digest are adopted; wrong bytes are fetched once more from the start before any client hears of it. When the disk
 * will not take them, the fill is `diverted` and every follower goes on with a stream of its own. A blob too large to
 * stay does not settle before its last follower has gone.
 *
 *     running -> verified -> (adopted)      running -> absent | failed | diverted
 */
import type { Bytes } from '../../base/units.ts'
import type { Digest } from '../../oci/digest.ts'
import type { RepositoryName } from '../../oci/reference.ts'
import type { BlobInfo } from '../../storage/blobs/blob-store.ts'
import type { BlobHolds } from '../../storage/locks/blob-holds.ts'
import type { VerifiedFile } from '../../storage/ingest/ingest.ts'
import type { TransferPriority } from '../../upstream/limits/transfer-slots.ts'
import { UpstreamError } from '../../upstream/upstream.ts'
import type { Attempt } from '../download/attempt.ts'
import { Attempts, type AttemptsContext } from '../download/attempts.ts'
import { FollowerCount } from './follower-count.ts'
import { HOLD_BACK } from './hold-back.ts'
import type { Origin } from '../origin.ts'
import { refusal } from '../resilience/client-errors.ts'
import { Condition } from '../../base/condition.ts'

/** What becomes of a download without followers; with `fraction` it is finished when that share of it is here. */
export type FinishAbandoned = 'always' | 'never' | { readonly fraction: number }

export interface FillContext extends AttemptsContext {
  /** Keeps the blob from removal while it comes, or is followed. */
  readonly holds: BlobHolds
  readonly finishAbandoned: () => FinishAbandoned
  /** Called when the blob is adopted, before the fill settles; `fill.names` are the names that asked for it. */
  readonly onAdopted: (fill: Fill, blob: BlobInfo) => Promise<void>
}

interface FillRequest {
  readonly origin: Origin
  readonly name: RepositoryName
  readonly digest: Digest
  /** Given by a manifest's descriptor. */
  readonly size: Bytes | undefined
}

export interface FillProgress {
  /** The bytes that are here without a gap. */
  readonly bytes: Bytes
  readonly size: Bytes | undefined
  readonly followers: number
  /** True while it waits for a transfer slot. */
  readonly queued: boolean
}

type Phase =
  | { readonly is: 'running' | 'verified' | 'absent' | 'diverted' }
  | { readonly is: 'failed'; readonly error: unknown }

export class Fill {
  readonly origin: Origin
  readonly digest: Digest
  /** The name under which upstream is asked. */
  readonly name: RepositoryName
  /** Names under which upstream delivers, or confirmed, these bytes. */
  readonly names = new Set<RepositoryName>()
  /** Resolves, never rejects, when nothing of this fill is running any more. */
  readonly settled: Promise<void>

  readonly #context: FillContext
  readonly #changed = new Condition()
  readonly #abort = new AbortController()
  #phase: Phase = { is: 'running' }
  readonly #expectedSize: Bytes | undefined
  readonly #attempts: Attempts
  #attempt: Attempt | undefined
  #askedAt: number | undefined
  #flows = false
  #ended = false
  /** Keeps the files of all attempts open for followers that have yet to open a reader, and the blob where it is. */
  readonly #audience = new FollowerCount({ came: () => this.#reorder(), left: () => this.#abandoned() })

  constructor(context: FillContext, request: FillRequest) {
    this.#context = context
    this.origin = request.origin
    this.digest = request.digest
    this.name = request.name
    this.#expectedSize = request.size
    this.names.add(request.name)
    this.#audience.keep(context.holds.hold(request.digest))
    this.#attempts = new Attempts(context, {
      ...request,
      priority: () => this.#priority,
      onBegin: (attempt) => this.#begin(attempt),
      onChange: () => this.#grew(),
      // A transient blob is fetched for followers only.
      onTransient: () => this.#audience.count > 0 || this.stop(),
      onDiverted: (error) => this.#divert(error),
    })
    // The first client follows before a transfer slot is asked for, so that the slot is asked for with its priority.
    this.settled = Promise.resolve().then(() => this.#run())
  }

  get phase(): Phase {
    return this.#phase
  }

  /** Size of the blob; undefined while unknown. Without a descriptor it may change after a mismatch. */
  get size(): Bytes | undefined {
    const download = this.#attempt?.download
    if (this.#phase.is === 'verified') return download?.ingest.prefix
    if (this.contested) return undefined
    return download?.size ?? this.#expectedSize
  }

  /** The manifest and upstream say different sizes, and the blob is not verified yet. */
  get contested(): boolean {
    return this.#phase.is !== 'verified' && this.#attempt?.download.contested === true
  }

  /** The attempt whose bytes followers read now. */
  get attempt(): Attempt | undefined {
    return this.#attempt
  }

  /** The blob has turned out to be too large to stay. */
  get transient(): boolean {
    return this.#attempt?.reservation.transient === true
  }

  /** A download without followers yields to those that clients wait for. */
  get #priority(): TransferPriority {
    return this.#audience.count > 0 ? 'asked' : 'ahead'
  }

  get progress(): FillProgress {
    const { size, queued } = this
    const bytes = this.#attempt?.download.ingest.prefix ?? 0
    return { bytes, size, followers: this.#audience.count, queued }
  }

  /** Resolves at the next change of any getter. @throws the signal's reason */
  changed(signal: AbortSignal): Promise<void> {
    return this.#changed.wait(signal)
  }

  /**
   * Resolves when a client may have its first byte, or when it is clear that there will be none: while an upstream
   * sends a head and nothing more, the client must still be able to turn to another source.
   *
   * @throws OciError when it cannot, the signal's reason when that comes first
   */
  async begun(signal: AbortSignal): Promise<'begun' | 'absent' | 'diverted'> {
    for (;;) {
      const phase = this.#phase
      if (phase.is === 'failed') throw phase.error
      if (phase.is === 'absent' || phase.is === 'diverted') return phase.is
      if (phase.is === 'verified' || this.#givesOut) return 'begun'
      await this.changed(signal)
    }
  }

  /** A blob small enough to be held back as a whole gives out nothing before it is verified. */
  get #givesOut(): boolean {
    const download = this.#attempt?.download
    if (download?.answered !== true || download.contested) return false
    const { prefix } = download.ingest
    return prefix > 0 && (download.size ?? prefix) > HOLD_BACK
  }

  /** Time since upstream was asked, while no client may have a byte yet. */
  get silentMs(): number {
    if (this.#askedAt === undefined || this.#givesOut) return 0
    return Math.floor(performance.now() - this.#askedAt)
  }

  /** Bytes have come that the disk has not taken yet. */
  get isWriting(): boolean {
    return this.#attempt?.download.isWriting === true
  }

  /** It waits for a transfer slot: its size is all that is known. */
  get queued(): boolean {
    return this.#phase.is === 'running' && this.#attempt === undefined
  }

  /** Adds a follower, until it is disposed. Only while the fill has not settled, or is followed. */
  follow(): Disposable {
    return this.#audience.join()
  }

  /** It is being given up, or is over: no client may join it. */
  get stopping(): boolean {
    return this.#ended || (this.#abort.signal.aborted && this.#phase.is === 'running')
  }

  /** Gives it up; the bytes that are here are kept for the next time. */
  stop(): void {
    this.#abort.abort(new UpstreamError('unreachable', this.origin.upstream.key, 'the download was given up'))
  }

  /** Wakes followers at once for the first byte, and afterwards only every few milliseconds. */
  #grew(): void {
    if (this.#flows) this.#changed.wakeSoon()
    else {
      this.#flows = this.#givesOut
      this.#changed.wake()
    }
  }

  #reorder(): void {
    this.origin.slots.reconsider()
  }

  #abandoned(): void {
    if (this.#worthFinishing()) this.#reorder()
    else this.stop()
  }

  #worthFinishing(): boolean {
    const policy = this.#context.finishAbandoned()
    if (this.#phase.is !== 'running') return true
    // Upstream was not even asked yet, so there is nothing to finish; a client can order a thousand at no cost.
    if (this.queued || this.transient) return false
    const { size } = this
    // A body of unknown length might never end, so it does not go on without followers.
    if (size === undefined) return false
    if (policy === 'always') return true
    if (policy === 'never') return false
    return (this.#attempt?.download.ingest.prefix ?? 0) >= size * policy.fraction
  }

  async #run(): Promise<void> {
    const { metrics, log, client } = this.#context
    const upstream = this.origin.upstream.key
    // A fill in memory is no download of the cache: the request of its one client is counted and logged instead.
    const isCounted = client === undefined
    const endTimer = metrics.fillDuration.startTimer({ upstream })
    if (isCounted) metrics.fillsInFlight.inc()
    try {
      await this.#download()
    } catch (error) {
      const { is } = this.#phase
      if (is === 'running') {
        const told = refusal(error)
        if (isCounted) log.info({ err: error, upstream, digest: this.digest }, 'fill failed')
        this.#become({ is: 'failed', error: told })
      } else {
        log.error({ err: error, digest: this.digest }, 'fill ended badly')
      }
    } finally {
      if (isCounted) endTimer({ result: this.#phase.is })
      await this.#pass()
      if (isCounted) metrics.fillsInFlight.dec()
      this.#ended = true
      this.#changed.wake()
      this.#audience.over()
      // Diverted followers keep what they still have to read; no other client reads here then.
      if (this.#phase.is === 'diverted') this.#audience.letGo()
    }
  }

  #begin(attempt: Attempt): void {
    this.#attempt = attempt
    this.#askedAt = performance.now()
    this.#audience.keep(attempt.download.ingest.retain())
  }

  async #download(): Promise<void> {
    const outcome = await this.#attempts.run(this.#abort.signal)
    if (outcome.is !== 'diverted') this.#become({ is: outcome.is })
    if (outcome.is === 'verified') await this.#land(outcome.attempt, outcome.file)
  }

  /** Adopts the verified file as a blob, where it may stay. */
  async #land({ reservation }: Attempt, file: VerifiedFile): Promise<void> {
    await reservation.reckon(file.size)
    if (reservation.stays) await reservation.adopt(file, (blob) => this.#context.onAdopted(this, blob))
  }

  /** A transient blob is deleted when its last follower has gone. */
  async #pass(): Promise<void> {
    const reservation = this.#attempt?.reservation
    if (this.#phase.is !== 'verified' || reservation === undefined || reservation.stays) return
    await this.#audience.gone(this.#abort.signal)
    await reservation.discard()
  }

  #divert(error: unknown): void {
    const { health } = this.#context
    if (error === undefined) health.skipped()
    else health.writeFailed('a download', error)
    this.#become({ is: 'diverted' })
  }

  #become(phase: Phase): void {
    this.#phase = phase
    this.#changed.wake()
  }
}
