/**
 * Upload sessions: started, continued, finished as a blob of a local repository, or given up.
 *
 * A session's bytes are a partial file and nothing else; it outlives this process. While somebody uses it, and
 * for a minute more, its file stays open, so that its hash need not be begun again. Of all that changes a session
 * one thing happens at a time.
 */
import { randomBytes } from 'node:crypto'
import type { Logger } from 'pino'
import type { Digest, DigestAlgorithm } from '../oci/digest.ts'
import { OciError } from '../oci/errors.ts'
import type { RepositoryName } from '../oci/reference.ts'
import type { BlobStore } from '../store/blob-store.ts'
import type { Holds } from '../store/holds.ts'
import type { IngestStore, UploadIngest } from '../store/ingest.ts'
import type { Locks } from '../store/locks.ts'
import { LOCAL, type EpochMs, type MetadataStore, type MetadataTransaction } from '../store/metadata.ts'
import type { LocalNames } from './local-names.ts'
import type { UploadSession } from './pushes.ts'
import { receive, WriteError } from './receive.ts'
import { refusal } from './refusal.ts'

type Bytes = number

/** This process among those that could share a store one day. */
const REPLICA = '0'

/** Files that nobody writes at the moment and that are open nevertheless. */
const MOST_OPEN = 64

const STAY_OPEN_MS = 60_000

/** For whoever finds a session, or a blob, in use. */
const LOCK_MS = 30_000

interface UploadsOptions {
  readonly store: Pick<BlobStore, 'adopt'>
  readonly ingests: Pick<IngestStore, 'createUpload' | 'openUpload'>
  readonly metadata: Pick<MetadataStore, 'transaction'>
  readonly locks: Locks
  /** Nothing takes away what is just being pushed, though it was mirrored until now. */
  readonly holds: Pick<Holds, 'hold'>
  readonly localNames: Pick<LocalNames, 'add'>
  readonly log: Logger
  readonly now: () => EpochMs
}

export interface UploadHooks {
  /** Called before that commit. @throws OciError DENIED when the repository may not be pushed to any more */
  assertFree(): Promise<void>
  /** Called within the commit that makes an upload a blob of its repository. */
  linked(tx: MetadataTransaction, digest: Digest, size: Bytes): void
}

/** A session whose file is open; shared by all who use it at the moment. */
interface OpenUpload {
  readonly ingest: UploadIngest
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

  constructor(options: UploadsOptions) {
    this.#options = options
  }

  /** @param algorithm of the digest it will be finished with, if the client has said so */
  async start(
    repository: RepositoryName,
    algorithm: DigestAlgorithm = 'sha256',
    hooks?: UploadHooks,
  ): Promise<UploadSession> {
    const session = `${REPLICA}.${randomBytes(16).toString('base64url')}`
    try {
      const ingest = await this.#options.ingests.createUpload({ session, repository, algorithm })
      return this.#use(session, this.#opened(session, ingest), hooks)
    } catch (error) {
      throw refusal(error)
    }
  }

  /** @throws OciError BLOB_UPLOAD_UNKNOWN, also for a session of another repository */
  async open(repository: RepositoryName, session: string, hooks?: UploadHooks): Promise<UploadSession> {
    const upload = this.#open.get(session) ?? (await this.#reopen(repository, session))
    if (upload?.ingest.identity.repository !== repository) {
      throw new OciError('BLOB_UPLOAD_UNKNOWN', { name: repository })
    }
    return this.#use(session, upload, hooks)
  }

  async #reopen(repository: RepositoryName, session: string): Promise<OpenUpload | undefined> {
    using _held = await acquire(this.#options.locks, uploadLock(session))
    const other = this.#open.get(session)
    if (other !== undefined) return other
    try {
      const ingest = await this.#options.ingests.openUpload(session, repository)
      return ingest && this.#opened(session, ingest)
    } catch (error) {
      throw refusal(error)
    }
  }

