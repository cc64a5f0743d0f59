/**
 * Upload sessions: started, continued, finished as a blob of a local repository, or given up.
 *
 * A session's bytes are a partial file and nothing else; it outlives this process. Before its first byte it has no
 * file: its name says all that there is to know. While somebody uses it, and for a minute more, its file stays open,
 * so that its hash need not be begun again. Of all that changes a session one thing happens at a time. As which blob
 * it ended stays in the index for as long as a session lasts, for clients that did not hear of it.
 */
import { LRUCache } from 'lru-cache'
import type { Logger } from 'pino'
import type { ExpectedBytes, PushRoom } from '../cache/push-room.ts'
import type { Digest, DigestAlgorithm } from '../oci/digest.ts'
import { OciError } from '../oci/errors.ts'
import type { RepositoryName } from '../oci/reference.ts'
import type { BlobStore } from '../store/blob-store.ts'
import type { Holds } from '../store/holds.ts'
import type { AdoptedUpload, IngestStore, UploadIngest, VerifiedFile } from '../store/ingest.ts'
import type { Locks } from '../store/locks.ts'
import type { EpochMs, MetadataStore } from '../store/metadata.ts'
import { isDiskFull } from '../store/storage-error.ts'
import type { LocalNames } from './local-names.ts'
import type { UploadSession } from './pushes.ts'
import { receive, WriteError } from './receive.ts'
import { refusal } from './refusal.ts'
import { Retransmission, withRepetitions, type Repetition } from './retransmission.ts'
import { newSessionId, parseSessionId } from './session-id.ts'
import { link, type UploadHooks } from './upload-link.ts'
import { acquire, uploadLock } from './upload-locks.ts'

type Bytes = number

/** Files that nobody writes at the moment and that are open nevertheless. */
const MOST_OPEN = 64

const STAY_OPEN_MS = 60_000

/** Sessions that came to nothing, of which this process remembers that. */
const MOST_ENDED = 10_000

/** Sessions that are neither finished nor given up. */
const MOST_UNFINISHED = 1000

/** After so long one without bytes is not counted any more; it costs nothing. */
const COUNTED_MS = 600_000

/** Of one session; of more, a wrong guess is found out by the digest. */
const MOST_REPETITIONS = 1000

interface UploadsOptions {
  readonly store: Pick<BlobStore, 'adopt' | 'stat'>
  readonly ingests: Pick<
    IngestStore,
    'createUpload' | 'openUpload' | 'uploads' | 'adoptedUpload' | 'forgetAdopted'
  >
  readonly metadata: Pick<MetadataStore, 'transaction' | 'finishedUploads'>
  readonly locks: Locks
  /** Nothing takes away what is just being pushed, though it was mirrored until now. */
  readonly holds: Pick<Holds, 'hold'>
  readonly localNames: Pick<LocalNames, 'add'>
  readonly room: Pick<PushRoom, 'begin' | 'expect'>
  /** For so long a session without a file lasts, and is known as which blob one ended. */
  readonly sessionTtlMs: number
  readonly log: Logger
  readonly now: () => EpochMs
}

/** A session that is in use, or was a moment ago; shared by all who use it. */
interface OpenUpload {
  readonly repository: RepositoryName
  readonly algorithm: DigestAlgorithm
  /** Undefined: no byte has come yet. */
  ingest: UploadIngest | undefined
  /** Where the last request began. */
  lastStart: Bytes | undefined
  /** What was taken for sent twice; if the digest says otherwise, it was not. */
  readonly repetitions: Repetition[]
  users: number
  /** Closes the file when nobody came back. */
  timer: NodeJS.Timeout | undefined
  /** Finished, given up, or closed: who comes now opens it again, if it is still there. */
  over: boolean
}

export class Uploads {
  readonly #options: UploadsOptions
  /** Those that were used last come last. */
  readonly #open = new Map<string, OpenUpload>()
  /** When those were started that have no bytes. */
  readonly #empty = new Map<string, EpochMs>()
  /** Their names would say that they have no bytes yet. */
  readonly #ended = new LRUCache<string, true>({ max: MOST_ENDED })

  constructor(options: UploadsOptions) {
    this.#options = options
  }

  /**
   * @param algorithm of the digest it will be finished with, if the client has said so
   * @throws OciError TOOMANYREQUESTS, INSUFFICIENT_STORAGE
   */
  async start(
    repository: RepositoryName,
    algorithm: DigestAlgorithm = 'sha256',
    hooks?: UploadHooks,
  ): Promise<UploadSession> {
    const { room, now } = this.#options
    const startedAt = now()
    for (const [session, since] of this.#empty) {
      if (since > startedAt - COUNTED_MS) break
      this.#empty.delete(session)
    }
    this.#assertFew(this.#empty.size)
    try {
      await room.begin()
    } catch (error) {
      throw refusal(error)
    }
    const session = newSessionId(repository, { algorithm, startedAt })
    this.#empty.set(session, startedAt)
    return this.#use(session, this.#opened(session, repository, algorithm), hooks)
  }

