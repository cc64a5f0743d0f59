import path from 'node:path'
import { algorithmOf, hexOf, type Digest } from '../oci/digest.ts'

/** Where the file of a blob is, or would be. */
export function blobPath(root: string, digest: Digest): string {
  const hex = hexOf(digest)
  return path.join(root, 'blobs', algorithmOf(digest), hex.slice(0, 2), hex)
}
