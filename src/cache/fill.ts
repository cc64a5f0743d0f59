/**
 * One blob on its way from an upstream into the cache, whoever waits for it.
 *
 * A fill belongs to nobody's request: a client that leaves closes its follower, not the download. Nothing is
 * adopted that does not have its digest; when the bytes are wrong they are fetched once more from the start
 * before any client hears of it. When the disk will not take them, the fill is `diverted` and every follower
 * goes on with a stream of its own.
 *
 *     running -> verified -> (adopted)      running -> absent | failed | diverted
 */
import type { Logger } from 'pino'
import type { Digest } from '../oci/digest.ts'
import type { RepositoryName } from '../oci/reference.ts'
import type { BlobInfo, BlobStore, Bytes } from '../store/blob-store.ts'
import type { Holds } from '../store/holds.ts'
import type { IngestStore, VerifiedFile } from '../store/ingest.ts'
import type { Locks } from '../store/locks.ts'
import type { Metrics } from '../telemetry/metrics.ts'
import type { TransferPriority } from '../upstream/slots.ts'
import { UpstreamError } from '../upstream/upstream.ts'
import { Attempt } from './attempt.ts'
import { Download } from './download.ts'
import type { FillLease } from './fill-lease.ts'
import { HOLD_BACK } from './hold-back.ts'
import type { Origin } from './origin.ts'
import { corruptRefusal, refusal } from './refusals.ts'
import type { StorageHealth } from './storage-health.ts'
import { Turn } from './turn.ts'
import { Waiters } from './waiters.ts'

/** What becomes of a download that nobody waits for any more; `fraction` of the size already here is enough. */
export type FinishAbandoned = 'always' | 'never' | { readonly fraction: number }

/** What all fills share. */
export interface FillContext {
  readonly store: BlobStore
  readonly ingests: IngestStore
  readonly lease: FillLease
  /** Of a blob, from its adoption until the index knows it: what collects garbage takes it too. */
  readonly locks: Locks
  /** Nothing takes a blob away while it comes, or is followed. */
  readonly holds: Holds
  readonly health: StorageHealth
  readonly metrics: Metrics
  readonly log: Logger
  readonly finishAbandoned: () => FinishAbandoned
  /** The most that is taken of a blob whose size nobody tells. Default {@link MAX_UNTOLD_SIZE}. */
  readonly maxUntoldSize?: Bytes | undefined
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

const NEVER = new AbortController().signal

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
  readonly #changed = new Waiters()
  readonly #abort = new AbortController()
  #phase: Phase = { is: 'running' }
  #expectedSize: Bytes | undefined
  #attempt: Attempt | undefined
  #askedAt: number | undefined
  #followers = 0
  #ended = false
  /** Keeps the files of all attempts open for whoever may still open a reader, and the blob where it is. */
  readonly #files: Disposable[] = []

  constructor(context: FillContext, request: FillRequest) {
    this.#context = context
    this.origin = request.origin
    this.digest = request.digest
    this.name = request.name
    this.#expectedSize = request.size
    this.names.add(request.name)
    this.#files.push(context.holds.hold(request.digest))
    this.settled = this.#run()
  }

  get phase(): Phase {
    return this.#phase
  }

  /** Of the blob; undefined while nobody knows. Without a descriptor it may be another after a mismatch. */
  get size(): Bytes | undefined {
    const download = this.#attempt?.download
    if (this.#phase.is === 'verified') return download?.ingest.prefix
    return download?.size ?? this.#expectedSize
  }

  /** The bytes that followers read now. */
  get attempt(): Attempt | undefined {
    return this.#attempt
  }

  /** What nobody waits for, not yet or not any more, goes behind what somebody does. */
  get #priority(): TransferPriority {
    return this.#followers > 0 ? 'asked' : 'ahead'
  }

