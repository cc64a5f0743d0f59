/**
 * One download of a whole blob into one ingest, in as many requests as it takes.
 *
 * A broken transfer is continued with `Range` from the first gap. A large blob comes in segments, several at once
 * (`segment-scheduler.ts`). A reader far ahead of the rest gets a request of its own into the same file
 * (`seek-fetcher.ts`), whose bytes the others then skip: no byte is asked for twice.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Ingest } from '../../storage/ingest/ingest.ts'
import { releaseBuffers } from '../../storage/ingest/release-buffers.ts'
import type { TransferPriority } from '../../upstream/limits/transfer-slots.ts'
import { UpstreamError, type UpstreamBlob } from '../../upstream/upstream.ts'
import { byteLength, slice } from './chunks.ts'
import { SeekFetcher } from './seek-fetcher.ts'
import { RetryBudget, type RetryBudgetOptions } from './retry-budget.ts'
import { SegmentScheduler } from './segment-scheduler.ts'
import { RangeRequest, RangeRequests } from './range-requests.ts'
import { TransferSlot } from './transfer-slot.ts'
import { Condition } from '../../base/condition.ts'

/**
 * A write wakes a thread, however little it writes: after a smaller one the download waits so long to gather more (a
 * third of the main thread's time at 150 MB/s, measured).
 */
const WORTH_WRITING: Bytes = 256 * 1024
const GATHER_MS = 8
/** How often slow requests are looked for. */
const LOOK_EVERY_MS = 1_000
/** No layer is larger; a body that has no end must not fill the disk. */
const MAX_UNTOLD_SIZE: Bytes = 16 * 1024 ** 3

interface DownloadOptions extends RetryBudgetOptions {
  readonly ingest: Ingest
  /** From a descriptor, which may be wrong: the digest decides, not the size. */
  readonly size: Bytes | undefined
  /** For the first request; given back when that is over. */
  readonly turn: TransferSlot
  readonly priority: () => TransferPriority
  /** The owner of its transfer slots. */
  readonly owner: object
  /** Everything comes in one request, because what came in segments was wrong. */
  readonly whole: boolean
  /** The one client of a fill in memory; `size` is what it was told, and so upstream's word. */
  readonly client?: { readonly promised: boolean } | undefined
  /** The most that is taken of a blob of unknown size. Default {@link MAX_UNTOLD_SIZE}. */
  readonly maxUntoldSize?: Bytes | undefined
  /** Called after every write, and when the first answer came. */
  readonly onChange: () => void
}

export class Download {
  readonly ingest: Ingest
  readonly #options: DownloadOptions
  readonly #runs: RangeRequests
  /** Undefined: one request brings everything from the first gap to the end, whatever the size. */
  readonly #pieces: SegmentScheduler | undefined
  /** Undefined: seeks are not served out of turn. */
  readonly #seekFetcher: SeekFetcher | undefined
  readonly #progress = new Condition()
  #size: Bytes | undefined
  /** Said by upstream. */
  #told: Bytes | undefined
  #contested = false
  /** Where a body without a length ended. */
  #found: Bytes | undefined
  #answered = false
  /** Writes that the disk has not completed yet. */
  #writes = 0
  #turn: TransferSlot | undefined
  #tooLong = false
  /** Bytes that were written since the last failure of the main request, by any request. */
  #brought: Bytes = 0
  #signal: AbortSignal | undefined

  constructor(options: DownloadOptions) {
    const { ingest, origin, whole } = options
    this.#options = options
    this.ingest = ingest
    this.#size = options.size
    if (options.client !== undefined) this.#told = options.size
    this.#turn = options.turn
    this.#runs = new RangeRequests(ingest)
    if (whole) return
    const { segments, slots } = origin
    const beside = {
      ...options,
      ...{ slots, runs: this.#runs },
      fetch: (run: RangeRequest, signal: AbortSignal) => this.#request(run, signal),
      onChange: () => this.#changed(),
    }
    this.#seekFetcher = new SeekFetcher({ ...beside, now: () => this.#now })
    if (segments !== undefined)
      this.#pieces = new SegmentScheduler({ ...beside, segments, size: () => this.#size })
  }

  /** Size from the descriptor or from upstream; the place where a body happened to end is neither. */
  get size(): Bytes | undefined {
    return this.#contested ? undefined : this.#size
  }

  /** Upstream says another size than the descriptor: which of them is wrong is known when the digest is verified. */
  get contested(): boolean {
    return this.#contested
  }

  /** Where this download ends, as far as is known. */
  get #end(): Bytes | undefined {
    return this.#size ?? this.#found
  }

