/**
 * The folder of partial files: `<root>/ingest/<algorithm>-<hex>.<random>.part` for a download and
 * `<root>/ingest/upload-<session>.part` for an upload, each with a `.json` beside it.
 *
 * A partial file belongs to one ingest at a time. What an earlier process left is found once, at the start.
 * Of a download only what its sidecar vouches for counts. An upload is written from 0 on without gaps, so as
 * long as the machine has not gone down all of its file counts. What nobody came back for in time is removed.
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
import { PRIVATE_FOLDER } from '../files/private-file.ts'
import {
  fileBase,
  isNamedFor,
  isUpload,
  keyOf,
  parseFileName,
  uploadKey,
  type PartialIdentity,
} from './partial-identity.ts'
import { readSidecar } from './sidecar.ts'
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

const DAY_MS = 24 * 60 * 60 * 1000

const SWEEP_EVERY_MS = 10 * 60 * 1000

export interface IngestOptions {
  /** `storage.root`. */
  readonly root: string
  readonly hashers: Hashers
  readonly files?: Files
  readonly limits?: Partial<PartialLimits>
  /** Of uploads that nobody writes to; downloads are kept for a day. */
  readonly sessionTtlMs?: number
  /** The run of the machine; for tests of power cuts. */
  readonly boot?: string
  readonly now?: () => number
  /** Failures that cost only the chance to resume, or some space for a while. */
  readonly report?: (error: unknown) => void
}

/** A partial file that nobody writes. */
interface Idle<Identity extends PartialIdentity = PartialIdentity> {
  readonly stem: string
  readonly identity: Identity
  readonly extents: ExtentMap
  readonly bytes: Bytes
  /** What the disk gives it: more than what counts of it. */
  readonly onDisk: Bytes
  /** How many of them may not be on the disk yet. */
  readonly unsynced: Bytes
  readonly modifiedAt: number
  /** There was no room for more of it. */
  readonly stranded: boolean
}

export async function openIngests(options: IngestOptions): Promise<IngestStore> {
  const store = new DiskIngests(options, options.boot ?? (await currentBoot()))
  await store.scan()
  return store
}

class DiskIngests implements IngestStore {
  readonly #folder: string
  readonly #files: Files
  readonly #hashers: Hashers
  readonly #limits: PartialLimits
  readonly #sessionTtlMs: number
  readonly #boot: string | undefined
  readonly #now: () => number
  readonly #report: (error: unknown) => void
  readonly #live = new Set<PartialFile>()
  readonly #idle = new Map<string, Idle>()
  /** By session. */
  readonly #adopted = new Map<string, AdoptedUpload & { readonly stem: string; readonly since: number }>()
  /** What could not be removed. None of these names is used again. */
  readonly #litter = new Set<string>()
  readonly #sweeping: NodeJS.Timeout
  #closed = false

