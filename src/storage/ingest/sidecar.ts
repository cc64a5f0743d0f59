/**
 * Sidecar: the JSON file beside a partial file, which says which of its bytes were synced.
 *
 * It is written only after the data was synced, under another name, then synced and renamed: whatever the moment of a
 * crash, a sidecar that can be read tells the truth, and bytes that it does not mention do not count.
 */
import { dirname } from 'node:path'
import { isDigest, type Digest } from '../../oci/digest.ts'
import { ExtentMap } from './extents.ts'
import { readAll } from '../files/read-all.ts'
import { OpenFile } from '../files/open-file.ts'
import { parseIdentity, type PartialIdentity } from './partial-identity.ts'
import type { Files } from '../files/files.ts'

const VERSION = 1

/** A sidecar is a few hundred bytes; a file of megabytes with that name is not ours. */
const MAX_BYTES = 1024 * 1024

interface SidecarContent {
  readonly identity: PartialIdentity
  /** The machine's boot id when it was written. */
  readonly boot: string | undefined
  readonly extents: ExtentMap
  /** The blob as which an upload was about to be adopted. */
  readonly digest?: Digest | undefined
}

/** The sidecars of one partial file: `.json`, and `.adopted` once an upload is about to be adopted. */
export class Sidecar {
  readonly #files: Files
  readonly #stem: string
  readonly #of: Pick<SidecarContent, 'identity' | 'boot'>

  /** @param stem the partial file's path without `.part` */
  constructor(files: Files, stem: string, of: Pick<SidecarContent, 'identity' | 'boot'>) {
    this.#files = files
    this.#stem = stem
    this.#of = { identity: of.identity, boot: of.boot }
  }

  /** Durable when it resolves. The caller must have synced the data before. */
  async write(extents: ExtentMap): Promise<void> {
    const path = `${this.#stem}.json`
    const temporary = `${path}.tmp`
    await this.#files.remove(temporary)
    try {
      using file = await OpenFile.open(this.#files, temporary, 'wx+')
      await file.write([this.#text(extents)], 0)
      await file.datasync()
      await this.#files.rename(temporary, path)
    } catch (error) {
      await this.#files.remove(temporary).catch(() => undefined)
      throw error
    }
    await this.#files.syncFolder(dirname(path))
  }

  /** Makes a new file survive this process, before it has any bytes: nothing is synced. */
  async note(extents: ExtentMap): Promise<void> {
    await this.#note(`${this.#stem}.json`, extents)
  }

  /**
   * Records the blob as which an upload is adopted: a client that repeats its last request is answered by it, should
   * the process die before the index knows the blob. It need only survive the process, so nothing is synced.
   */
  async noteAdopted(extents: ExtentMap, digest: Digest): Promise<void> {
    const path = `${this.#stem}.adopted`
    await this.#files.remove(path)
    await this.#note(path, extents, digest)
  }

  async #note(path: string, extents: ExtentMap, digest?: Digest): Promise<void> {
    using file = await OpenFile.open(this.#files, path, 'wx+')
    await file.write([this.#text(extents, digest)], 0)
  }

  #text(extents: ExtentMap, digest?: Digest): Buffer {
    const content = { version: VERSION, ...this.#of.identity, boot: this.#of.boot, extents, adopted: digest }
    return Buffer.from(`${JSON.stringify(content)}\n`)
  }
}

/** @returns undefined for anything but a sidecar of this version */
export async function readSidecar(files: Files, path: string): Promise<SidecarContent | undefined> {
  const text = await readWhole(files, path)
  if (text === undefined) return undefined
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return undefined
  }
  if (typeof value !== 'object' || value === null) return undefined
  const members = value as Record<string, unknown>
  const identity = members['version'] === VERSION ? parseIdentity(members) : undefined
  const extents = ExtentMap.parse(members['extents'])
  if (identity === undefined || extents === undefined) return undefined
  const { boot, adopted } = members
  return {
    identity,
    boot: typeof boot === 'string' ? boot : undefined,
    extents,
    digest: typeof adopted === 'string' && isDigest(adopted) ? adopted : undefined,
  }
}

async function readWhole(files: Files, path: string): Promise<string | undefined> {
  const info = await files.stat(path)
  if (info?.kind !== 'file' || info.size > MAX_BYTES) return undefined
  using file = await OpenFile.open(files, path, 'r')
  return (await readAll(file, info.size))?.toString()
}
