/**
 * Writes a request's body into an upload with backpressure: the next piece is read while the last one is written.
 *
 * Nothing more is read while MOST_HELD bytes wait for the disk, however fast the client.
 */
import type { Bytes } from '../../base/units.ts'
import type { UploadIngest } from '../../storage/ingest/ingest.ts'
import { releaseBuffers } from '../../storage/ingest/release-buffers.ts'

/** Limit of the unwritten bytes of one body. */
const MOST_HELD: Bytes = 512 * 1024
/** A write wakes a thread whatever its size: less than this is gathered for {@link GATHER_MS}. */
const WORTH_WRITING: Bytes = 256 * 1024
const GATHER_MS = 8

/** The disk refused the bytes, so the rest of the body need not be read. */
export class WriteError extends Error {
  override readonly name = 'WriteError'
}

/**
 * Appends the body, or its first `limit` bytes.
 *
 * @returns length of the body; just more than `limit` when it went on beyond
 * @throws WriteError, or the body's error: the bytes before it are written
 */
export async function receive(
  body: AsyncIterable<Buffer>,
  ingest: Pick<UploadIngest, 'prefix' | 'write'>,
  limit: Bytes,
): Promise<Bytes> {
  const writing = new Writing(ingest)
  let received = 0
  try {
    for await (const chunk of body) {
      const wanted = chunk.subarray(0, Math.max(0, limit - received))
      received += chunk.length
      if (wanted.length > 0) writing.push(wanted)
      await writing.room()
      if (writing.failure !== undefined || received > limit) break
    }
  } finally {
    await writing.end()
  }
  if (writing.failure !== undefined) throw writing.failure
  return received
}

/** Makes one write at a time, of all bytes that have arrived since the last. */
class Writing {
  failure: WriteError | undefined
  readonly #ingest: Pick<UploadIngest, 'prefix' | 'write'>
  #waiting: Buffer[] = []
  #waitingBytes: Bytes = 0
  /** Settles with the write in progress, not with later ones. */
  #written: Promise<void> | undefined
  #all: Promise<void> | undefined
  #ended = false
  #stopGathering: (() => void) | undefined
  #held: Bytes = 0

  constructor(ingest: Pick<UploadIngest, 'prefix' | 'write'>) {
    this.#ingest = ingest
  }

  push(chunk: Buffer): void {
    this.#waiting.push(chunk)
    this.#waitingBytes += chunk.length
    this.#held += chunk.length
    if (this.#waitingBytes >= WORTH_WRITING) this.#stopGathering?.()
    this.#all ??= this.#run()
  }

  /** Waits until another chunk may be read, or a write has failed. */
  async room(): Promise<void> {
    while (this.#held >= MOST_HELD && this.failure === undefined) await this.#written
  }

  /** Resolves when all bytes are written, or a write has failed. */
  async end(): Promise<void> {
    this.#ended = true
    this.#stopGathering?.()
    await this.#all
  }

  /** Never rejects. */
  async #run(): Promise<void> {
    while (this.#waiting.length > 0 && this.failure === undefined) {
      if (this.#waitingBytes < WORTH_WRITING && !this.#ended) await this.#gather()
      this.#written = this.#write()
      await this.#written
    }
    this.#all = undefined
  }

  #gather(): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, GATHER_MS)
      this.#stopGathering = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }

  async #write(): Promise<void> {
    const chunks = this.#waiting
    const bytes = this.#waitingBytes
    this.#waiting = []
    this.#waitingBytes = 0
    try {
      await this.#ingest.write(chunks, this.#ingest.prefix)
      this.#held -= bytes
      releaseBuffers(chunks)
    } catch (cause) {
      this.failure = new WriteError('an upload could not be written', { cause })
    }
  }
}
