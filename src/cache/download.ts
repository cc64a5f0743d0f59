/**
 * One try to bring a whole blob into one ingest, in as many requests as it takes.
 *
 * A cut is continued with `Range` from the first gap. A reader far ahead of the rest gets a run of its own into
 * the same file, which the main run then skips: no byte is asked for twice.
 */
import type { Logger } from 'pino'
import type { Digest } from '../oci/digest.ts'
import type { RepositoryName } from '../oci/reference.ts'
import type { Bytes } from '../store/blob-store.ts'
import type { Ingest } from '../store/ingest.ts'
import type { Metrics } from '../telemetry/metrics.ts'
import type { TransferPriority } from '../upstream/slots.ts'
import { UpstreamError, type UpstreamBlob } from '../upstream/upstream.ts'
import { byteLength, slice } from './chunks.ts'
import type { Origin } from './origin.ts'
import type { Segments } from './segments.ts'
import { Patience } from './patience.ts'
import { Turn } from './turn.ts'
import { Waiters } from './waiters.ts'

/** A reader farther than this beyond what is there, or coming, is fetched for on its own. */
const FAR_AHEAD: Bytes = 8 * 1024 * 1024
const MAX_SIDE_RUNS = 4
/** No layer is larger; a body that has no end must not fill the disk. */
export const MAX_UNTOLD_SIZE: Bytes = 16 * 1024 ** 3

/** One stretch of the file that is being written: [start, position) is there, position moves. */
interface Run {
  readonly start: Bytes
  position: Bytes
  /** Where it may stop at the latest; Infinity: at the blob's end. */
  end: Bytes
  /** It brings what everybody waits for, so it may take a body from its beginning and skip what is here. */
  readonly isMain: boolean
}

interface DownloadOptions {
  readonly origin: Origin
  readonly name: RepositoryName
  readonly digest: Digest
  readonly ingest: Ingest
  /** From a descriptor; an upstream that says another length is not believed. */
  readonly size: Bytes | undefined
  /** For the first request; given back when that is over. */
  readonly turn: Turn
  readonly priority: () => TransferPriority
  /** The most that is taken of a blob whose size nobody tells. Default {@link MAX_UNTOLD_SIZE}. */
  readonly maxUntoldSize?: Bytes | undefined
  /** After every write, and when the first answer came. */
  readonly onChange: () => void
  readonly metrics: Metrics
  readonly log: Logger
}

export class Download {
  readonly ingest: Ingest
  readonly #options: DownloadOptions
  readonly #runs = new Set<Run>()
  readonly #progress = new Waiters()
  #size: Bytes | undefined
  /** Where a body of untold length ended. */
  #found: Bytes | undefined
  #answered = false
  #firstTurn: Turn | undefined
  #tooLong = false
  #sideFailures = 0
  /** Of the pieces it is cut into; undefined while upstream has not given one. */
  #pieces: number | undefined
  /** Runs that wait for a turn. */
  #waiting = 0
  #signal: AbortSignal | undefined

  constructor(options: DownloadOptions) {
    this.#options = options
    this.ingest = options.ingest
    this.#size = options.size
    this.#firstTurn = options.turn
  }

  /** Of the blob, from the descriptor or from upstream's word; where a body happened to end is neither. */
  get size(): Bytes | undefined {
    return this.#size
  }