  /** How far it is, for people. */
  get progress(): FillProgress {
    const { size, queued } = this
    const bytes = this.#attempt?.download.ingest.prefix ?? 0
    return { bytes, size, followers: this.#followers, queued }
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
    if (download?.answered !== true) return false
    const { prefix } = download.ingest
    return prefix > 0 && (download.size ?? prefix) > HOLD_BACK
  }

  /** Since upstream was asked, without a byte that a client may have. */
  get silentMs(): number {
    if (this.#askedAt === undefined || this.#givesOut) return 0
    return Math.floor(performance.now() - this.#askedAt)
  }

  /** It waits its turn behind other transfers: its size is all that can be said. */
  get queued(): boolean {
    return this.#phase.is === 'running' && this.#attempt === undefined
  }

  /** A reader has come; it goes by disposing what it got. Only while the fill has not settled, or is followed. */
  follow(): Disposable {
    this.#followers += 1
    if (this.#followers === 1) this.origin.slots.reconsider()
    let gone = false
    return {
      [Symbol.dispose]: () => {
        if (gone) return
        gone = true
        this.#followers -= 1
        if (this.#followers === 0) {
          if (this.#worthFinishing()) this.origin.slots.reconsider()
          else this.stop()
        }
        this.#closeFiles()
      },
    }
  }

  /** It comes to no good end any more: nobody may join it. */
  get stopping(): boolean {
    return this.#abort.signal.aborted && this.#phase.is === 'running'
  }

  /** Gives it up; what is there is kept for the next time. */
  stop(): void {
    this.#abort.abort(new UpstreamError('unreachable', this.origin.upstream.key, 'the download was given up'))
  }

  #worthFinishing(): boolean {
    const policy = this.#context.finishAbandoned()
    if (this.#phase.is !== 'running') return true
    // Upstream was not even asked yet: there is nothing to finish, and a thousand of these are cheap to order.
    if (this.queued) return false
    const { size } = this
    // Nor may a body whose end nobody knows go on for nobody: it might have none.
    if (size === undefined) return false
    if (policy === 'always') return true
    if (policy === 'never') return false
    return (this.#attempt?.download.ingest.prefix ?? 0) >= size * policy.fraction
  }

  #closeFiles(): void {
    // Who goes on past the disk keeps what it still has to read; nobody else reads here then.
    if (!this.#ended || (this.#followers > 0 && this.#phase.is !== 'diverted')) return
    for (const file of this.#files.splice(0)) file[Symbol.dispose]()
  }

  async #run(): Promise<void> {
    const { metrics, log } = this.#context
    const endTimer = metrics.fillDuration.startTimer({ upstream: this.origin.upstream.key })
    metrics.fillsInFlight.inc()
    try {
      await this.#download()
    } catch (error) {
      const { is } = this.#phase
      if (is === 'running') {
        const told = refusal(error)
        log.info({ err: error, upstream: this.origin.upstream.key, digest: this.digest }, 'fill failed')
        this.#become({ is: 'failed', error: told })
      } else {
        log.error({ err: error, digest: this.digest }, 'fill ended badly')
      }
    } finally {
      metrics.fillsInFlight.dec()
      endTimer({ result: this.#phase.is })
      this.#ended = true
      this.#changed.wake()
      this.#closeFiles()
    }
  }

  async #download(): Promise<void> {
    const { signal } = this.#abort
    const lease = await this.#context.lease.acquire(this.origin.upstream.key, this.digest, signal)
    if ('runsAt' in lease) throw new Error('fills of other processes cannot be followed yet')
    await using held = lease.held

    const first = await this.#try(false, signal)
    if (first !== 'mismatch') return
    // Once more, from byte 0 and beside the first, before anybody is told: followers hold what they have.
    const earlier = this.#attempt
    try {
      if ((await this.#try(true, signal)) !== 'mismatch') return
      await this.#discard(this.#attempt)
    } finally {
      await this.#discard(earlier)
    }
    const { state, upstream } = this.origin
    state.markCorrupt(this.digest)
    throw corruptRefusal(upstream.key, state.corruptFor(this.digest) ?? 0)
  }

  /** One attempt: download, verify, adopt. Only a mismatch is left to the caller. */
  async #try(again: boolean, signal: AbortSignal): Promise<'done' | 'mismatch'> {
    const { health } = this.#context
    if (health.resting) {
      health.spared()
      this.#become({ is: 'diverted' })
      return 'done'
    }
    // A file is opened when there are bytes to come: those that wait their turn cost nothing but memory.
    using turn = await Turn.take(this.origin.slots, () => this.#priority, signal)
    const earlier = this.#attempt
    const attempt = await this.#open(again, turn)
    if (attempt === undefined) return 'done'
    try {
      const result = await attempt.run(signal)
      if (result === 'absent') {
        this.#become({ is: 'absent' })
        return 'done'
      }
      if (result === 'wrong') {
        this.#reportWrong(attempt, again)
        return 'mismatch'
      }
      await earlier?.compareWith(attempt)
      this.origin.state.forgetCorrupt(this.digest)
      this.#become({ is: 'verified' })
      await this.#adopt(result)
      return 'done'
    } catch (error) {
      if (error instanceof UpstreamError || signal.aborted) {
        await attempt.putAside()
        throw error
      }
      this.#divert(error)
      await this.#discard(attempt)
      return 'done'
    }
  }

  /** A file, and a download into it that is yet to run; undefined: the disk would not have it. */
  async #open(again: boolean, turn: Turn): Promise<Attempt | undefined> {
    const { ingests, metrics, log, maxUntoldSize } = this.#context
    const { origin, name, digest } = this
    try {
      const what = { source: origin.upstream.key, digest }
      const ingest = await ingests.open(what, again ? { fresh: true } : {})
      const download = new Download({
        origin,
        name,
        digest,
        ingest,
        size: this.#expectedSize,
        turn,
        priority: () => this.#priority,
        onChange: () => this.#changed.wake(),
        maxUntoldSize,
        metrics,
        log,
      })
      this.#attempt = new Attempt(download)
      this.#askedAt = performance.now()
      this.#files.push(ingest.retain())
      return this.#attempt
    } catch (error) {
      this.#divert(error)
      return undefined
    }
  }

  #reportWrong({ download }: Attempt, again: boolean): void {
    const { metrics, log } = this.#context
    const { origin, digest } = this
    metrics.integrityFailures.inc({ upstream: origin.upstream.key })
    log.warn(
      { upstream: origin.upstream.key, digest, size: download.ingest.prefix, again },
      'the bytes from upstream are not what was asked for',
    )
    origin.upstream.distrust?.(digest)
  }

  /** Followers have all they need by now; a failure here costs the next pull a download, nothing else. */
  async #adopt(file: VerifiedFile): Promise<void> {
    const { store, locks, health, log } = this.#context
    try {
      using _held = await locks.exclusive(`blob ${this.digest}`, NEVER)
      const blob = await store.adopt(file)
      health.worked()
      await this.#context.onAdopted(this, blob)
    } catch (error) {
      health.refused('a verified blob', error)
      log.debug({ err: error, digest: this.digest }, 'not adopted')
      await this.#discard(this.#attempt)
    }
  }

  async #discard(attempt: Attempt | undefined): Promise<void> {
    try {
      await attempt?.download.ingest.discard()
    } catch (error) {
      this.#context.log.debug({ err: error, digest: this.digest }, 'a partial stays behind')
    }
  }

  #divert(error: unknown): void {
    this.#context.health.refused('a download', error)
    this.#become({ is: 'diverted' })
  }

  #become(phase: Phase): void {
    this.#phase = phase
    this.#changed.wake()
  }
}
