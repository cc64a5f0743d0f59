/**
 * Upload sessions: start, resumption, end.
 *
 * A session's only state is a partial file, which outlives the process. Before its first byte it has none: its id tells
 * everything. While requests use the session, and for a minute after, its file stays open, so that its hash need not be
 * computed again. The index keeps as which blob it ended for as long as a session lasts, for clients that lost the
 * answer.
 */
import { LRUCache } from 'lru-cache'
import type { Digest, DigestAlgorithm } from '../../oci/digest.ts'
import { OciError } from '../../oci/errors.ts'
import type { RepositoryName } from '../../oci/reference.ts'
import type { AdoptedUpload, UploadIngest } from '../../storage/ingest/ingest.ts'
import type { EpochMs } from '../../storage/metadata/metadata.ts'
import type { UploadSession } from '../local/push-target.ts'
import { refusal } from '../local/storage-errors.ts'
import { newSessionId, parseSessionId } from './session-id.ts'
import { link, type UploadHooks } from './upload-link.ts'
import { acquire } from './upload-locks.ts'
import { OpenSession, type OpenUpload, type UploadContext } from './upload-session.ts'
import { lockOfBlob, lockOfUpload } from '../../storage/locks/keyed-locks.ts'

/** Limit of the files that stay open between requests. */
const MOST_OPEN = 64

const STAY_OPEN_MS = 60_000

/** Limit of the ended sessions remembered here; the index has the finished ones as well. */
const MOST_ENDED = 10_000

/** Limit of the sessions that are neither finished nor cancelled. */
const MOST_UNFINISHED = 1000

/** Time after which a session without bytes is no longer counted, since it costs nothing. */
const COUNTED_MS = 600_000

export class UploadSessions {
  readonly #options: UploadContext
  /** Least recently used first. */
  readonly #open = new Map<string, OpenUpload>()
  /** Start times of the sessions without bytes. */
  readonly #empty = new Map<string, EpochMs>()
  /** Ended sessions whose ids would else still look like sessions without bytes. */
  readonly #ended = new LRUCache<string, true>({ max: MOST_ENDED })

  constructor(options: UploadContext) {
    this.#options = options
  }

  /**
   * @param algorithm of the final digest, if the client has announced it
   * @throws OciError TOOMANYREQUESTS, INSUFFICIENT_STORAGE
   */
  async start(
    repository: RepositoryName,
    algorithm: DigestAlgorithm = 'sha256',
    hooks?: UploadHooks,
  ): Promise<UploadSession> {
    const { pushSpace: room, now } = this.#options
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

  /** Whether that session of that repository ended as that blob, within the lifetime of a session. */
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
    using _held = await acquire(locks, lockOfBlob(digest))
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
    using _held = await acquire(this.#options.locks, lockOfUpload(session))
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

  /** @returns the algorithm of a session that was started and has no file yet */
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
      ...{ repository, algorithm, ingest, lastStart: undefined, cutChunk: undefined, repetitions: [] },
      ...{ users: 0, timer: undefined, over: false },
    }
    this.#open.set(session, upload)
    return upload
  }

  #use(session: string, upload: OpenUpload, hooks: UploadHooks | undefined): UploadSession {
    clearTimeout(upload.timer)
    upload.users++
    return new OpenSession(this.#options, session, upload, {
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
      using _held = await acquire(this.#options.locks, lockOfUpload(session))
      if (upload.users > 0 || upload.over) return
      clearTimeout(upload.timer)
      // A request that arrives now waits for the lock, and opens the session again.
      this.#leave(session, upload)
      await upload.ingest?.keep()
    } catch (err) {
      this.#options.log.debug({ err }, 'an upload stays open')
    }
  }
}
