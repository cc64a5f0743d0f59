/**
 * One upload session: requests append bytes to its partial file, then finish it as a blob of its repository or cancel
 * it. A lock serializes the changes of a session.
 */
import type { Bytes } from '../../base/units.ts'
import type { Logger } from 'pino'
import type { ExpectedBytes, PushSpace } from '../../cache/eviction/push-space.ts'
import type { Digest, DigestAlgorithm } from '../../oci/digest.ts'
import { OciError } from '../../oci/errors.ts'
import type { RepositoryName } from '../../oci/reference.ts'
import type { BlobStore } from '../../storage/blobs/blob-store.ts'
import type { BlobHolds } from '../../storage/locks/blob-holds.ts'
import type { IngestStore, UploadIngest, VerifiedFile } from '../../storage/ingest/ingest.ts'
import { lockOfBlob, lockOfUpload, type KeyedLocks } from '../../storage/locks/keyed-locks.ts'
import type { EpochMs, MetadataStore } from '../../storage/metadata/metadata.ts'
import { isDiskFull, isHangingDisk } from '../../storage/storage-error.ts'
import type { LocalNames } from '../naming/local-names.ts'
import type { UploadSession } from '../local/push-target.ts'
import { receive, WriteError } from './upload-writer.ts'
import { refusal } from '../local/storage-errors.ts'
import { Retransmission, withRepetitions, type Repetition } from './retransmission.ts'
import { newSessionId } from './session-id.ts'
import { link, type UploadHooks } from './upload-link.ts'
import { acquire } from './upload-locks.ts'

/** Limit of the repetitions remembered per session; beyond it a wrong guess shows as a wrong digest. */
const MOST_REPETITIONS = 1000

export interface UploadContext {
  readonly store: Pick<BlobStore, 'adopt' | 'stat'>
  readonly ingests: Pick<
    IngestStore,
    'createUpload' | 'openUpload' | 'uploads' | 'adoptedUpload' | 'forgetAdopted'
  >
  readonly metadata: Pick<MetadataStore, 'transaction' | 'finishedUploads'>
  readonly locks: KeyedLocks
  /** Protect what is being pushed from eviction: until now it may only have been cached. */
  readonly holds: Pick<BlobHolds, 'hold'>
  readonly localNames: Pick<LocalNames, 'add'>
  readonly pushSpace: Pick<PushSpace, 'begin' | 'expect'>
  /** Lifetime of a session without a file, and of the record as which blob a session ended. */
  readonly sessionTtlMs: number
  readonly log: Logger
  readonly now: () => EpochMs
}

/** State of a session that is in use, or was until a minute ago; shared by the requests that use it. */
export interface OpenUpload {
  readonly repository: RepositoryName
  readonly algorithm: DigestAlgorithm
  /** Undefined: no byte has arrived. */
  ingest: UploadIngest | undefined
  /** Offset at which the last request began. */
  lastStart: Bytes | undefined
  /** A chunk that arrived in part, and may be sent again from its beginning. */
  cutChunk: { readonly first: Bytes; readonly last: Bytes } | undefined
  /** Bytes that were taken for repetitions; the digest may show that they were not. */
  readonly repetitions: Repetition[]
  users: number
  /** Closes the file when no request has come back in time. */
  timer: NodeJS.Timeout | undefined
  /** Finished, cancelled or closed: the next request has to open the session again, if it still exists. */
  over: boolean
}

/** `file` is undefined when the digest does not match. */
interface Verified extends AsyncDisposable {
  readonly file: VerifiedFile | undefined
}

type Sink = Pick<UploadIngest, 'prefix' | 'write'>

interface SessionHooks {
  readonly push: UploadHooks | undefined
  /** Called before the session gets a file. @throws OciError TOOMANYREQUESTS */
  readonly begin: () => void
  /** Called when the session has ceased to exist. */
  readonly end: () => void
  /** Called when its open file must not be used any more. */
  readonly leave: () => void
  readonly release: () => void
}

export class OpenSession implements UploadSession {
  readonly id: string
  readonly #options: UploadContext
  readonly #upload: OpenUpload
  readonly #hooks: SessionHooks
  #lock: Disposable | undefined
  #disposed = false

