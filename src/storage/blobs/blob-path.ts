/** Paths of blobs below the root of the storage: `blobs/<algorithm>/<two digits>/<hex>`. */
import path from 'node:path'
import { algorithmOf, hexOf, type Digest } from '../../oci/digest.ts'

const BLOBS = 'blobs'

export function blobPath(root: string, digest: Digest): string {
  return path.join(root, BLOBS, blobName(digest))
}

/** The path below the folder of the blobs, as a URL has it. */
export function blobName(digest: Digest): string {
  const hex = hexOf(digest)
  return `${algorithmOf(digest)}/${hex.slice(0, 2)}/${hex}`
}
