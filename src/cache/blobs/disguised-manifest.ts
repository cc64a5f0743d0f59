/**
 * Recognises by its bytes a manifest that was asked for as a blob, where no manifest in the cache references it.
 */
import { MAX_MANIFEST_BYTES } from '../../oci/descriptor.ts'
import { OciError } from '../../oci/errors.ts'
import { parseManifest } from '../../oci/manifest.ts'
import type { BlobAnswer } from '../answers.ts'

const FIRST_LOOK = 4 * 1024
const OPEN_BRACE = 0x7b

/** Reads to the end only what may be a manifest. @throws what reading it throws */
export async function isManifestIn(answer: BlobAnswer, signal: AbortSignal): Promise<boolean> {
  if ((answer.size ?? 0) > MAX_MANIFEST_BYTES) return false
  await using source = await answer.open(undefined, signal)
  const chunks: Buffer[] = []
  let length = 0
  for (let room = FIRST_LOOK; ; room = 64 * 1024) {
    const chunk = Buffer.alloc(room)
    const read = await source.read(chunk, signal)
    if (read === 0) return isManifest(Buffer.concat(chunks))
    if (chunks.length === 0 && chunk[0] !== OPEN_BRACE) return false
    length += read
    if (length > MAX_MANIFEST_BYTES) return false
    chunks.push(chunk.subarray(0, read))
  }
}

/** A config may have members of these names too: a manifest has to reference something. */
function isManifest(bytes: Buffer): boolean {
  try {
    const { kind, config, manifests, layers } = parseManifest(bytes)
    if (kind === 'unknown') return false
    return kind === 'schema1' || config !== undefined || manifests.length > 0 || layers.length > 0
  } catch (error) {
    if (error instanceof OciError) return false
    throw error
  }
}
