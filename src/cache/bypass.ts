/**
 * A stream past the disk, for one client: hashed and held back all the same, kept nowhere.
 *
 * Used while storage refuses writes, and for the rest of a blob when it refused half-way. Costs upstream one
 * transfer per client; that is the price of never failing a pull because of the cache.
 */
import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { algorithmOf, hexOf, type Digest } from '../oci/digest.ts'
import { OciError } from '../oci/errors.ts'
import type { RepositoryName } from '../oci/reference.ts'
import type { ByteSource, Bytes } from '../store/blob-store.ts'
import type { GrowingSource } from '../store/ingest.ts'
import { UpstreamError } from '../upstream/upstream.ts'
import type { ByteRange } from './answers.ts'
import { byteLength, slice } from './chunks.ts'
import { HOLD_BACK } from './follower.ts'
import type { Origin } from './origin.ts'
import { refusal } from './refusals.ts'

const MAX_IDLE_TRIES = 5
const STEP: Bytes = 256 * 1024

interface BypassOptions {
  readonly origin: Origin
  readonly name: RepositoryName
  readonly digest: Digest
  readonly size: Bytes | undefined
  /** Undefined: the whole blob, verified. A part is given as it comes. */
  readonly range: ByteRange | undefined
  /** What the client already has of it, and where to read that again for the hash. */
  readonly sent?: { readonly from: GrowingSource; readonly to: Bytes }
}

export class BypassSource implements ByteSource {
  readonly #abort = new AbortController()
  readonly #chunks: AsyncGenerator<Buffer, void>
  #rest: Buffer | undefined
  #ended = false

  private constructor(options: BypassOptions) {
    this.#chunks =
      options.range === undefined
        ? verified(options, this.#abort.signal)
        : transfer(options, options.range.start, options.range.end, this.#abort.signal)
  }

  /**
   * Resolves when the first bytes may be sent; a body of at most 64 KiB is verified by then.
   *
   * @throws OciError when upstream cannot, or has not
   */
  static async open(options: BypassOptions): Promise<BypassSource> {
    const source = new BypassSource(options)
    try {
      await source.#next()
      return source
    } catch (error) {
      await source[Symbol.asyncDispose]()
      throw refusal(error)
    }
  }

  async read(buffer: Buffer, signal: AbortSignal): Promise<Bytes> {
    const aborted = (): void => this.#abort.abort(signal.reason)
    if (signal.aborted) aborted()
    signal.addEventListener('abort', aborted, { once: true })
    try {
      if (this.#rest === undefined && !this.#ended) await this.#next()
    } finally {
      signal.removeEventListener('abort', aborted)
    }
    if (this.#rest === undefined) return 0
    const length = this.#rest.copy(buffer)
    this.#rest = length < this.#rest.length ? this.#rest.subarray(length) : undefined
    return length
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort()
    this.#ended = true
    // The generator may be waiting for upstream: the abort above wakes it, what it throws is not news.
    await this.#chunks.return().catch(() => undefined)
  }

  async #next(): Promise<void> {
    const { value, done } = await this.#chunks.next()
    this.#ended = done === true
    this.#rest = value ?? undefined
  }
}

/** The blob from where the client is, its last 64 KiB only when the whole has the digest. */
async function* verified(options: BypassOptions, signal: AbortSignal): AsyncGenerator<Buffer, void> {
  const { digest, sent } = options
  const hash = createHash(algorithmOf(digest))
  let length = sent?.to ?? 0
  if (sent !== undefined) {
    const buffer = Buffer.allocUnsafe(STEP)
    for (let at = 0; at < sent.to;) {
      const read = await sent.from.read(buffer.subarray(0, Math.min(STEP, sent.to - at)), at)
      hash.update(buffer.subarray(0, read))
      at += read
    }
  }
  const held: Buffer[] = []
  let heldBytes = 0
  for await (const chunk of transfer(options, length, options.size, signal)) {
    hash.update(chunk)
    length += chunk.length
    held.push(chunk)
    heldBytes += chunk.length
    for (let first = held[0]; first !== undefined && heldBytes - first.length >= HOLD_BACK; first = held[0]) {
      held.shift()
      heldBytes -= first.length
      yield first
    }
  }
  if (hash.digest('hex') !== hexOf(digest)) {
    throw new OciError(
      'BAD_GATEWAY',
      { upstream: options.origin.upstream.key, length },
      { message: `${options.origin.upstream.key} sent bytes that are not this digest` },
    )
  }
  yield* held
}

/** Bytes [from, to) in as many requests as it takes; without `to`, as far as upstream's framing says. */
async function* transfer(
  options: BypassOptions,
  from: Bytes,
  to: Bytes | undefined,
  signal: AbortSignal,
): AsyncGenerator<Buffer, void> {
  const { origin, name, digest } = options
  let position = from
  for (let idle = 0; to === undefined || position < to;) {
    const before = position
    try {
      using slot = await origin.slots.acquire({ priority: () => 'asked', preempt: () => undefined }, signal)
      const blob = await origin.upstream.blob(name, digest, {
        from: position,
        ...(position > 0 && to !== undefined ? { to } : {}),
        signal,
      })
      if (blob === undefined) throw new OciError('BLOB_UNKNOWN', { digest })
      try {
        let skip = position - blob.start
        if (skip < 0) throw new UpstreamError('broken', origin.upstream.key, 'the answer is of another range')
        for await (const batch of blob.body) {
          const room = to === undefined ? Number.POSITIVE_INFINITY : to - position
          const chunks = slice(batch, skip, skip + room)
          skip = Math.max(skip - byteLength(batch), 0)
          for (const chunk of chunks) {
            position += chunk.length
            yield chunk
          }
          if (to !== undefined && position >= to) return
        }
        if (to === undefined) return
        throw new UpstreamError('unreachable', origin.upstream.key, 'the body ended early')
      } finally {
        blob.cancel()
      }
    } catch (error) {
      signal.throwIfAborted()
      if (!(error instanceof UpstreamError) || error.failure === 'denied' || position === from) throw error
      idle = position > before ? 0 : idle + 1
      if (idle > MAX_IDLE_TRIES) throw error
      await sleep(Math.random() * 200 * 2 ** idle, undefined, { signal })
    }
  }
}