  /** @throws OciError TOOMANYREQUESTS */
  #assertFew(besides: number): void {
    if (this.#options.ingests.uploads().length + besides < MOST_UNFINISHED) return
    const message = 'too many uploads are unfinished: finish or cancel some, or come back later'
    throw new OciError('TOOMANYREQUESTS', undefined, { message, retryAfterSeconds: 60 })
  }

  /** @throws OciError BLOB_UPLOAD_UNKNOWN, also for a session of another repository */
  async open(repository: RepositoryName, session: string, hooks?: UploadHooks): Promise<UploadSession> {
    const upload = this.#open.get(session) ?? (await this.#reopen(repository, session))
    if (upload?.repository !== repository) {
      throw new OciError('BLOB_UPLOAD_UNKNOWN', { name: repository })
    }
    return this.#use(session, upload, hooks)
  }

  /** Whether that session of that repository ended as that blob, not longer ago than a session lasts. */
  async finishedAs(
    repository: RepositoryName,
    session: string,
    digest: Digest,
    hooks?: UploadHooks,
  ): Promise<boolean> {
    const { metadata, ingests, sessionTtlMs, now } = this.#options
    const finished = await metadata.finishedUploads.get(session)
    if (finished !== undefined) {
      const same = finished.name === repository && finished.digest === digest
      return same && now() - finished.finishedAt <= sessionTtlMs
    }
    const adopted = ingests.adoptedUpload(session)
    if (adopted?.repository !== repository || adopted.digest !== digest) return false
    return this.#linkAdopted(session, adopted, hooks)
  }

  /** @returns false when its file has been collected */
  async #linkAdopted(
    session: string,
    { repository, digest }: AdoptedUpload,
    push: UploadHooks | undefined,
  ): Promise<boolean> {
    const { store, ingests, locks, holds } = this.#options
    using _kept = holds.hold(digest)
    using _held = await acquire(locks, `blob ${digest}`)
    const blob = await store.stat(digest)
    try {
      await push?.assertFree()
      if (blob !== undefined) await link(this.#options, { session, repository, push }, blob)
    } catch (error) {
      throw refusal(error)
    }
    await ingests.forgetAdopted(session)
    return blob !== undefined
  }

  async #reopen(repository: RepositoryName, session: string): Promise<OpenUpload | undefined> {
    using _held = await acquire(this.#options.locks, uploadLock(session))
    const other = this.#open.get(session)
    if (other !== undefined) return other
    try {
      const ingest = await this.#options.ingests.openUpload(session, repository)
      if (ingest !== undefined) return this.#opened(session, repository, ingest.identity.algorithm, ingest)
    } catch (error) {
      throw refusal(error)
    }
    const empty = await this.#withoutBytes(repository, session)
    return empty && this.#opened(session, repository, empty)
  }

  /** @returns the algorithm of a session that was started, and has no file */
  async #withoutBytes(repository: RepositoryName, session: string): Promise<DigestAlgorithm | undefined> {
    const { metadata, ingests, sessionTtlMs, now } = this.#options
    const given = parseSessionId(session, repository)
    if (given === undefined || this.#ended.has(session) || now() - given.startedAt > sessionTtlMs) {
      return undefined
    }
    if (ingests.adoptedUpload(session) !== undefined) return undefined
    return (await metadata.finishedUploads.get(session)) === undefined ? given.algorithm : undefined
  }

  #opened(
    session: string,
    repository: RepositoryName,
    algorithm: DigestAlgorithm,
    ingest?: UploadIngest,
  ): OpenUpload {
    const upload: OpenUpload = {
      ...{ repository, algorithm, ingest, lastStart: undefined, repetitions: [] },
      ...{ users: 0, timer: undefined, over: false },
    }
    this.#open.set(session, upload)
    return upload
  }

  #use(session: string, upload: OpenUpload, hooks: UploadHooks | undefined): UploadSession {
    clearTimeout(upload.timer)
    upload.users++
    return new Session(this.#options, session, upload, {
      push: hooks,
      begin: () => {
        this.#assertFew(0)
        this.#empty.delete(session)
      },
      end: () => {
        this.#empty.delete(session)
        this.#ended.set(session, true)
        this.#leave(session, upload)
      },
      leave: () => this.#leave(session, upload),
      release: () => this.#release(session, upload),
    })
  }

  #leave(session: string, upload: OpenUpload): void {
    if (upload.over) return
    upload.over = true
    this.#open.delete(session)
  }

  #release(session: string, upload: OpenUpload): void {
    if (--upload.users > 0 || upload.over) return
    if (upload.ingest === undefined) {
      this.#leave(session, upload)
      return
    }
    this.#open.delete(session)
    this.#open.set(session, upload)
    upload.timer = setTimeout(() => void this.#close(session, upload), STAY_OPEN_MS).unref()
    const unused = [...this.#open].filter(([, { users }]) => users === 0)
    for (const [id, it] of unused.slice(0, Math.max(0, unused.length - MOST_OPEN))) void this.#close(id, it)
  }

  /** Never rejects. */
  async #close(session: string, upload: OpenUpload): Promise<void> {
    try {
      using _held = await acquire(this.#options.locks, uploadLock(session))
      if (upload.users > 0 || upload.over) return
      clearTimeout(upload.timer)
      // Whoever comes now waits for the lock, and opens it again.
      this.#leave(session, upload)
      await upload.ingest?.keep()
    } catch (err) {
      this.#options.log.debug({ err }, 'an upload stays open')
    }
  }
}