  constructor(options: UploadContext, id: string, upload: OpenUpload, hooks: SessionHooks) {
    this.id = id
    this.#options = options
    this.#upload = upload
    this.#hooks = hooks
  }

  get offset(): Bytes {
    return this.#upload.ingest?.prefix ?? 0
  }

  async append(
    body: AsyncIterable<Buffer>,
    range: { first: Bytes; last: Bytes } | undefined,
    { told, length }: { told?: Bytes; length?: Bytes | undefined } = {},
  ): Promise<void> {
    await this.#alone()
    const { offset } = this
    const begins = range?.first ?? told ?? offset
    const isStale = range !== undefined && begins < offset && !this.#wasCut(range)
    if (begins > offset || isStale) throw new OciError('RANGE_INVALID', { offset })
    try {
      // Repeated bytes take no more space.
      using expected = await this.#options.pushSpace.expect(length && Math.max(length - (offset - begins), 0))
      const sink = this.#sink(expected)
      if (range === undefined) await this.#receive(body, { told: begins, length }, sink)
      else await this.#receiveChunk(body, range, sink)
    } catch (error) {
      const cause = error instanceof WriteError ? error.cause : error
      if (!(error instanceof WriteError) && !isDiskFull(error)) throw error
      await this.#keep(cause)
      throw refusal(cause)
    }
  }

