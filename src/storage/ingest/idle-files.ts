/**
 * Partial files without a writer: those that an earlier process left, found at the start, and those of this one.
 *
 * One is kept for each identity. In a download only the bytes that the sidecar vouches for count. An upload is
 * written from 0 on without gaps, so all of its file counts until the machine goes down. A file that no client
 * resumes in time is removed.
 */
import path from 'node:path'
import type { Bytes } from '../../base/units.ts'
import type { Files } from '../files/files.ts'
import { PRIVATE_FOLDER } from '../files/private-file.ts'
import type { ExtentMap } from './extents.ts'
import type { AdoptedUpload } from './ingest.ts'
import { isNamedFor, isUpload, keyOf, parseFileName, type PartialIdentity } from './partial-identity.ts'
import { readSidecar } from './sidecar.ts'

const DAY_MS = 24 * 60 * 60 * 1000

export interface Idle<Identity extends PartialIdentity = PartialIdentity> {
  readonly stem: string
  readonly identity: Identity
  readonly extents: ExtentMap
  readonly bytes: Bytes
  /** Disk space of the file, with the bytes that do not count. */
  readonly onDisk: Bytes
  /** How many of `bytes` were never synced. */
  readonly unsynced: Bytes
  readonly modifiedAt: number
  /** The disk had no room for the rest of it. */
  readonly stranded: boolean
}

interface IdleFilesOptions {
  /** `<root>/ingest`. */
  readonly folder: string
  readonly files: Files
  /** How long an upload is kept. Default: a day, as for a download. */
  readonly sessionTtlMs: number | undefined
  readonly boot: string | undefined
  readonly now: () => number
  readonly report: (error: unknown) => void
}

interface Adopted extends AdoptedUpload {
  readonly stem: string
  readonly since: number
}

export class IdleFiles {
  readonly #options: IdleFilesOptions
  readonly #files: Files
  readonly #sessionTtlMs: number
  readonly #idle = new Map<string, Idle>()
  /** Uploads by session. */
  readonly #adopted = new Map<string, Adopted>()
  /** Files that could not be removed; their names are never used again. */
  readonly #litter = new Set<string>()

  constructor(options: IdleFilesOptions) {
    this.#options = options
    this.#files = options.files
    this.#sessionTtlMs = options.sessionTtlMs ?? DAY_MS
  }

  all(): Iterable<Idle> {
    return this.#idle.values()
  }

  get(key: string): Idle | undefined {
    return this.#idle.get(key)
  }

  adoptedUpload(session: string): AdoptedUpload | undefined {
    return this.#adopted.get(session)
  }

  noteAdopted(session: string, upload: Adopted): void {
    this.#adopted.set(session, upload)
  }

