/** Reads a small file or blob whole into memory: manifests and sidecars. */
import type { Bytes } from '../../base/units.ts'

interface Reader {
  /** Positional; resolves to the bytes read, 0 only at or after the end. */
  read(buffer: Buffer, position: Bytes): Promise<Bytes>
}

/**
 * The buffer has its memory to itself: a small one that a cache keeps would otherwise keep the slab it is cut from.
 *
 * @returns undefined when the reader ends before `size`
 */
export async function readAll(reader: Reader, size: Bytes): Promise<Buffer | undefined> {
  const bytes = Buffer.allocUnsafeSlow(size)
  for (let at = 0; at < size;) {
    const count = await reader.read(bytes.subarray(at), at)
    if (count === 0) return undefined
    at += count
  }
  return bytes
}
