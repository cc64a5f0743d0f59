/** Paths of blobs below the root of the storage: `blobs/<algorithm>/<two digits>/<hex>`. */
import path from 'node:path'
import { algorithmOf, hexOf, type Digest } from '../../oci/digest.ts'

/** Below a root: where all of them are. */
const BLOBS = 'blobs'

/** Where the file of a blob is, or would be. */
export function blobPath(root: string, digest: Digest): string {
  return path.join(root, BLOBS, blobName(digest))
}

/** The same below the folder of the blobs, as a URL has it. */
export function blobName(digest: Digest): string {
  const hex = hexOf(digest)
  return `${algorithmOf(digest)}/${hex.slice(0, 2)}/${hex}`
}
