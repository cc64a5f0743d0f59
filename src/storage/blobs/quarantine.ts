/**
 * Quarantine: `<root>/quarantine/<algorithm>-<hex>` keeps what lay in a blob's place and is not that blob. Nothing in
 * it is ever served, or overwritten.
 */
import path from 'node:path'
import { algorithmOf, hexOf, type Digest } from '../../oci/digest.ts'
import { blobPath } from './blob-path.ts'
import { systemCode, type Files } from '../files/files.ts'
import { PRIVATE_FOLDER } from '../files/private-file.ts'

export const QUARANTINE = 'quarantine'

/** @returns its new path below the root; undefined when there was nothing */
export async function putAside(files: Files, root: string, digest: Digest): Promise<string | undefined> {
  const from = blobPath(root, digest)
  const folder = path.join(root, QUARANTINE)
  await files.makeFolder(folder, PRIVATE_FOLDER)
  await files.syncFolder(root)
  const to = await freeName(files, path.join(folder, `${algorithmOf(digest)}-${hexOf(digest)}`))
  try {
    await files.rename(from, to)
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined
    throw error
  }
  await files.syncFolder(folder)
  await files.syncFolder(path.dirname(from))
  return path.relative(root, to)
}

async function freeName(files: Files, wanted: string): Promise<string> {
  let name = wanted
  for (let number = 2; (await files.stat(name)) !== undefined; number++) name = `${wanted}.${number}`
  return name
}