  /** Finds the partial files of an earlier process. */
  async scan(): Promise<void> {
    const { folder, report } = this.#options
    await this.#files.makeFolder(path.dirname(folder))
    await this.#files.makeFolder(folder, PRIVATE_FOLDER)
    await this.#files.syncFolder(path.dirname(folder))
    const stems = new Set<string>()
    for (const name of (await this.#files.list(folder)) ?? []) {
      const ours = parseFileName(name)
      if (ours === undefined) continue
      if (ours.ending === 'json.tmp') await this.removeFile(path.join(folder, name))
      else stems.add(path.join(folder, ours.base))
    }
    for (const stem of stems) {
      const idle = await this.#examine(stem).catch(report)
      if (idle) await this.park(idle)
      else if (!(await this.#findAdopted(stem).catch(report))) await this.remove(stem)
    }
  }

  /** @returns undefined when there is nothing to resume */
  async #examine(stem: string): Promise<Idle | undefined> {
    const info = await this.#files.stat(`${stem}.part`)
    if (info?.kind !== 'file') return undefined
    // A second link means that the file was adopted and a power loss kept both names: a write would change the blob.
    if (info.links > 1) return undefined
    const sidecar = await readSidecar(this.#files, `${stem}.json`)
    if (!sidecar || !isNamedFor(path.basename(stem), sidecar.identity)) return undefined
    const { identity, boot, extents } = sidecar
    extents.clip(info.size)
    const vouched = extents.bytes
    if (isUpload(identity) && boot !== undefined && boot === this.#options.boot) extents.add(0, info.size)
    const { bytes } = extents
    if (bytes === 0 && !isUpload(identity)) return undefined
    const idle = {
      stem,
      identity,
      extents,
      bytes,
      // Holes take no disk space; bytes behind the last extent do, though they do not count.
      onDisk: bytes + info.size - extents.end,
      unsynced: bytes - vouched,
      modifiedAt: info.modifiedAt,
      stranded: false,
    }
    return this.#isExpired(idle) ? undefined : idle
  }

  /** @returns whether the upload's bytes were adopted as a blob */
  async #findAdopted(stem: string): Promise<boolean> {
    const info = await this.#files.stat(`${stem}.adopted`)
    if (info === undefined || (await this.#files.stat(`${stem}.part`)) !== undefined) return false
    if (this.#options.now() - info.modifiedAt > this.#sessionTtlMs) return false
    const sidecar = await readSidecar(this.#files, `${stem}.adopted`)
    if (sidecar?.digest === undefined || !isNamedFor(path.basename(stem), sidecar.identity)) return false
    if (!isUpload(sidecar.identity)) return false
    await this.removeFile(`${stem}.json`)
    const { session, repository } = sidecar.identity
    this.#adopted.set(session, { repository, digest: sidecar.digest, stem, since: info.modifiedAt })
    return true
  }

  /** Takes back a file whose writer has ended. Of two with one identity it keeps the one that has more bytes. */
  async park(idle: Idle): Promise<void> {
    const key = keyOf(idle.identity)
    const other = this.#idle.get(key)
    const [better, worse] = other && other.bytes > idle.bytes ? [other, idle] : [idle, other]
    this.#idle.set(key, better)
    if (worse) await this.remove(worse.stem)
  }

  /** @returns the disk space that was freed */
  async drop(key: string): Promise<Bytes> {
    const idle = this.take(key)
    if (idle === undefined) return 0
    await this.remove(idle.stem)
    return idle.onDisk
  }

  /** Hands the file to a writer. */
  take<Identity extends PartialIdentity>(key: string): Idle<Identity> | undefined {
    const idle = this.#idle.get(key)
    this.#idle.delete(key)
    return idle as Idle<Identity> | undefined
  }

  async expire(): Promise<void> {
    for (const [key, idle] of [...this.#idle]) {
      if (!this.#isExpired(idle)) continue
      this.#idle.delete(key)
      await this.remove(idle.stem)
    }
    for (const [session, { since }] of [...this.#adopted]) {
      if (this.#options.now() - since > this.#sessionTtlMs) await this.forgetAdopted(session)
    }
  }

  async removeLitter(): Promise<void> {
    for (const file of [...this.#litter]) await this.removeFile(file)
  }

  #isExpired({ identity, modifiedAt }: Idle): boolean {
    return this.#options.now() - modifiedAt > (isUpload(identity) ? this.#sessionTtlMs : DAY_MS)
  }

  async remove(stem: string): Promise<void> {
    for (const ending of ['.json', '.part', '.adopted']) await this.removeFile(stem + ending)
  }

  async removeFile(file: string): Promise<void> {
    try {
      await this.#files.remove(file)
      this.#litter.delete(file)
    } catch (error) {
      // The file costs disk space until it can be removed, but fails no pull.
      if (!this.#litter.has(file)) this.#options.report(error)
      this.#litter.add(file)
    }
  }

  /** Called once the index knows of the blob. */
  async forgetAdopted(session: string): Promise<void> {
    const adopted = this.#adopted.get(session)
    this.#adopted.delete(session)
    if (adopted !== undefined) await this.remove(adopted.stem)
  }
}