  #opened(session: string, ingest: UploadIngest): OpenUpload {
    const upload = { ingest, users: 0, timer: undefined, over: false }
    this.#open.set(session, upload)
    return upload
  }

  #use(session: string, upload: OpenUpload, hooks: UploadHooks | undefined): UploadSession {
    clearTimeout(upload.timer)
    upload.users++
    return new Session(this.#options, session, upload, {
      push: hooks,
      end: () => this.#end(session, upload),
      release: () => this.#release(session, upload),
    })
  }

  #end(session: string, upload: OpenUpload): void {
    if (upload.over) return
    upload.over = true
    this.#open.delete(session)
  }

  #release(session: string, upload: OpenUpload): void {
    if (--upload.users > 0 || upload.over) return
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
      this.#end(session, upload)
      await upload.ingest.keep()
    } catch (err) {
      this.#options.log.debug({ err }, 'an upload stays open')
    }
  }
}

interface SessionHooks {
  readonly push: UploadHooks | undefined
  /** Nobody may use this ingest any more. */
  readonly end: () => void
  readonly release: () => void
}

class Session implements UploadSession {
  readonly id: string
  readonly #options: UploadsOptions
  readonly #upload: OpenUpload
  readonly #ingest: UploadIngest
  readonly #hooks: SessionHooks
  #lock: Disposable | undefined
  #disposed = false

  constructor(options: UploadsOptions, id: string, upload: OpenUpload, hooks: SessionHooks) {
    this.id = id
    this.#options = options
    this.#upload = upload
    this.#ingest = upload.ingest
    this.#hooks = hooks
  }

  get offset(): Bytes {
    return this.#ingest.prefix
  }

  async append(body: AsyncIterable<Buffer>, range: { first: Bytes; last: Bytes } | undefined): Promise<void> {
    await this.#alone()
    const { offset } = this
    if (range !== undefined && range.first !== offset) throw new OciError('RANGE_INVALID', { offset })
    const limit = range === undefined ? Infinity : range.last - range.first + 1
    let received: Bytes
    try {
      received = await receive(body, this.#ingest, limit)
    } catch (error) {
      if (!(error instanceof WriteError)) throw error
      await this.#keep()
      throw refusal(error.cause)
    }
    if (range !== undefined && received !== limit) {
      throw new OciError('SIZE_INVALID', { ...range, offset: this.offset })
    }
  }

  async finish(digest: Digest): Promise<void> {
    await this.#alone()
    try {
      await this.#finish(digest)
      this.#letGo()
    } catch (error) {
      if (error instanceof OciError) throw error
      await this.#keep()
      throw refusal(error)
    }
  }

  async cancel(): Promise<void> {
    await this.#alone()
    this.#hooks.end()
    await this.#ingest.discard()
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
    const { store, metadata, locks, holds, localNames, now } = this.#options
    const file = await this.#ingest.verifyAs(digest)
    if (file === undefined) {
      await this.cancel()
      throw new OciError('DIGEST_INVALID', { digest })
    }
    using _kept = holds.hold(digest)
    // Under the same lock the collector looks for the link before it removes a file.
    using _held = await acquire(locks, `blob ${digest}`).catch(async (error: unknown) => {
      await this.#keep()
      throw error
    })
    await this.#hooks.push?.assertFree()
    const { size } = file
    const repository = { registry: LOCAL, name: this.#ingest.identity.repository }
    await store.adopt(file, () => {
      localNames.add(repository.name)
      return metadata.transaction((tx) => {
        tx.putRepository(repository, now())
        tx.linkBlob(repository, digest, size, now())
        this.#hooks.push?.linked(tx, digest, size)
      })
    })
    this.#hooks.end()
  }

  /** An ingest that failed, or was verified, takes no more bytes: it has to be opened again. */
  async #keep(): Promise<void> {
    this.#hooks.end()
    await this.#ingest.keep()
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

function uploadLock(session: string): string {
  return `upload ${session}`
}

/** @throws OciError UNAVAILABLE */
async function acquire(locks: Locks, key: string): Promise<Disposable> {
  try {
    return await locks.exclusive(key, AbortSignal.timeout(LOCK_MS))
  } catch (cause) {
    const message = 'another request for the same upload or blob is still under way'
    throw new OciError('UNAVAILABLE', undefined, { message, retryAfterSeconds: 5, cause })
  }
}
