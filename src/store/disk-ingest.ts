/**
 * The folder of partial files: `<root>/ingest/<algorithm>-<hex>.<random>.part`, each with a `.json` beside it.
 *
 * A partial file belongs to one ingest at a time. What an earlier process left is found once, at the start:
 * only what its sidecar vouches for counts, and what nobody came back for within a day is removed.
 */
import { randomBytes } from 'node:crypto'
import path from 'node:path'
import { algorithmOf, hexOf } from '../oci/digest.ts'
import { ExtentMap } from './extents.ts'
import { nodeFiles, type Files } from './files.ts'
import { OpenFile } from './open-file.ts'
import { DEFAULT_LIMITS, PartialFile, type PartialLimits } from './partial-file.ts'
import { readSidecar } from './sidecar.ts'
import type { Bytes } from './blob-store.ts'
import type { Hashers } from './hasher.ts'
import type { Ingest, IngestIdentity, IngestStore } from './ingest.ts'

const MAX_AGE_MS = 24 * 60 * 60 * 1000

const OUR_NAMES = /^((?:sha256|sha512)-[0-9a-f]+\.[0-9a-f]+)\.(part|json|json\.tmp)$/

export interface IngestOptions {
  /** `storage.root`. */
  readonly root: string
  readonly hashers: Hashers
  readonly files?: Files
  readonly limits?: Partial<PartialLimits>
  readonly now?: () => number
  /** Failures that cost only the chance to resume, or some space for a while. */
  readonly report?: (error: unknown) => void
}

/** A partial file that nobody writes. */
interface Idle {
  readonly stem: string
  readonly identity: IngestIdentity
  readonly extents: ExtentMap
  readonly bytes: Bytes
  readonly modifiedAt: number
}

export async function openIngests(options: IngestOptions): Promise<IngestStore> {
  const store = new DiskIngests(options)
  await store.scan()
  return store
}

class DiskIngests implements IngestStore {
  readonly #folder: string
  readonly #files: Files
  readonly #hashers: Hashers
  readonly #limits: PartialLimits
  readonly #now: () => number
  readonly #report: (error: unknown) => void
  readonly #live = new Set<PartialFile>()
  readonly #idle = new Map<string, Idle>()
  /** What could not be removed. None of these names is used again. */
  readonly #litter = new Set<string>()
  #closed = false

  constructor(options: IngestOptions) {
    this.#folder = path.resolve(options.root, 'ingest')
    this.#files = options.files ?? nodeFiles
    this.#hashers = options.hashers
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits }
    this.#now = options.now ?? Date.now
    this.#report = options.report ?? (() => undefined)
  }

  get bytes(): Bytes {
    let sum = 0
    for (const { bytes } of this.#idle.values()) sum += bytes
    for (const { bytes } of this.#live) sum += bytes
    return sum
  }

  async scan(): Promise<void> {
    await this.#files.makeFolder(path.dirname(this.#folder))
    await this.#files.makeFolder(this.#folder)
    await this.#files.syncFolder(path.dirname(this.#folder))
    const stems = new Set<string>()
    for (const name of (await this.#files.list(this.#folder)) ?? []) {
      const [, stem, ending] = OUR_NAMES.exec(name) ?? []
      if (stem === undefined) continue
      if (ending === 'json.tmp') await this.#removeFile(path.join(this.#folder, name))
      else stems.add(path.join(this.#folder, stem))
    }
    for (const stem of stems) {
      const idle = await this.#examine(stem).catch(this.#report)
      if (idle) await this.#park(idle)
      else await this.#remove(stem)
    }
  }

  async open(identity: IngestIdentity, options: { fresh?: boolean } = {}): Promise<Ingest> {
    if (this.#closed) throw new Error('the folder of partial files has been closed')
    await this.#expire()
    for (const file of [...this.#litter]) await this.#removeFile(file)
    const idle = this.#take(identity)
    if (idle) {
      const resumed = options.fresh === true ? undefined : await this.#resume(idle)
      if (resumed) return resumed
      await this.#remove(idle.stem)
    }
    const name = `${algorithmOf(identity.digest)}-${hexOf(identity.digest)}.${randomBytes(6).toString('hex')}`
    const stem = path.join(this.#folder, name)
    const file = await OpenFile.open(this.#files, `${stem}.part`, 'wx+')
    return this.#start(identity, stem, file, new ExtentMap())
  }

  async close(): Promise<void> {
    this.#closed = true
    await Promise.all([...this.#live].map((ingest) => ingest.keep()))
  }

  /** What the sidecar says and the file confirms; `undefined` when that is nothing. */
  async #examine(stem: string): Promise<Idle | undefined> {
    const info = await this.#files.stat(`${stem}.part`)
    if (info?.kind !== 'file' || this.#now() - info.modifiedAt > MAX_AGE_MS) return undefined
    // It was adopted, and of that rename a power loss left both names: whoever writes here writes to the blob.
    if (info.links > 1) return undefined
    const sidecar = await readSidecar(this.#files, `${stem}.json`)
    if (!sidecar) return undefined
    const { identity, extents } = sidecar
    const named = `${algorithmOf(identity.digest)}-${hexOf(identity.digest)}.`
    if (!path.basename(stem).startsWith(named)) return undefined
    extents.clip(info.size)
    const { bytes } = extents
    return bytes === 0 ? undefined : { stem, identity, extents, bytes, modifiedAt: info.modifiedAt }
  }

  /** One per identity: the one that has more. */
  async #park(idle: Idle): Promise<void> {
    const key = keyOf(idle.identity)
    const other = this.#idle.get(key)
    const [better, worse] = other && other.bytes > idle.bytes ? [other, idle] : [idle, other]
    this.#idle.set(key, better)
    if (worse) await this.#remove(worse.stem)
  }

  #take(identity: IngestIdentity): Idle | undefined {
    const key = keyOf(identity)
    const idle = this.#idle.get(key)
    this.#idle.delete(key)
    return idle
  }

  async #expire(): Promise<void> {
    for (const idle of [...this.#idle.values()]) {
      if (this.#now() - idle.modifiedAt <= MAX_AGE_MS) continue
      this.#take(idle.identity)
      await this.#remove(idle.stem)
    }
  }

  async #resume(idle: Idle): Promise<Ingest | undefined> {
    try {
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
      return this.#start(idle.identity, idle.stem, file, idle.extents)
    } catch (error) {
      this.#report(error)
      return undefined
    }
  }

  #start(identity: IngestIdentity, stem: string, file: OpenFile, inherited: ExtentMap): Ingest {
    let ingest: PartialFile
    const ended = async (extents: ExtentMap | undefined): Promise<void> => {
      this.#live.delete(ingest)
      if (!extents) return
      await this.#park({ stem, identity, extents, bytes: extents.bytes, modifiedAt: this.#now() })
    }
    try {
      ingest = new PartialFile({
        files: this.#files,
        hashers: this.#hashers,
        identity,
        stem,
        folder: this.#folder,
        file,
        inherited,
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
    await this.#removeFile(`${stem}.json`)
    await this.#removeFile(`${stem}.part`)
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

function keyOf(identity: IngestIdentity): string {
  return `${identity.digest} ${identity.source}`
}
