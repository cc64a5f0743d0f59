/**
 * Ingest store on a directory: `<root>/ingest/<algorithm>-<hex>.<random>.part` for a download and
 * `<root>/ingest/upload-<session>.part` for an upload, each with a `.json` sidecar beside it.
 *
 * A partial file belongs to one ingest at a time; {@link IdleFiles} has those that no ingest writes.
 */
import type { Bytes } from '../../base/units.ts'
import { randomBytes } from 'node:crypto'
import path from 'node:path'
import { currentBoot } from '../files/boot-id.ts'
import { ExtentMap } from './extents.ts'
import { nodeFiles, systemCode, type Files } from '../files/files.ts'
import { OpenFile } from '../files/open-file.ts'
import {
  DEFAULT_LIMITS,
  DownloadFile,
  UploadFile,
  type PartialFile,
  type PartialFileOptions,
  type PartialLimits,
} from './partial-file.ts'
import { IdleFiles, type Idle } from './idle-files.ts'
import { fileBase, isUpload, keyOf, uploadKey, type PartialIdentity } from './partial-identity.ts'
import { isDiskFull } from '../storage-error.ts'
import type { Digest } from '../../oci/digest.ts'
import type { RepositoryName } from '../../oci/reference.ts'
import type { Hashers } from './hasher.ts'
import type {
  AdoptedUpload,
  Ingest,
  IngestIdentity,
  IngestStore,
  PartialDownload,
  PartialUpload,
  UploadIdentity,
  UploadIngest,
} from './ingest.ts'

const SWEEP_EVERY_MS = 10 * 60 * 1000

export interface IngestOptions {
  /** `storage.root`. */
  readonly root: string
  readonly hashers: Hashers
  readonly files?: Files
  readonly limits?: Partial<PartialLimits>
  /** How long an upload without a writer is kept; a download is kept for a day. */
  readonly sessionTtlMs?: number
  /** The machine's boot id; tests of power cuts give their own. */
  readonly boot?: string
  readonly now?: () => number
  /** Takes failures that cost only the chance to resume, or some disk space for a while. */
  readonly report?: (error: unknown) => void
}

export async function openIngests(options: IngestOptions): Promise<IngestStore> {
  const store = new DiskIngests(options, options.boot ?? (await currentBoot()))
  await store.scan()
  return store
}

class DiskIngests implements IngestStore {
  readonly #folder: string
  readonly #common: Pick<
    PartialFileOptions<PartialIdentity>,
    'files' | 'hashers' | 'limits' | 'boot' | 'report' | 'remove'
  >
  readonly #now: () => number
  readonly #live = new Set<PartialFile>()
  readonly #idle: IdleFiles
  readonly #sweeping: NodeJS.Timeout
  #closed = false

  constructor(options: IngestOptions, boot: string | undefined) {
    const { hashers, sessionTtlMs, files = nodeFiles, now = Date.now, report = () => undefined } = options
    const folder = path.resolve(options.root, 'ingest')
    const idle = new IdleFiles({ folder, files, sessionTtlMs, boot, now, report })
    const limits = { ...DEFAULT_LIMITS, ...options.limits }
    this.#folder = folder
    this.#common = { files, hashers, limits, boot, report, remove: (it) => idle.removeFile(it) }
    this.#now = now
    this.#idle = idle
    this.#sweeping = setInterval(() => void idle.expire(), SWEEP_EVERY_MS).unref()
  }