  constructor(options: IngestOptions, boot: string | undefined) {
    this.#folder = path.resolve(options.root, 'ingest')
    this.#files = options.files ?? nodeFiles
    this.#hashers = options.hashers
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits }
    this.#sessionTtlMs = options.sessionTtlMs ?? DAY_MS
    this.#boot = boot
    this.#now = options.now ?? Date.now
    this.#report = options.report ?? (() => undefined)
    this.#sweeping = setInterval(() => void this.#expire(), SWEEP_EVERY_MS).unref()
  }

  get bytes(): Bytes {
    let sum = 0
    for (const { bytes } of this.#idle.values()) sum += bytes
    for (const { bytes } of this.#live) sum += bytes
    return sum
  }

  downloads(): PartialDownload[] {
    const found: PartialDownload[] = []
    for (const { identity, onDisk, modifiedAt } of this.#idle.values()) {
      if (isUpload(identity)) continue
      found.push({ ...identity, bytes: onDisk, idleSince: modifiedAt, disowned: false })
    }
    for (const { identity, bytes, disowned } of this.#live) {
      if (isUpload(identity)) continue
      found.push({ ...identity, bytes, idleSince: undefined, disowned })
    }
    return found
  }

  async dropDownload(identity: IngestIdentity): Promise<Bytes> {
    const idle = this.#take(keyOf(identity))
    if (idle === undefined) return 0
    await this.#remove(idle.stem)
    return idle.onDisk
  }

  uploads(): PartialUpload[] {
    const found: PartialUpload[] = []
    for (const { identity, onDisk, modifiedAt, stranded } of this.#idle.values()) {
      if (isUpload(identity)) found.push({ ...identity, bytes: onDisk, idleSince: modifiedAt, stranded })
    }
    for (const { identity, bytes } of this.#live) {
      if (isUpload(identity)) found.push({ ...identity, bytes, idleSince: undefined, stranded: false })
    }
    return found
  }

  async dropUpload(session: string): Promise<Bytes> {
    const idle = this.#take<UploadIdentity>(uploadKey(session))
    if (idle === undefined) return 0
    await this.#remove(idle.stem)
    return idle.onDisk
  }

  async scan(): Promise<void> {
    await this.#files.makeFolder(path.dirname(this.#folder))
    await this.#files.makeFolder(this.#folder, PRIVATE_FOLDER)
    await this.#files.syncFolder(path.dirname(this.#folder))
    const stems = new Set<string>()
    for (const name of (await this.#files.list(this.#folder)) ?? []) {
      const ours = parseFileName(name)
      if (ours === undefined) continue
      if (ours.ending === 'json.tmp') await this.#removeFile(path.join(this.#folder, name))
      else stems.add(path.join(this.#folder, ours.base))
    }
    for (const stem of stems) {
      const idle = await this.#examine(stem).catch(this.#report)
      if (idle) await this.#park(idle)
      else if (!(await this.#findAdopted(stem).catch(this.#report))) await this.#remove(stem)
    }
  }

  async open(identity: IngestIdentity, options: { fresh?: boolean } = {}): Promise<Ingest> {
    await this.#prepare()
    const idle = this.#take<IngestIdentity>(keyOf(identity))
    if (idle) {
      const resumed =
        options.fresh === true ? undefined : await this.#resume(idle, (it) => new DownloadFile(it))
      if (resumed) return resumed
      await this.#remove(idle.stem)
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
    const idle = this.#take<UploadIdentity>(key)
    if (idle === undefined) return undefined
    let resumed: UploadFile
    try {
      resumed = await this.#reopen(idle, (it) => new UploadFile(it))
    } catch (error) {
      // Too many open files, a disk that takes no writes: its client may come back when that is over.
      if (isPassing(error)) {
        this.#idle.set(key, idle)
        throw error
      }
      this.#report(error)
      await this.#remove(idle.stem)
      return undefined
    }
    // Its sidecar may be of an earlier run of the machine, and would vouch for nothing that is written now.
    await resumed.save()
    return resumed
  }

  adoptedUpload(session: string): AdoptedUpload | undefined {
    return this.#adopted.get(session)
  }

  async forgetAdopted(session: string): Promise<void> {
    const adopted = this.#adopted.get(session)
    this.#adopted.delete(session)
    if (adopted !== undefined) await this.#remove(adopted.stem)
  }

  async close(): Promise<void> {
    this.#closed = true
    clearInterval(this.#sweeping)
    await Promise.all([...this.#live].map((ingest) => ingest.keep()))
  }

  async #prepare(): Promise<void> {
    if (this.#closed) throw new Error('the folder of partial files has been closed')
    await this.#expire()
    for (const file of [...this.#litter]) await this.#removeFile(file)
  }

  /** What counts of it; `undefined` when that is nothing. */
  async #examine(stem: string): Promise<Idle | undefined> {
    const info = await this.#files.stat(`${stem}.part`)
    if (info?.kind !== 'file') return undefined
    // It was adopted, and of that rename a power loss left both names: whoever writes here writes to the blob.
    if (info.links > 1) return undefined
    const sidecar = await readSidecar(this.#files, `${stem}.json`)
    if (!sidecar || !isNamedFor(path.basename(stem), sidecar.identity)) return undefined
    const { identity, boot, extents } = sidecar
    extents.clip(info.size)
    const vouched = extents.bytes
    if (isUpload(identity) && boot !== undefined && boot === this.#boot) extents.add(0, info.size)
    const { bytes } = extents
    if (bytes === 0 && !isUpload(identity)) return undefined
    const idle = {
      stem,
      identity,
      extents,
      bytes,
      // Holes cost nothing; what lies behind what counts does.
      onDisk: bytes + info.size - extents.end,
      unsynced: bytes - vouched,
      modifiedAt: info.modifiedAt,
      stranded: false,
    }
    return this.#isExpired(idle) ? undefined : idle
  }

  /** @returns whether the bytes of an upload left from there, to become a blob */
  async #findAdopted(stem: string): Promise<boolean> {
    const info = await this.#files.stat(`${stem}.adopted`)
    if (info === undefined || (await this.#files.stat(`${stem}.part`)) !== undefined) return false
    if (this.#now() - info.modifiedAt > this.#sessionTtlMs) return false
    const sidecar = await readSidecar(this.#files, `${stem}.adopted`)
    if (sidecar?.digest === undefined || !isNamedFor(path.basename(stem), sidecar.identity)) return false
    if (!isUpload(sidecar.identity)) return false
    await this.#removeFile(`${stem}.json`)
    const { session, repository } = sidecar.identity
    this.#adopted.set(session, { repository, digest: sidecar.digest, stem, since: info.modifiedAt })
    return true
  }

  /** One per identity: the one that has more. */
  async #park(idle: Idle): Promise<void> {
    const key = keyOf(idle.identity)
    const other = this.#idle.get(key)
    const [better, worse] = other && other.bytes > idle.bytes ? [other, idle] : [idle, other]
    this.#idle.set(key, better)
    if (worse) await this.#remove(worse.stem)
  }

  /** Of a key of that kind. */
  #take<Identity extends PartialIdentity>(key: string): Idle<Identity> | undefined {
    const idle = this.#idle.get(key)
    this.#idle.delete(key)
    return idle as Idle<Identity> | undefined
  }

  async #expire(): Promise<void> {
    for (const [key, idle] of [...this.#idle]) {
      if (!this.#isExpired(idle)) continue
      this.#idle.delete(key)
      await this.#remove(idle.stem)
    }
    for (const [session, { since }] of [...this.#adopted]) {
      if (this.#now() - since > this.#sessionTtlMs) await this.forgetAdopted(session)
    }
  }

  #isExpired({ identity, modifiedAt }: Idle): boolean {
    return this.#now() - modifiedAt > (isUpload(identity) ? this.#sessionTtlMs : DAY_MS)
  }

  async #create<Identity extends PartialIdentity, Ingest extends PartialFile<Identity>>(
    identity: Identity,
    make: (options: PartialFileOptions<Identity>) => Ingest,
  ): Promise<Ingest> {
    const stem = path.join(this.#folder, fileBase(identity, randomBytes(6).toString('hex')))
    const file = await OpenFile.open(this.#files, `${stem}.part`, 'wx+')
    return this.#start({ stem, identity, extents: new ExtentMap(), unsynced: 0 }, file, make)
  }

  async #resume<Identity extends PartialIdentity, Ingest extends PartialFile<Identity>>(
    idle: Idle<Identity>,
    make: (options: PartialFileOptions<Identity>) => Ingest,
  ): Promise<Ingest | undefined> {
    try {
      return await this.#reopen(idle, make)
    } catch (error) {
      this.#report(error)
      return undefined
    }
  }

  async #reopen<Identity extends PartialIdentity, Ingest extends PartialFile<Identity>>(
    idle: Idle<Identity>,
    make: (options: PartialFileOptions<Identity>) => Ingest,
  ): Promise<Ingest> {
    const file = await OpenFile.open(this.#files, `${idle.stem}.part`, 'r+')
    try {
      const { size } = await file.describe()
      if (size < idle.extents.end) throw new Error('a partial file has shrunk')
      // What was written but not vouched for must not hang on behind a shorter blob, whenever the power goes.
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
        await this.#park({ stem, identity, extents, ...rest })
      } else if (left !== undefined && isUpload(identity)) {
        const { session, repository } = identity
        this.#adopted.set(session, { repository, digest: left, stem, since: now })
      }
    }
    try {
      ingest = make({
        files: this.#files,
        hashers: this.#hashers,
        identity,
        boot: this.#boot,
        stem,
        folder: this.#folder,
        file,
        inherited,
        unsynced,
        limits: this.#limits,
        remove: (it) => this.#removeFile(it),
        report: this.#report,
        ended,
      })
    } catch (error) {
      file[Symbol.dispose]()
      throw error
    }
    this.#live.add(ingest)
    return ingest
  }

  async #remove(stem: string): Promise<void> {
    for (const ending of ['.json', '.part', '.adopted']) await this.#removeFile(stem + ending)
  }

  async #removeFile(file: string): Promise<void> {
    try {
      await this.#files.remove(file)
      this.#litter.delete(file)
    } catch (error) {
      // It costs space until it can be removed, and nobody's pull.
      if (!this.#litter.has(file)) this.#report(error)
      this.#litter.add(file)
    }
  }
}

/** Says nothing of the file itself. */
function isPassing(error: unknown): boolean {
  const passing = ['EMFILE', 'ENFILE', 'ENOMEM', 'EROFS', 'EACCES', 'EPERM']
  return isDiskFull(error) || passing.includes(systemCode(error) ?? '')
}
