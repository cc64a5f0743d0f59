/**
 * Copies bytes that are to be kept out of the larger buffer that they are a part of.
 *
 * Small buffers are cut from slabs of 64 KiB, and a cache that keeps one for long keeps the slab: it would take sixty
 * times, or more, of the memory that it reckons with.
 */

/** The same buffer, where it has its memory to itself. */
export function compactBuffer(bytes: Buffer): Buffer {
  if (bytes.buffer.byteLength === bytes.length) return bytes
  const copy = Buffer.allocUnsafeSlow(bytes.length)
  bytes.copy(copy)
  return copy
}