  get bytes(): Bytes {
    let sum = 0
    for (const { bytes } of this.#idle.all()) sum += bytes
    for (const { bytes } of this.#live) sum += bytes
    return sum
  }

  downloads(): PartialDownload[] {
    const found: PartialDownload[] = []
    for (const { identity, onDisk, modifiedAt } of this.#idle.all()) {
      if (isUpload(identity)) continue
      found.push({ ...identity, bytes: onDisk, idleSince: modifiedAt, disowned: false })
    }
    for (const { identity, bytes, disowned } of this.#live) {
      if (isUpload(identity)) continue
      found.push({ ...identity, bytes, idleSince: undefined, disowned })
    }
    return found
  }

  dropDownload(identity: IngestIdentity): Promise<Bytes> {
    return this.#idle.drop(keyOf(identity))
  }

  uploads(): PartialUpload[] {
    const found: PartialUpload[] = []
    for (const { identity, onDisk, modifiedAt, stranded } of this.#idle.all()) {
      if (isUpload(identity)) found.push({ ...identity, bytes: onDisk, idleSince: modifiedAt, stranded })
    }
    for (const { identity, bytes } of this.#live) {
      if (isUpload(identity)) found.push({ ...identity, bytes, idleSince: undefined, stranded: false })
    }
    return found
  }

  dropUpload(session: string): Promise<Bytes> {
    return this.#idle.drop(uploadKey(session))
  }

  scan(): Promise<void> {
    return this.#idle.scan()
  }

  async open(identity: IngestIdentity, options: { fresh?: boolean } = {}): Promise<Ingest> {
    await this.#prepare()
    const idle = this.#idle.take<IngestIdentity>(keyOf(identity))
    if (idle) {
      try {
        if (options.fresh !== true) return await this.#reopen(idle, (it) => new DownloadFile(it))
      } catch (error) {
        this.#common.report(error)
      }
      await this.#idle.remove(idle.stem)
    }
    return this.#create(identity, (it) => new DownloadFile(it))
  }

  async createUpload(identity: UploadIdentity): Promise<UploadIngest> {
    await this.#prepare()
    const upload = await this.#create(identity, (it) => new UploadFile(it))
    try {
      await upload.note()
    } catch (error) {
      await upload.discard()
      throw error
    }
    return upload
  }

  async openUpload(session: string, repository: RepositoryName): Promise<UploadIngest | undefined> {
    await this.#prepare()
    const key = uploadKey(session)
    const found = this.#idle.get(key)?.identity
    if (found === undefined || !isUpload(found) || found.repository !== repository) return undefined
    const idle = this.#idle.take<UploadIdentity>(key)
    if (idle === undefined) return undefined
    let resumed: UploadFile
    try {
      resumed = await this.#reopen(idle, (it) => new UploadFile(it))
    } catch (error) {
      // With too many open files or a disk that takes no writes, the client may resume the upload once that is over.
      if (isPassing(error)) {
        await this.#idle.park(idle)
        throw error
      }
      this.#common.report(error)
      await this.#idle.remove(idle.stem)
      return undefined
    }
    // A sidecar with the boot id of an earlier run of the machine would vouch for nothing that is written now.
    await resumed.save()
    return resumed
  }

  adoptedUpload(session: string): AdoptedUpload | undefined {
    return this.#idle.adoptedUpload(session)
  }

  forgetAdopted(session: string): Promise<void> {
    return this.#idle.forgetAdopted(session)
  }

  async close(): Promise<void> {
    this.#closed = true
    clearInterval(this.#sweeping)
    await Promise.all([...this.#live].map((ingest) => ingest.keep()))
  }

  async #prepare(): Promise<void> {
    if (this.#closed) throw new Error('the folder of partial files has been closed')
    await this.#idle.expire()
    await this.#idle.removeLitter()
  }

  async #create<Identity extends PartialIdentity, Ingest extends PartialFile<Identity>>(
    identity: Identity,
    make: (options: PartialFileOptions<Identity>) => Ingest,
  ): Promise<Ingest> {
    const stem = path.join(this.#folder, fileBase(identity, randomBytes(6).toString('hex')))
    const file = await OpenFile.open(this.#common.files, `${stem}.part`, 'wx+')
    return this.#start({ stem, identity, extents: new ExtentMap(), unsynced: 0 }, file, make)
  }

  async #reopen<Identity extends PartialIdentity, Ingest extends PartialFile<Identity>>(
    idle: Idle<Identity>,
    make: (options: PartialFileOptions<Identity>) => Ingest,
  ): Promise<Ingest> {
    const file = await OpenFile.open(this.#common.files, `${idle.stem}.part`, 'r+')
    try {
      const { size } = await file.describe()
      if (size < idle.extents.end) throw new Error('a partial file has shrunk')
      // Bytes that no sidecar vouches for go durably: a power cut could else leave them behind a shorter blob.
      if (size > idle.extents.end) {
        await file.truncate(idle.extents.end)
        await file.datasync()
      }
    } catch (error) {
      file[Symbol.dispose]()
      throw error
    }
    return this.#start(idle, file, make)
  }

  #start<Identity extends PartialIdentity, Ingest extends PartialFile<Identity>>(
    {
      stem,
      identity,
      extents: inherited,
      unsynced,
    }: Omit<Idle<Identity>, 'bytes' | 'onDisk' | 'modifiedAt' | 'stranded'>,
    file: OpenFile,
    make: (options: PartialFileOptions<Identity>) => Ingest,
  ): Ingest {
    let ingest: Ingest
    const ended = async (left: ExtentMap | Digest | undefined): Promise<void> => {
      this.#live.delete(ingest)
      const now = this.#now()
      if (left instanceof ExtentMap) {
        const { bytes } = left
        const extents = left
        const { stranded } = ingest
        const rest = { bytes, onDisk: bytes, unsynced: 0, modifiedAt: now, stranded }
        await this.#idle.park({ stem, identity, extents, ...rest })
      } else if (left !== undefined && isUpload(identity)) {
        const { session, repository } = identity
        this.#idle.noteAdopted(session, { repository, digest: left, stem, since: now })
      }
    }
    try {
      ingest = make({
        ...this.#common,
        ...{ identity, stem, file, inherited, unsynced, ended },
      })
    } catch (error) {
      file[Symbol.dispose]()
      throw error
    }
    this.#live.add(ingest)
    return ingest
  }
}

/** Whether the error is one of the machine's state, which says nothing of the file itself. */
function isPassing(error: unknown): boolean {
  const passing = ['EMFILE', 'ENFILE', 'ENOMEM', 'EROFS', 'EACCES', 'EPERM']
  return isDiskFull(error) || passing.includes(systemCode(error) ?? '')
}
