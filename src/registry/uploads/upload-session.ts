/**
 * One upload session: bytes are appended to its partial file, and it is finished as a blob of its repository or
 * cancelled. A lock lets one change of a session happen at a time.
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

/** Repetitions remembered of one session; where there are more, the digest shows a wrong guess. */
const MOST_REPETITIONS = 1000

export interface UploadContext {
  readonly store: Pick<BlobStore, 'adopt' | 'stat'>
  readonly ingests: Pick<
    IngestStore,
    'createUpload' | 'openUpload' | 'uploads' | 'adoptedUpload' | 'forgetAdopted'
  >
  readonly metadata: Pick<MetadataStore, 'transaction' | 'finishedUploads'>
  readonly locks: KeyedLocks
  /** Keep what is just being pushed from eviction, though it was mirrored until now. */
  readonly holds: Pick<BlobHolds, 'hold'>
  readonly localNames: Pick<LocalNames, 'add'>
  readonly pushSpace: Pick<PushSpace, 'begin' | 'expect'>
  /** So long a session without a file lasts, and it is known as which blob a session ended. */
  readonly sessionTtlMs: number
  readonly log: Logger
  readonly now: () => EpochMs
}

/** A session that is in use, or was a moment ago; shared by all who use it. */
export interface OpenUpload {
  readonly repository: RepositoryName
  readonly algorithm: DigestAlgorithm
  /** Undefined: no byte has come yet. */
  ingest: UploadIngest | undefined
  /** The offset at which the last request began. */
  lastStart: Bytes | undefined
  /** A chunk that came in part, and may be sent again from its beginning. */
  cutChunk: { readonly first: Bytes; readonly last: Bytes } | undefined
  /** Bytes that were taken for sent twice; the digest may say that they were not. */
  readonly repetitions: Repetition[]
  users: number
  /** Closes the file when no request came back in time. */
  timer: NodeJS.Timeout | undefined
  /** Finished, given up, or closed: the next request opens the session again, if it is still there. */
  over: boolean
}

/** Its file is undefined when the digest is another. */
interface Verified extends AsyncDisposable {
  readonly file: VerifiedFile | undefined
}

type Sink = Pick<UploadIngest, 'prefix' | 'write'>

interface SessionHooks {
  readonly push: UploadHooks | undefined
  /** Called before the session gets a file. @throws OciError TOOMANYREQUESTS */
  readonly begin: () => void
  /** Called when there is no such session any more. */
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
      // Bytes that are here already take no room, if this is a repetition of them.
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

  /** Of a request that repeats an earlier one only the bytes that are not here yet are appended. */
  async #receive(
    body: AsyncIterable<Buffer>,
    { told, length }: { told: Bytes; length: Bytes | undefined },
    sink: Sink,
  ): Promise<void> {
    const upload = this.#upload
    upload.cutChunk = undefined
    const { offset } = this
    const { ingest, lastStart, repetitions } = upload
    // A client that goes on using the first location it was given may repeat its last request as well.
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

  /** Whether the last request was that very chunk, and broke off. */
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
    // Under the same lock the collector looks for the link before it removes a file.
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
    // The bytes were adopted from another file.
    await this.#upload.ingest?.discard()
  }

  /** The verified bytes are in the session's file, or in another, which is removed on disposal unless it was adopted. */
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

  /** The session's file, made with the first byte, or for a blob that has none. */
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
   * An ingest that failed, or was verified, takes no more bytes: it has to be opened again.
   *
   * @param error why; after a write that the disk may still make, with nobody waiting for it, the file is given up
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

  /** Gives the lock back once disposed, or over, so that the next request need not wait. */
  #letGo(): void {
    this.#lock?.[Symbol.dispose]()
  }

  /** Holds the lock from the first change on until disposal. */
  async #alone(): Promise<void> {
    this.#lock ??= await acquire(this.#options.locks, lockOfUpload(this.id))
    if (this.#upload.over) throw new OciError('BLOB_UPLOAD_UNKNOWN')
  }
}

/**
 * Guesses where the last request began from the length of one that repeats it: all of it came, or a part after others
 * of the same length. It is not recorded, so it is unknown for a session that was opened again.
 */
function probableStarts(offset: Bytes, length = 0): Bytes[] {
  if (length === 0 || length > offset) return []
  return [offset - length, Math.floor((offset - 1) / length) * length]
}