  /** Where this download ends, as far as anybody knows. */
  get #end(): Bytes | undefined {
    return this.#size ?? this.#found
  }

  /** More came than the blob can have. */
  get tooLong(): boolean {
    return this.#tooLong
  }

  /** Upstream has begun to deliver (or everything was here already). */
  get answered(): boolean {
    return this.#answered
  }

  /**
   * Resolves when every byte is in the ingest (unverified), or when upstream has no such blob.
   *
   * @throws UpstreamError when upstream cannot; the system's error when the disk cannot
   */
  async run(signal: AbortSignal): Promise<'complete' | 'absent'> {
    // What readers far ahead have set in motion must not outlive this: its bytes have nowhere to go then.
    const over = new AbortController()
    this.#signal = AbortSignal.any([signal, over.signal])
    try {
      return await this.#run(signal)
    } finally {
      over.abort(new Error('the download is over'))
    }
  }

  async #run(signal: AbortSignal): Promise<'complete' | 'absent'> {
    const patience = new Patience(this.#options)
    while (this.#end === undefined || this.ingest.prefix < this.#end || !this.#answered) {
      signal.throwIfAborted()
      // Everything may be here from an earlier process; that upstream still gives it under *this* name is asked.
      const start = Math.min(this.ingest.prefix, Math.max((this.#end ?? Number.POSITIVE_INFINITY) - 1, 0))
      if (this.#covered(start)) {
        await this.#progress.wait(signal)
        continue
      }
      const run: Run = { start, position: start, end: this.#pieceEnd(start), isMain: true }
      this.#runs.add(run)
      try {
        if ((await this.#transfer(run, signal)) === 'absent') return 'absent'
      } catch (error) {
        signal.throwIfAborted()
        if (!(error instanceof UpstreamError) || this.#tooLong) throw error
        if (error.status === 416 && this.#size === undefined && start > 0) {
          // Everything had arrived before the cut; only the length was unknown.
          this.#found = start
          continue
        }
        this.#options.origin.segments?.failed(error)
        const brought = run.position - run.start
        await patience.afterFailure(error, { brought, promised: this.#answered }, signal)
      } finally {
        this.#runs.delete(run)
      }
    }
    return 'complete'
  }

  /**
   * Makes sure that the bytes at `position` are on their way. Cheap: readers call it whenever they are about
   * to wait.
   */
  want(position: Bytes, end: Bytes): void {
    const signal = this.#signal
    if (signal === undefined || signal.aborted || !this.#answered || this.#size === undefined) return
    if (position < this.ingest.prefix + FAR_AHEAD || this.ingest.readableTo(position) > position) return
    if (this.#runs.size > MAX_SIDE_RUNS || this.#sideFailures > 2) return
    for (const run of this.#runs) {
      if (position >= run.start && position < run.position + FAR_AHEAD) return
    }
    const run: Run = { start: position, position, end: Math.min(end, this.#size), isMain: false }
    this.#runs.add(run)
    const done = (): void => {
      this.#runs.delete(run)
      this.#changed()
    }
    this.#transfer(run, signal).then(done, (error: unknown) => {
      if (!signal.aborted) {
        this.#sideFailures += 1
        this.#options.log.debug({ err: error, digest: this.#options.digest }, 'fetch of a far range failed')
      }
      done()
    })
  }

  /** Where a main run is to end: with its piece, where the blob is cut and upstream has not refused that. */
  #pieceEnd(start: Bytes): Bytes {
    const { segments } = this.#options.origin
    if (segments?.cuts(this.#size) !== true) return Number.POSITIVE_INFINITY
    return start + segments.lengthOf(this.#pieces ?? 0)
  }

  /** Starts as many further pieces as may be under way. Each takes a turn behind all that is asked for. */
  #spread(): void {
    const signal = this.#signal
    const { segments } = this.#options.origin
    if (signal === undefined || this.#pieces === undefined || segments?.cuts(this.#size) !== true) return
    while (this.#runs.size + this.#waiting < segments.window && this.#nextPiece(segments) !== undefined) {
      this.#waiting += 1
      this.#fetchPiece(segments, signal).catch((error: unknown) => {
        if (signal.aborted) return
        if (!segments.failed(error)) this.#sideFailures += 1
        this.#options.log.debug({ err: error, digest: this.#options.digest }, 'fetch of a piece failed')
      })
    }
  }

  async #fetchPiece(segments: Segments, signal: AbortSignal): Promise<void> {
    let turn: Turn
    try {
      turn = await Turn.take(this.#options.origin.slots, () => 'ahead', signal)
    } finally {
      this.#waiting -= 1
    }
    using held = turn
    const piece = this.#nextPiece(segments)
    if (piece === undefined) return
    const run: Run = { ...piece, position: piece.start, isMain: false }
    this.#pieces = (this.#pieces ?? 0) + 1
    this.#runs.add(run)
    try {
      await this.#request(run, AbortSignal.any([signal, held.preempted]))
    } catch (error) {
      if (!held.preempted.aborted) throw error
    } finally {
      this.#runs.delete(run)
      this.#changed()
    }
  }

  /** The first stretch that is neither here nor on its way. */
  #nextPiece(segments: Segments): { readonly start: Bytes; readonly end: Bytes } | undefined {
    const size = this.#size
    if (size === undefined || this.#sideFailures > 2) return undefined
    const { prefix } = this.ingest
    let start = prefix
    for (let moved = true; moved;) {
      const before = start
      start = this.ingest.readableTo(start)
      for (const run of this.#runs) if (run.start <= start && start < run.end) start = run.end
      moved = start !== before
    }
    if (start >= size || start - prefix > segments.farthest) return undefined
    const limits = [...this.#runs].map((run) => run.start).filter((it) => it > start)
    const length = segments.lengthOf(this.#pieces ?? 0)
    return { start, end: Math.min(start + length, size, this.ingest.nextExtent(start), ...limits) }
  }

  /** Another run is just writing there. */
  #covered(position: Bytes): boolean {
    for (const run of this.#runs) if (position >= run.start && position <= run.position) return true
    return false
  }

  /** Where that run must stop: the blob's end, bytes that are here, or where another run began. */
  #limit(run: Run): Bytes {
    let limit = Math.min(run.end, this.#end ?? run.end, this.ingest.nextExtent(run.position))
    for (const other of this.#runs)
      if (other !== run && other.start >= run.position) limit = Math.min(limit, other.start)
    return limit
  }

  /** One request, as far as it goes. */
  async #transfer(run: Run, signal: AbortSignal): Promise<'done' | 'absent' | 'preempted'> {
    const { origin, priority } = this.#options
    const first = this.#firstTurn
    this.#firstTurn = undefined
    using turn = first ?? (await Turn.take(origin.slots, priority, signal))
    try {
      return await this.#request(run, AbortSignal.any([signal, turn.preempted]))
    } catch (error) {
      if (turn.preempted.aborted && !signal.aborted) return 'preempted'
      throw error
    }
  }

  async #request(run: Run, signal: AbortSignal): Promise<'done' | 'absent'> {
    const { origin, name, digest } = this.#options
    const limit = this.#limit(run)
    const blob = await origin.upstream.blob(name, digest, {
      from: run.position,
      ...(Number.isFinite(limit) && (run.position > 0 || limit !== this.#size) ? { to: limit } : {}),
      size: this.#size,
      promised: this.#answered,
      signal,
    })
    if (blob === undefined) {
      if (!this.#answered) return 'absent'
      throw new UpstreamError('broken', origin.upstream.key, 'the blob disappeared while it was downloaded')
    }
    try {
      this.#learn(blob.size)
      this.#cut(run, blob)
      const ended = await this.#receive(run, blob)
      if (ended && this.#size === undefined) this.#found = run.position
      if (ended && run.position < this.#limit(run)) {
        throw new UpstreamError('unreachable', origin.upstream.key, 'the body ended early')
      }
    } finally {
      blob.cancel()
    }
    return 'done'
  }

  /** What the answer to a main run tells of ranges. */
  #cut(run: Run, { ranged = false }: UpstreamBlob): void {
    if (!run.isMain || !Number.isFinite(run.end)) return
    if (ranged) {
      this.#pieces = (this.#pieces ?? 0) + 1
      this.#spread()
      return
    }
    // It sends all of it: then all of it is taken, and nobody else is sent for a part.
    this.#options.origin.segments?.refused()
    this.#pieces = undefined
    run.end = Number.POSITIVE_INFINITY
  }

  /** Returns true when the body came to its end, false when everything wanted was there before. */
  async #receive(run: Run, { start, size, body }: UpstreamBlob): Promise<boolean> {
    if (start > run.position || (start < run.position && !run.isMain)) {
      if (!run.isMain) this.#options.origin.segments?.refused()
      // A side run is not worth skipping through what the main run brings anyway.
      throw new UpstreamError('broken', this.#options.origin.upstream.key, 'the answer is of another range')
    }
    let skip = run.position - start
    for await (const batch of body) {
      if (run.position < this.ingest.prefix) return false
      const length = byteLength(batch)
      const room = this.#limit(run) - run.position
      const chunks = slice(batch, skip, skip + room)
      const taken = byteLength(chunks)
      if (taken > 0) {
        await this.ingest.write(chunks, run.position)
        run.position += taken
        this.#changed()
      }
      if (length > skip + taken && size === undefined && run.position === this.#size) {
        // A descriptor is only what one repository says: its error must not pass for corruption.
        throw this.#excess('the blob is longer than its manifest says')
      }
      if (this.#size === undefined && run.position > (this.#options.maxUntoldSize ?? MAX_UNTOLD_SIZE)) {
        throw this.#excess('the blob has no end')
      }
      skip = Math.max(skip - length, 0)
      // Where upstream gave no length, its body has to end as well.
      const wait = size === undefined && run.position === this.#size && run.isMain
      if (this.#limit(run) <= run.position && !wait) return false
    }
    return true
  }

  /** More came than there can be: asking for the rest of it is of no use. */
  #excess(message: string): UpstreamError {
    this.#tooLong = true
    return new UpstreamError('broken', this.#options.origin.upstream.key, message, { wrongContent: true })
  }

  /** @throws UpstreamError when upstream's length is not the descriptor's */
  #learn(size: Bytes | undefined): void {
    if (size !== undefined && this.#size !== undefined && size !== this.#size) {
      throw new UpstreamError(
        'broken',
        this.#options.origin.upstream.key,
        `the blob is said to be ${String(size)} bytes instead of ${String(this.#size)}`,
        { wrongContent: true },
      )
    }
    this.#size ??= size
    this.#answered = true
    this.#options.origin.state.answered(this.#options.name)
    this.#changed()
  }

  #changed(): void {
    this.#spread()
    this.#progress.wake()
    this.#options.onChange()
  }
}