  /** Appends a body; of one that repeats an earlier request only the bytes that are not here yet. */
  async #receive(
    body: AsyncIterable<Buffer>,
    { told, length }: { told: Bytes; length: Bytes | undefined },
    sink: Sink,
  ): Promise<void> {
    const upload = this.#upload
    upload.cutChunk = undefined
    const { offset } = this
    const { ingest, lastStart, repetitions } = upload
    // A client that always uses its first location sends an old offset, and may repeat its last request as well.
    const last = lastStart === undefined ? probableStarts(offset, length) : [lastStart]
    const starts = told === offset ? [] : [told, ...last]
    const sent = new Retransmission(ingest, starts)
    try {
      await receive(sent.newBytes(body), sink, Infinity)
    } finally {
      upload.lastStart = sent.start ?? lastStart
    }
    if (sent.repetition === undefined) return
    if (repetitions.length < MOST_REPETITIONS) repetitions.push(sent.repetition)
  }

  async #receiveChunk(
    body: AsyncIterable<Buffer>,
    range: { first: Bytes; last: Bytes },
    sink: Sink,
  ): Promise<void> {
    const limit = range.last - range.first + 1
    if (this.offset > range.first) await this.#takeBack(range.first)
    this.#upload.lastStart = range.first
    this.#upload.cutChunk = range
    const length = await receive(body, sink, limit)
    this.#upload.cutChunk = undefined
    if (length === limit) return
    await this.#takeBack(range.first)
    throw new OciError('SIZE_INVALID', { ...range, offset: this.offset })
  }

  /** Whether the last request was the same chunk, and was interrupted. */
  #wasCut({ first, last }: { first: Bytes; last: Bytes }): boolean {
    const { cutChunk } = this.#upload
    return cutChunk?.first === first && cutChunk.last === last
  }

  /** @throws WriteError */
  async #takeBack(to: Bytes): Promise<void> {
    try {
      await this.#upload.ingest?.rewind(to)
    } catch (cause) {
      throw new WriteError('a chunk could not be taken back', { cause })
    }
  }

  async finish(digest: Digest, told: Bytes = 0): Promise<void> {
    await this.#alone()
    const { offset } = this
    if (told > offset) throw new OciError('RANGE_INVALID', { offset })
    try {
      await this.#finish(digest)
      this.#letGo()
    } catch (error) {
      if (error instanceof OciError) throw error
      await this.#keep(error)
      throw refusal(error)
    }
  }

  async cancel(): Promise<void> {
    await this.#alone()
    this.#hooks.end()
    await this.#upload.ingest?.discard()
    this.#letGo()
  }

  [Symbol.asyncDispose](): Promise<void> {
    if (!this.#disposed) {
      this.#disposed = true
      this.#hooks.release()
      this.#letGo()
    }
    return Promise.resolve()
  }

  async #finish(digest: Digest): Promise<void> {
    const { store, locks, holds } = this.#options
    await using verified = await this.#verify(await this.#file(), digest)
    if (verified.file === undefined) {
      await this.cancel()
      throw new OciError('DIGEST_INVALID', { digest })
    }
    using _kept = holds.hold(digest)
    // The collector looks for the link under the same lock before it deletes a file.
    using _held = await acquire(locks, lockOfBlob(digest)).catch(async (error: unknown) => {
      await this.#keep(error)
      throw error
    })
    const { size } = verified.file
    const { repository } = this.#upload
    const { push } = this.#hooks
    await push?.assertFree()
    const finished = { session: this.id, repository, push }
    await store.adopt(verified.file, () => link(this.#options, finished, { digest, size }))
    this.#hooks.end()
    // Has an effect only where the blob was adopted from another file.
    await this.#upload.ingest?.discard()
  }

  /** The verified bytes are in the session's file, or in another, which disposal deletes unless it was adopted. */
  async #verify(ingest: UploadIngest, digest: Digest): Promise<Verified> {
    const file = await ingest.verifyAs(digest)
    const { repository, algorithm, repetitions } = this.#upload
    if (file !== undefined || repetitions.length === 0)
      return { file, [Symbol.asyncDispose]: () => Promise.resolve() }
    const session = newSessionId(repository, { algorithm, startedAt: this.#options.now() })
    const other = await this.#options.ingests.createUpload({ session, repository, algorithm })
    const verified = (all?: VerifiedFile): Verified => ({
      file: all,
      [Symbol.asyncDispose]: () => other.discard(),
    })
    try {
      await receive(withRepetitions(ingest, repetitions), other, Infinity)
      return verified(await other.verifyAs(digest))
    } catch (error) {
      await other.discard()
      throw error instanceof WriteError ? error.cause : error
    }
  }

  /** Creates the session's file with the first byte, or for an empty blob. */
  async #file(): Promise<UploadIngest> {
    const { ingest, repository, algorithm } = this.#upload
    if (ingest !== undefined) return ingest
    this.#hooks.begin()
    const identity = { session: this.id, repository, algorithm }
    return (this.#upload.ingest = await this.#options.ingests.createUpload(identity))
  }

  #sink(expected: ExpectedBytes): Sink {
    const prefix = (): Bytes => this.offset
    return {
      get prefix() {
        return prefix()
      },
      write: async (chunks, position) => {
        await expected.arrive(chunks.reduce((sum, { length }) => sum + length, 0))
        await (await this.#file()).write(chunks, position)
      },
    }
  }

  /**
   * Keeps the bytes for a retry. An ingest that failed or was verified takes no more bytes, so it has to be reopened.
   *
   * @param error after a hanging write, which the disk may still carry out later, the file is given up instead
   */
  async #keep(error: unknown): Promise<void> {
    if (isHangingDisk(error)) {
      this.#hooks.end()
      await this.#upload.ingest?.discard()
    } else {
      this.#hooks.leave()
      await this.#upload.ingest?.keep(isDiskFull(error))
    }
    this.#letGo()
  }

  /** Releases the lock when an operation has ended the session or failed, so that the next request need not wait. */
  #letGo(): void {
    this.#lock?.[Symbol.dispose]()
  }

  /** Takes the lock at the first change, until disposal. */
  async #alone(): Promise<void> {
    this.#lock ??= await acquire(this.#options.locks, lockOfUpload(this.id))
    if (this.#upload.over) throw new OciError('BLOB_UPLOAD_UNKNOWN')
  }
}

/**
 * Guesses the offset of the last request from the length of one that may repeat it: that length before the end, or a
 * multiple of it if only a part arrived. A session that was opened again has no record of the true one.
 */
function probableStarts(offset: Bytes, length = 0): Bytes[] {
  if (length === 0 || length > offset) return []
  return [offset - length, Math.floor((offset - 1) / length) * length]
}