/** Of which the file is undefined when the digest is another. */
interface Verified extends AsyncDisposable {
  readonly file: VerifiedFile | undefined
}

type Sink = Pick<UploadIngest, 'prefix' | 'write'>

interface SessionHooks {
  readonly push: UploadHooks | undefined
  /** It is about to have a file. @throws OciError TOOMANYREQUESTS */
  readonly begin: () => void
  /** There is no such session any more. */
  readonly end: () => void
  /** Nobody may use what is open of it any more. */
  readonly leave: () => void
  readonly release: () => void
}

class Session implements UploadSession {
  readonly id: string
  readonly #options: UploadsOptions
  readonly #upload: OpenUpload
  readonly #hooks: SessionHooks
  #lock: Disposable | undefined
  #disposed = false

  constructor(options: UploadsOptions, id: string, upload: OpenUpload, hooks: SessionHooks) {
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
    if (begins > offset || (range !== undefined && begins < offset)) {
      throw new OciError('RANGE_INVALID', { offset })
    }
    try {
      // What is here already takes no room, if that is what it is.
      using expected = await this.#options.room.expect(length && Math.max(length - (offset - begins), 0))
      const sink = this.#sink(expected)
      if (range === undefined) await this.#receive(body, begins, sink)
      else await this.#receiveChunk(body, range, sink)
    } catch (error) {
      const cause = error instanceof WriteError ? error.cause : error
      if (!(error instanceof WriteError) && !isDiskFull(error)) throw error
      await this.#keep(isDiskFull(cause))
      throw refusal(cause)
    }
  }

  /** Of what was sent before, only what is not here yet. */
  async #receive(body: AsyncIterable<Buffer>, told: Bytes, sink: Sink): Promise<void> {
    const upload = this.#upload
    const { ingest, lastStart, repetitions } = upload
    // A client that goes on using the first location it was given may repeat its last request as well.
    const starts = told === this.offset ? [] : [told, ...(lastStart === undefined ? [] : [lastStart])]
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
    this.#upload.lastStart = range.first
    if ((await receive(body, sink, limit)) === limit) return
    try {
      await this.#upload.ingest?.rewind(range.first)
    } catch (cause) {
      throw new WriteError('a chunk could not be taken back', { cause })
    }
    throw new OciError('SIZE_INVALID', { ...range, offset: this.offset })
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
      await this.#keep(isDiskFull(error))
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
    using _held = await acquire(locks, `blob ${digest}`).catch(async (error: unknown) => {
      await this.#keep()
      throw error
    })
    const { size } = verified.file
    const { repository } = this.#upload
    const { push } = this.#hooks
    await push?.assertFree()
    const finished = { session: this.id, repository, push }
    await store.adopt(verified.file, () => link(this.#options, finished, { digest, size }))
    this.#hooks.end()
    // Of bytes that were adopted from another file.
    await this.#upload.ingest?.discard()
  }

  /** What it gives is in the session's file, or in another one, which goes when it is disposed unless it was adopted. */
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

  /** Made with the first byte, or for a blob that has none. */
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

  /** An ingest that failed, or was verified, takes no more bytes: it has to be opened again. */
  async #keep(stranded = false): Promise<void> {
    this.#hooks.leave()
    await this.#upload.ingest?.keep(stranded)
    this.#letGo()
  }

  /** Once disposed, or over: whoever waits need not wait longer. */
  #letGo(): void {
    this.#lock?.[Symbol.dispose]()
  }

  /** From the first change on until it is disposed. */
  async #alone(): Promise<void> {
    this.#lock ??= await acquire(this.#options.locks, uploadLock(this.id))
    if (this.#upload.over) throw new OciError('BLOB_UPLOAD_UNKNOWN')
  }
}
