/**
 * Memory-backed fill for one client, past the disk: hashed and held back all the same, kept nowhere.
 *
 * Used while storage refuses writes, and for the rest of a blob when it refused half-way. Costs upstream one
 * transfer per client; that is the price of never failing a pull because of the cache.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { createHash, type Hash } from 'node:crypto'
import type { Logger } from 'pino'
import { algorithmOf, hexOf, type Digest } from '../../oci/digest.ts'
import { OciError } from '../../oci/errors.ts'
import type { RepositoryName } from '../../oci/reference.ts'
import type { ByteSource } from '../../storage/blobs/blob-store.ts'
import type { GrowingSource } from '../../storage/ingest/ingest.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import { UpstreamError } from '../../upstream/upstream.ts'
import type { ByteRange } from '../answers.ts'
import { byteLength, slice } from '../download/chunks.ts'
import { MAX_UNTOLD_SIZE } from '../download/download.ts'
import { HOLD_BACK, holdsBack } from './hold-back.ts'
import type { Origin } from '../origin.ts'
import { RetryBudget } from '../download/retry-budget.ts'
import { corruptRefusal, refusal } from '../resilience/client-errors.ts'
import { abandonable } from '../../base/condition.ts'

const STEP: Bytes = 256 * 1024
/** How long a client may take nothing before upstream's connection goes to somebody else. */
const STALL_MS: Milliseconds = 10_000

interface BypassOptions {
  readonly origin: Origin
  readonly name: RepositoryName
  readonly digest: Digest
  readonly size: Bytes | undefined
  /** Undefined: the whole blob. It, and a part that reaches its end, is verified; others are given as they come. */
  readonly range: ByteRange | undefined
  /** What the client already has of it, and where to read that again for the hash. */
  readonly sent: { readonly from: GrowingSource; readonly to: Bytes } | undefined
  /** The client has the head of a response. */
  readonly promised: boolean
  readonly headerBudgetMs: Milliseconds
  /** The most that is taken of a blob whose size nobody tells. Default {@link MAX_UNTOLD_SIZE}. */
  readonly maxUntoldSize?: Bytes | undefined
  readonly metrics: Metrics
  readonly log: Logger
}

export class BypassSource implements ByteSource {
  readonly #abort = new AbortController()
  readonly #transfer: Transfer
  readonly #chunks: AsyncGenerator<Buffer, void>
  /** The next chunk, while it is waited for. */
  #coming: Promise<void> | undefined
  #rest: Buffer | undefined
  #ended = false

