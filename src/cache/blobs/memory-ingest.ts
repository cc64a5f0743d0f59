/**
 * Memory-backed ingest for one reader, with backpressure: a window between what upstream sent and the reader took.
 *
 * The reader takes every byte once and in order. A whole blob is hashed on its way out, so that the bytes of a second
 * try can be compared with what the reader already has. A range has no digest and is never verified.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { once } from 'node:events'
import { createHash, type Hash } from 'node:crypto'
import { Condition } from '../../base/condition.ts'
import { algorithmOf, hexOf } from '../../oci/digest.ts'
import { OciError } from '../../oci/errors.ts'
import type { Ingest, IngestIdentity, VerifiedFile } from '../../storage/ingest/ingest.ts'
import { HOLD_BACK } from './hold-back.ts'

/** Larger than the hold-back, which the reader cannot take before the end. */
const WINDOW: Bytes = HOLD_BACK + 256 * 1024

/** A reader that takes nothing for so long loses upstream's connection to another download. */
const STALL_MS: Milliseconds = 10_000

/** Hash and number of the first bytes that the reader has. */
export interface Given {
  readonly hash: Hash
  readonly length: Bytes
}

interface MemoryIngestOptions {
  readonly identity: IngestIdentity
  /** Where the reader begins: the bytes before it are hashed, and not given out. */
  readonly from: Bytes
  /** The end of a range, outside of which nothing is fetched; undefined: the whole blob. */
  readonly end?: Bytes | undefined
  /** The reader has these bytes from elsewhere: they are not fetched again. */
  readonly had?: Given | undefined
  /** The reader has these bytes of an earlier try: they are fetched again, and must be the same. */
  readonly same?: Given | undefined
}

export class MemoryIngest implements Ingest {
  readonly identity: IngestIdentity
  readonly inherited = 0
  readonly #options: MemoryIngestOptions
  readonly #taken = new Condition()
  readonly #chunks: Buffer[] = []
  /** Hash of the bytes before {@link #start}. */
  readonly #hash: Hash
  /** Where the window begins. */
  #start: Bytes
  /** Where the window ends. */
  #arrived: Bytes

  constructor(options: MemoryIngestOptions) {
    const { identity, from, end, had } = options
    this.identity = identity
    this.#options = options
    this.#hash = had?.hash.copy() ?? createHash(algorithmOf(identity.digest))
    this.#start = end === undefined ? (had?.length ?? 0) : from
    this.#arrived = this.#start
  }

  /** For a second try, which gives out nothing before its first bytes equal what the reader has. */
  again(): MemoryIngest {
    const { identity, from, had } = this.#options
    const hasBytes = had !== undefined || this.#start > from
    const given = hasBytes ? { hash: this.#hash, length: this.#start } : undefined
    return new MemoryIngest({ identity, from: Math.max(this.#start, from), same: given })
  }

  get prefix(): Bytes {
    const { end = Number.POSITIVE_INFINITY } = this.#options
    return this.#arrived < end ? this.#arrived : Number.POSITIVE_INFINITY
  }

  async drained(signal: AbortSignal): Promise<boolean> {
    while (this.#arrived - this.#start > WINDOW) {
      const stalled = AbortSignal.timeout(STALL_MS)
      try {
        await this.#taken.wait(AbortSignal.any([signal, stalled]))
      } catch (error) {
        if (error !== stalled.reason) throw error
        return false
      }
    }
    return true
  }

  nextExtent(): Bytes {
    return this.#options.end ?? Number.POSITIVE_INFINITY
  }

  readableTo(position: Bytes): Bytes {
    return position < this.#start ? position : Math.max(position, this.#arrived)
  }

  /** @throws OciError when a second try differs from what the reader has of the first */
  async write(chunks: readonly Buffer[]): Promise<void> {
    for (const chunk of chunks) {
      const hidden = chunk.subarray(0, Math.max(this.#options.from - this.#arrived, 0))
      this.#arrived += chunk.length
      if (hidden.length > 0) this.#pass(hidden)
      if (hidden.length < chunk.length) this.#chunks.push(chunk.subarray(hidden.length))
    }
    return Promise.resolve()
  }

  async read(buffer: Buffer): Promise<Bytes> {
    let length = 0
    for (
      let first = this.#chunks[0];
      first !== undefined && length < buffer.length;
      first = this.#chunks[0]
    ) {
      const count = first.copy(buffer, length)
      length += count
      if (count === first.length) this.#chunks.shift()
      else this.#chunks[0] = first.subarray(count)
    }
    this.#pass(buffer.subarray(0, length))
    this.#taken.wake()
    return Promise.resolve(length)
  }

  #pass(bytes: Buffer): void {
    const { end, same } = this.#options
    if (end === undefined) this.#hash.update(bytes)
    this.#start += bytes.length
    if (same === undefined || this.#start !== same.length) return
    if (!digestOf(this.#hash).equals(digestOf(same.hash))) {
      throw new OciError('BAD_GATEWAY', undefined, { message: 'the bytes sent so far were wrong' })
    }
  }

  /** @throws the signal's reason, for a range, as soon as its reader has gone */
  async verify(size: Bytes, signal: AbortSignal): Promise<VerifiedFile | undefined> {
    const { digest } = this.identity
    if (this.#options.end !== undefined) {
      if (!signal.aborted) await once(signal, 'abort')
      throw signal.reason
    }
    const whole = this.#hash.copy()
    for (const chunk of this.#chunks) whole.update(chunk)
    if (whole.digest('hex') !== hexOf(digest)) return undefined
    const nothing = (): Promise<void> => Promise.resolve()
    const file: Partial<VerifiedFile> = { digest, size, path: '', sync: nothing, adopted: nothing }
    return file as VerifiedFile
  }

  retain(): Disposable {
    return { [Symbol.dispose]: () => undefined }
  }

  disown(): void {
    // It ends with its reader, and is never kept.
  }

  keep(): Promise<void> {
    return Promise.resolve()
  }

  discard(): Promise<void> {
    return Promise.resolve()
  }
}

function digestOf(hash: Hash): Buffer {
  return hash.copy().digest()
}