  get #now(): Milliseconds {
    return this.#options.origin.segments?.now ?? performance.now()
  }

  /** More bytes came than the blob can have. */
  get tooLong(): boolean {
    return this.#tooLong
  }

  /** Bytes have come that the disk has not taken yet. */
  get isWriting(): boolean {
    return this.#writes > 0
  }

  /** Upstream has begun to deliver (or everything was here already). */
  get answered(): boolean {
    return this.#answered
  }

  /** Clients have been told to expect the rest of it. */
  get #isPromised(): boolean {
    return this.#answered || this.#options.client?.promised === true
  }

  get inPieces(): boolean {
    return this.#pieces?.used === true
  }

  /**
   * Resolves when every byte is in the ingest (unverified), or when upstream has no such blob.
   *
   * @throws UpstreamError when upstream cannot; the system's error when the disk cannot
   */
  async run(signal: AbortSignal): Promise<'complete' | 'absent'> {
    // The parallel requests must not outlive this: their bytes have nowhere to go then.
    const over = new AbortController()
    const beside = AbortSignal.any([signal, over.signal])
    this.#signal = beside
    const looking = setInterval(() => this.#pieces?.look(beside), LOOK_EVERY_MS)
    try {
      return await this.#run(signal)
    } finally {
      clearInterval(looking)
      over.abort(new Error('the download is over'))
      this.#turn?.[Symbol.dispose]()
    }
  }

  async #run(signal: AbortSignal): Promise<'complete' | 'absent'> {
    const retryBudget = new RetryBudget(this.#options)
    while (this.#end === undefined || this.ingest.prefix < this.#end || !this.#answered) {
      signal.throwIfAborted()
      while ((await this.ingest.drained?.(signal)) === false) this.#giveTurnBack()
      // Everything may be here from an earlier process: upstream still has to give it under *this* name.
      const start = Math.min(this.ingest.prefix, Math.max((this.#end ?? Number.POSITIVE_INFINITY) - 1, 0))
      if (this.#runs.covers(start)) {
        this.#giveTurnBack()
        await this.#progress.wait(signal)
        continue
      }
      const end = this.#pieces?.endOf(start) ?? Number.POSITIVE_INFINITY
      const run = new RangeRequest('main', { start, end }, this.#now)
      this.#runs.add(run)
      try {
        if ((await this.#transfer(run, signal)) === 'absent') return 'absent'
      } catch (error) {
        signal.throwIfAborted()
        this.#giveTurnBack()
        if (!(error instanceof UpstreamError) || this.#tooLong) throw error
        if (error.status === 416 && this.#size === undefined && start > 0) {
          // Everything had arrived before the cut; only the length was unknown.
          this.#found = start
          continue
        }
        this.#pieces?.failed(error, run)
        // The parallel requests go on meanwhile, also where this one was.
        this.#runs.delete(run)
        const brought = this.#brought
        this.#brought = 0
        await retryBudget.afterFailure(error, { brought, promised: this.#isPromised }, signal)
      } finally {
        this.#runs.delete(run)
      }
    }
    return 'complete'
  }

  /** Makes sure that the bytes at `position` are on their way. Cheap: readers call it before each wait. */
  want(position: Bytes, end: Bytes): void {
    const signal = this.#signal
    if (signal === undefined || signal.aborted || !this.#answered || this.#size === undefined) return
    this.#seekFetcher?.want({ start: position, end: Math.min(end, this.#size) }, signal)
  }

  /** One request of the main run, as far as it goes. */
  async #transfer(run: RangeRequest, signal: AbortSignal): Promise<'done' | 'absent' | 'interrupted'> {
    const { origin, priority, owner } = this.#options
    // Other transfers that wait for a slot get one before the next segment does.
    if (this.#answered && origin.slots.contended) this.#giveTurnBack()
    const turn = (this.#turn ??= await TransferSlot.take(origin.slots, { priority, owner }, signal))
    try {
      return await this.#request(run, AbortSignal.any([signal, turn.preempted, run.over]))
    } catch (error) {
      if (signal.aborted) throw error
      if (turn.preempted.aborted) this.#giveTurnBack()
      else if (!run.over.aborted) throw error
      return 'interrupted'
    }
  }

  #giveTurnBack(): void {
    this.#turn?.[Symbol.dispose]()
    this.#turn = undefined
  }

  async #request(run: RangeRequest, signal: AbortSignal): Promise<'done' | 'absent'> {
    const { origin, name, digest } = this.#options
    const limit = this.#limit(run)
    const blob = await origin.upstream.blob(name, digest, {
      from: run.position,
      ...(Number.isFinite(limit) && (run.position > 0 || limit !== this.#size) ? { to: limit } : {}),
      // A range request takes only a 206: a whole body would repeat what the main request brings.
      partialOnly: run.kind !== 'main',
      parallel: this.#pieces?.isSpare(run) ?? run.kind !== 'main',
      size: this.#told,
      expectedSize: this.#size,
      committed: this.#isPromised,
      signal,
    })
    if (blob === undefined) {
      if (!this.#answered) return 'absent'
      throw new UpstreamError('broken', origin.upstream.key, 'the blob disappeared while it was downloaded')
    }
    try {
      this.#learn(blob.size)
      if (this.#signal !== undefined) this.#pieces?.answered(run, blob.ranged === true, this.#signal)
      const ended = await this.#receive(run, blob, signal)
      if (ended && this.#size === undefined) this.#found = run.position
      if (ended && run.position < this.#limit(run)) {
        throw new UpstreamError('unreachable', origin.upstream.key, 'the body ended early')
      }
    } finally {
      blob.cancel()
    }
    return 'done'
  }

  #limit(run: RangeRequest): Bytes {
    return this.#runs.limitOf(run, this.#end)
  }

  /** @returns true when the body came to its end, false when everything wanted was there before */
  async #receive(
    run: RangeRequest,
    { start, size, body }: UpstreamBlob,
    signal: AbortSignal,
  ): Promise<boolean> {
    const isMain = run.kind === 'main'
    if (start > run.position || (start < run.position && !isMain)) {
      if (!isMain) this.#options.origin.segments?.refused()
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
        run.taken = run.position + taken
        this.#writes += 1
        try {
          await this.ingest.write(chunks, run.position)
        } finally {
          this.#writes -= 1
        }
        run.position = run.taken
        this.#brought += taken
        this.#changed()
      }
      if (length > skip + taken && size === undefined && run.position === this.#size) {
        // A descriptor is only what one repository says: its error must not pass for corruption.
        throw this.#excess('the blob is longer than its manifest says')
      }
      if (this.#size === undefined && run.position > (this.#options.maxUntoldSize ?? MAX_UNTOLD_SIZE)) {
        throw this.#excess('the blob has no end')
      }
      if (this.ingest.drained === undefined) releaseBuffers(batch)
      else if (!(await this.ingest.drained(signal))) {
        this.#giveTurnBack()
        return false
      }
      skip = Math.max(skip - length, 0)
      // Without a length from upstream, the body must be seen to end.
      const wait = size === undefined && run.position === this.#size && isMain
      if (this.#limit(run) <= run.position && !wait) return false
      if (length < WORTH_WRITING) await sleep(GATHER_MS, undefined, { signal }).catch(() => undefined)
    }
    return true
  }

  /** More bytes came than there can be: asking for the rest is useless. */
  #excess(message: string): UpstreamError {
    this.#tooLong = true
    return new UpstreamError('broken', this.#options.origin.upstream.key, message, { wrongContent: true })
  }

  /** @throws UpstreamError when upstream says another size than before */
  #learn(size: Bytes | undefined): void {
    if (size !== undefined && this.#told !== undefined && size !== this.#told) {
      throw new UpstreamError(
        'broken',
        this.#options.origin.upstream.key,
        `the blob is said to be ${String(size)} bytes instead of ${String(this.#told)}`,
        { wrongContent: true },
      )
    }
    if (size !== undefined) {
      this.#contested ||= this.#size !== undefined && this.#size !== size
      this.#told = size
      this.#size = size
    }
    this.#answered = true
    this.#options.origin.state.answered(this.#options.name)
    this.#changed()
  }

  #changed(): void {
    if (this.#signal !== undefined) this.#pieces?.spread(this.#signal)
    this.#progress.wake()
    this.#options.onChange()
  }
}