  private constructor(asked: BypassOptions) {
    const { sent } = asked
    // A reader of a part may have begun where the file has nothing before it: then all is read from upstream.
    const known = sent !== undefined && sent.from.readableTo(0) >= sent.to
    const options = known ? asked : { ...asked, sent: undefined }
    this.#transfer = new Transfer(options, this.#abort.signal)
    const { range, size } = options
    this.#chunks =
      range === undefined
        ? verified(options, this.#transfer)
        : holdsBack(size, range)
          ? part(verified(options, this.#transfer), range, options.sent?.to ?? 0)
          : this.#transfer.bytes(range.start, range.end)
  }

  /**
   * Resolves when the first bytes may be sent; a body of at most 64 KiB is verified by then. A larger one may
   * still be waiting for its turn when the header budget is over.
   *
   * @throws OciError when upstream cannot, or has not; the signal's reason
   */
  static async open(options: BypassOptions, signal: AbortSignal): Promise<BypassSource> {
    const source = new BypassSource(options)
    const budget = AbortSignal.timeout(options.headerBudgetMs)
    try {
      await source.#fill(options.promised ? signal : AbortSignal.any([signal, budget]))
    } catch (error) {
      const late = error === budget.reason && !signal.aborted
      if (!late || !source.#transfer.queued || (options.size ?? 0) <= HOLD_BACK) {
        await source[Symbol.asyncDispose]()
        if (!late) throw error
        const { name, origin } = options
        const { state, upstream } = origin
        const failure = new UpstreamError('unreachable', upstream.key, 'no answer within the header budget')
        if (!source.#transfer.queued) state.failed(name, failure)
        throw refusal(failure)
      }
    }
    source.#transfer.promised = true
    return source
  }

  async read(buffer: Buffer, signal: AbortSignal): Promise<Bytes> {
    await this.#fill(signal)
    if (this.#rest === undefined) return 0
    const length = this.#rest.copy(buffer)
    this.#rest = length < this.#rest.length ? this.#rest.subarray(length) : undefined
    return length
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort(new Error('nobody reads the bypass any more'))
    this.#ended = true
    // The generator may be waiting for upstream: the abort above wakes it, what it throws is not news.
    await this.#chunks.return().catch(() => undefined)
  }

  /** Until there is something to read, or nothing more to come. */
  async #fill(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted()
    if (this.#rest !== undefined || this.#ended) return
    this.#coming ??= this.#next()
    await abandonable(this.#coming, signal)
  }

  async #next(): Promise<void> {
    try {
      const { value, done } = await this.#chunks.next()
      this.#ended ||= done === true
      this.#rest = value ?? undefined
      this.#coming = undefined
    } catch (error) {
      throw refusal(error)
    }
  }
}

/** What the client has: the bytes before `length`. */
interface Given {
  readonly hash: Hash
  length: Bytes
}

/**
 * The blob from where the client is, its last 64 KiB only when the whole has the digest. If it has not, the
 * blob is asked for once more; the client hears nothing of it when what it has was right.
 */
async function* verified(options: BypassOptions, transfer: Transfer): AsyncGenerator<Buffer, void> {
  const { digest, origin, metrics, log } = options
  const given: Given = { hash: createHash(algorithmOf(digest)), length: 0 }
  if (options.sent !== undefined) await readAgain(options.sent.from, options.sent.to, given)
  for (const again of [false, true]) {
    const held: Buffer[] = []
    let heldBytes = 0
    for await (const chunk of again
      ? past(given, options, transfer)
      : transfer.bytes(given.length, options.size)) {
      held.push(chunk)
      heldBytes += chunk.length
      for (
        let first = held[0];
        first !== undefined && heldBytes - first.length >= HOLD_BACK;
        first = held[0]
      ) {
        held.shift()
        heldBytes -= first.length
        given.hash.update(first)
        given.length += first.length
        yield first
      }
    }
    const whole = given.hash.copy()
    for (const chunk of held) whole.update(chunk)
    if (whole.digest('hex') === hexOf(digest)) {
      origin.state.forgetCorrupt(digest)
      yield* held
      return
    }
    const upstream = origin.upstream.key
    origin.upstream.avoidSourcesOf?.(digest)
    metrics.integrityFailures.inc({ upstream })
    log.warn(
      { upstream, digest, size: given.length + heldBytes, again },
      'the bytes from upstream are not what was asked for',
    )
  }
  origin.state.markCorrupt(digest)
  throw corruptRefusal(origin.upstream.key, origin.state.corruptFor(digest) ?? 0)
}

/** Of the blob from `at` on, what is in the range; the rest is read for its hash alone. */
async function* part(
  blob: AsyncGenerator<Buffer, void>,
  range: ByteRange,
  at: Bytes,
): AsyncGenerator<Buffer, void> {
  let position = at
  for await (const chunk of blob) {
    const wanted = chunk.subarray(Math.max(range.start - position, 0), Math.max(range.end - position, 0))
    position += chunk.length
    if (wanted.length > 0) yield wanted
    if (position >= range.end) return
  }
}

/** What was sent before the disk gave up. */
async function readAgain(from: GrowingSource, to: Bytes, given: Given): Promise<void> {
  const buffer = Buffer.allocUnsafe(STEP)
  while (given.length < to) {
    const length = await from.read(buffer.subarray(0, Math.min(STEP, to - given.length)), given.length)
    given.hash.update(buffer.subarray(0, length))
    given.length += length
  }
}

/** The blob once more from byte 0, without what the client has. @throws OciError when that is not the same */
async function* past(given: Given, options: BypassOptions, transfer: Transfer): AsyncGenerator<Buffer, void> {
  const hash = createHash(algorithmOf(options.digest))
  let skip = given.length
  for await (const chunk of transfer.bytes(0, options.size)) {
    const known = chunk.subarray(0, skip)
    if (known.length > 0) {
      skip -= known.length
      hash.update(known)
      if (skip === 0 && !hash.digest().equals(given.hash.copy().digest())) {
        throw new OciError('BAD_GATEWAY', undefined, { message: 'the bytes sent so far were wrong' })
      }
    }
    if (known.length < chunk.length) yield chunk.subarray(known.length)
  }
}

/** Requests to upstream, each with its turn. */
class Transfer {
  /** The client has been told to expect the rest. */
  promised: boolean
  /** It waits its turn behind other transfers. */
  queued = false
  readonly #options: BypassOptions
  readonly #signal: AbortSignal

  constructor(options: BypassOptions, signal: AbortSignal) {
    this.#options = options
    this.#signal = signal
    this.promised = options.promised
  }

  /** Bytes [from, to) in as many requests as it takes; where nobody knows `to`, as far as upstream says. */
  async *bytes(from: Bytes, to: Bytes | undefined): AsyncGenerator<Buffer, void> {
    const { origin, maxUntoldSize = MAX_UNTOLD_SIZE } = this.#options
    const retryBudget = new RetryBudget(this.#options)
    let position = from
    let end = to
    while (end === undefined || position < end) {
      const before = position
      try {
        using turn = await this.#turn()
        const blob = await this.#ask(position, end)
        const way = { given: false }
        // A client that takes nothing must not keep others waiting; its rest is asked for anew.
        const giveWay = (): void => {
          way.given = true
          blob.cancel()
          turn[Symbol.dispose]()
        }
        try {
          end ??= blob.size
          let skip = position - blob.start
          for await (const batch of blob.body) {
            const chunks = slice(batch, skip, skip + (end ?? Number.POSITIVE_INFINITY) - position)
            skip = Math.max(skip - byteLength(batch), 0)
            for (const chunk of chunks) {
              position += chunk.length
              const stallTimer = setTimeout(giveWay, STALL_MS)
              try {
                yield chunk
              } finally {
                clearTimeout(stallTimer)
              }
            }
            if (way.given) break
            if (end !== undefined && position >= end) return
            if (end === undefined && position > maxUntoldSize) {
              throw new OciError('BAD_GATEWAY', undefined, { message: 'the blob has no end' })
            }
          }
          if (way.given) continue
          if (end === undefined || position >= end) return
          throw new UpstreamError('unreachable', origin.upstream.key, 'the body ended early')
        } finally {
          blob.cancel()
        }
      } catch (error) {
        this.#signal.throwIfAborted()
        if (!(error instanceof UpstreamError)) throw error
        const promised = this.promised || position > from
        await retryBudget.afterFailure(error, { brought: position - before, promised }, this.#signal)
      }
    }
  }

  async #turn(): Promise<Disposable> {
    this.queued = true
    try {
      const { slots } = this.#options.origin
      return await slots.acquire({ priority: () => 'asked', preempt: () => undefined }, this.#signal)
    } finally {
      this.queued = false
    }
  }

  async #ask(position: Bytes, end: Bytes | undefined) {
    const { origin, name, digest, size, range } = this.#options
    const blob = await origin.upstream.blob(name, digest, {
      from: position,
      ...((position > 0 || range !== undefined) && end !== undefined ? { to: end } : {}),
      size,
      committed: this.promised,
      signal: this.#signal,
    })
    if (blob === undefined) throw new OciError('BLOB_UNKNOWN', { digest })
    const problem =
      blob.start > position
        ? 'the answer is of another range'
        : blob.size !== undefined && size !== undefined && blob.size !== size
          ? `the blob is said to be ${blob.size} bytes instead of ${size}`
          : undefined
    if (problem !== undefined) {
      blob.cancel()
      throw new UpstreamError('broken', origin.upstream.key, problem)
    }
    origin.state.answered(name)
    return blob
  }
}
