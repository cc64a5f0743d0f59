/**
 * The JSON file beside a partial file: which of its bytes were synced.
 *
 * Written only after the data was synced, to another name, synced and renamed: whatever the moment of a crash,
 * a sidecar that can be read tells the truth, and bytes it does not mention do not count.
 */
import { isDigest, type Digest } from '../../oci/digest.ts'
import { ExtentMap } from './extents.ts'
import { readAll } from '../files/read-all.ts'
import { OpenFile } from '../files/open-file.ts'
import { parseIdentity, type PartialIdentity } from './partial-identity.ts'
import type { Files } from '../files/files.ts'

const VERSION = 1

/** A sidecar is a few hundred bytes; a file of megabytes with that name is not ours. */
const MAX_BYTES = 1024 * 1024

interface Sidecar {
  readonly identity: PartialIdentity
  /** The run of the machine in which it was written. */
  readonly boot: string | undefined
  readonly extents: ExtentMap
  /** As which blob its bytes were about to leave. */
  readonly digest?: Digest | undefined
}

export async function writeSidecar(files: Files, path: string, sidecar: Sidecar): Promise<void> {
  const temporary = `${path}.tmp`
  await files.remove(temporary)
  try {
    using file = await OpenFile.open(files, temporary, 'wx+')
    await file.write([textOf(sidecar)], 0)
    await file.datasync()
    await files.rename(temporary, path)
  } catch (error) {
    await files.remove(temporary).catch(() => undefined)
    throw error
  }
}

/** Of a file without bytes, or one that leaves: it need only outlive the process, so nothing is synced. */
export async function noteSidecar(files: Files, path: string, sidecar: Sidecar): Promise<void> {
  using file = await OpenFile.open(files, path, 'wx+')
  await file.write([textOf(sidecar)], 0)
}

/** `undefined` for whatever is not a sidecar of this version. */
export async function readSidecar(files: Files, path: string): Promise<Sidecar | undefined> {
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

function textOf({ identity, boot, extents, digest }: Sidecar): Buffer {
  return Buffer.from(`${JSON.stringify({ version: VERSION, ...identity, boot, extents, adopted: digest })}\n`)
}

async function readWhole(files: Files, path: string): Promise<string | undefined> {
  const info = await files.stat(path)
  if (info?.kind !== 'file' || info.size > MAX_BYTES) return undefined
  using file = await OpenFile.open(files, path, 'r')
  return (await readAll(file, info.size))?.toString()
}
