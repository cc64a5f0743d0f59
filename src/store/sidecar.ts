/**
 * The JSON file beside a partial file: which of its bytes were synced.
 *
 * Written only after the data was synced, to another name, synced and renamed: whatever the moment of a crash,
 * a sidecar that can be read tells the truth, and bytes it does not mention do not count.
 */
import { isDigest } from '../oci/digest.ts'
import { ExtentMap } from './extents.ts'
import { OpenFile } from './open-file.ts'
import type { Files } from './files.ts'
import type { IngestIdentity } from './ingest.ts'

const VERSION = 1

/** A sidecar is a few hundred bytes; a file of megabytes with that name is not ours. */
const MAX_BYTES = 1024 * 1024

export async function writeSidecar(
  files: Files,
  path: string,
  identity: IngestIdentity,
  extents: readonly (readonly [number, number])[],
): Promise<void> {
  const { source, digest } = identity
  const text = `${JSON.stringify({ version: VERSION, source, digest, extents })}\n`
  const temporary = `${path}.tmp`
  await files.remove(temporary)
  try {
    using file = await OpenFile.open(files, temporary, 'wx+')
    await file.write([Buffer.from(text)], 0)
    await file.datasync()
    await files.rename(temporary, path)
  } catch (error) {
    await files.remove(temporary).catch(() => undefined)
    throw error
  }
}

/** `undefined` for whatever is not a sidecar of this version. */
export async function readSidecar(
  files: Files,
  path: string,
): Promise<{ identity: IngestIdentity; extents: ExtentMap } | undefined> {
  const text = await readWhole(files, path)
  if (text === undefined) return undefined
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return undefined
  }
  if (typeof value !== 'object' || value === null) return undefined
  const { version, source, digest, extents: ranges } = value as Record<string, unknown>
  if (version !== VERSION || typeof source !== 'string') return undefined
  if (typeof digest !== 'string' || !isDigest(digest)) return undefined
  const extents = ExtentMap.parse(ranges)
  return extents && { identity: { source, digest }, extents }
}

async function readWhole(files: Files, path: string): Promise<string | undefined> {
  const info = await files.stat(path)
  if (info?.kind !== 'file' || info.size > MAX_BYTES) return undefined
  using file = await OpenFile.open(files, path, 'r')
  const buffer = Buffer.alloc(info.size)
  let length = 0
  while (length < buffer.length) {
    const count = await file.read(buffer.subarray(length), length)
    if (count === 0) break
    length += count
  }
  return buffer.toString('utf8', 0, length)
}
