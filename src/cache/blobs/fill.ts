/**
 * One blob on its way from an upstream into the cache, whoever waits for it.
 *
 * A fill belongs to nobody's request: a client that leaves closes its follower, not the download. Nothing is
 * adopted that does not have its digest; when the bytes are wrong they are fetched once more from the start
 * before any client hears of it. When the disk will not take them, the fill is `diverted` and every follower
 * goes on with a stream of its own. What is too large to stay does not settle before its last follower has gone.
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

/** What becomes of a download that nobody waits for any more; `fraction` of the size already here is enough. */
export type FinishAbandoned = 'always' | 'never' | { readonly fraction: number }

/** What all fills share. */
export interface FillContext extends AttemptsContext {
  /** Nothing takes a blob away while it comes, or is followed. */
  readonly holds: BlobHolds
  readonly finishAbandoned: () => FinishAbandoned
  /** Called when the blob is adopted, before the fill settles; names are those that asked for it. */
  readonly onAdopted: (fill: Fill, blob: BlobInfo) => Promise<void>
}

interface FillRequest {
  readonly origin: Origin
  readonly name: RepositoryName
  readonly digest: Digest
  /** From a descriptor that named it. */
  readonly size: Bytes | undefined
}

export interface FillProgress {
  /** Those that are here, from the first on. */
  readonly bytes: Bytes
  readonly size: Bytes | undefined
  readonly followers: number
  /** It waits its turn behind other transfers. */
  readonly queued: boolean
}

type Phase =
  | { readonly is: 'running' | 'verified' | 'absent' | 'diverted' }
  | { readonly is: 'failed'; readonly error: unknown }

export class Fill {
  readonly origin: Origin
  readonly digest: Digest
  /** The name under which upstream is asked for them. */
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
  /** Keeps the files of all attempts open for whoever may still open a reader, and the blob where it is. */
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
      // What cannot stay is fetched for somebody, or not at all.
      onTransient: () => this.#audience.count > 0 || this.stop(),
      onDiverted: (error) => this.#divert(error),
    })
    // The first client follows before a transfer slot is asked for, which is then asked for with its priority.
    this.settled = Promise.resolve().then(() => this.#run())
  }

  get phase(): Phase {
    return this.#phase
  }

  /** Of the blob; undefined while nobody knows. Without a descriptor it may be another after a mismatch. */
  get size(): Bytes | undefined {
    const download = this.#attempt?.download
    if (this.#phase.is === 'verified') return download?.ingest.prefix
    if (this.contested) return undefined
    return download?.size ?? this.#expectedSize
  }

  /** What the manifest and upstream say of its size are two things, and it is not verified yet. */
  get contested(): boolean {
    return this.#phase.is !== 'verified' && this.#attempt?.download.contested === true
  }

  /** The bytes that followers read now. */
  get attempt(): Attempt | undefined {
    return this.#attempt
  }

  /** It has turned out to be too large to stay. */
  get transient(): boolean {
    return this.#attempt?.berth.transient === true
  }

  /** What nobody waits for, not yet or not any more, goes behind what somebody does. */
  get #priority(): TransferPriority {
    return this.#audience.count > 0 ? 'asked' : 'ahead'
  }

  /** How far it is, for people. */
  get progress(): FillProgress {
    const { size, queued } = this
    const bytes = this.#attempt?.download.ingest.prefix ?? 0
    return { bytes, size, followers: this.#audience.count, queued }
  }

  /** Resolves at the next change of anything above. @throws the signal's reason */
  changed(signal: AbortSignal): Promise<void> {
    return this.#changed.wait(signal)
  }

  /**
   * Resolves when a client may have its first byte, or when it is clear that there will be none: an upstream
   * that sends a head and nothing more must not cost a client the way to somebody else.
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

  /** Of a blob that is held back as a whole nothing is given out before it is verified. */
  get #givesOut(): boolean {
    const download = this.#attempt?.download
    if (download?.answered !== true || download.contested) return false
    const { prefix } = download.ingest
    return prefix > 0 && (download.size ?? prefix) > HOLD_BACK
  }

  /** Since upstream was asked, without a byte that a client may have. */
  get silentMs(): number {
    if (this.#askedAt === undefined || this.#givesOut) return 0
    return Math.floor(performance.now() - this.#askedAt)
  }

  /** What has come waits for the disk. */
  get isWriting(): boolean {
    return this.#attempt?.download.isWriting === true
  }

  /** It waits its turn behind other transfers: its size is all that can be said. */
  get queued(): boolean {
    return this.#phase.is === 'running' && this.#attempt === undefined
  }

  /** A reader has come; it goes by disposing what it got. Only while the fill has not settled, or is followed. */
  follow(): Disposable {
    return this.#audience.join()
  }

  /** It comes to no good end any more, or is over: nobody may join it. */
  get stopping(): boolean {
    return this.#ended || (this.#abort.signal.aborted && this.#phase.is === 'running')
  }

  /** Gives it up; what is there is kept for the next time. */
  stop(): void {
    this.#abort.abort(new UpstreamError('unreachable', this.origin.upstream.key, 'the download was given up'))
  }

  /** The first bytes are news, what follows is more of the same. */
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
    // Upstream was not even asked yet: there is nothing to finish, and a thousand of these are cheap to order.
    if (this.queued || this.transient) return false
    const { size } = this
    // Nor may a body whose end nobody knows go on for nobody: it might have none.
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
      // Who goes on past the disk keeps what it still has to read; nobody else reads here then.
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

  /** Makes a blob of it, where it may stay. */
  async #land({ berth }: Attempt, file: VerifiedFile): Promise<void> {
    await berth.reckon(file.size)
    if (berth.stays) await berth.adopt(file, (blob) => this.#context.onAdopted(this, blob))
  }

  /** What may not stay is there for as long as somebody reads it. */
  async #pass(): Promise<void> {
    const berth = this.#attempt?.berth
    if (this.#phase.is !== 'verified' || berth === undefined || berth.stays) return
    await this.#audience.gone(this.#abort.signal)
    await berth.discard()
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
