/**
 * Bytes that are to be kept: a buffer of their own, not a part of a larger one that stays with them.
 *
 * Small buffers are cut from slabs of 64 KiB, and whoever keeps one for long keeps the slab: the room that a cache
 * reckons with would be a sixtieth, or less, of what it takes.
 */

/** The same bytes; a copy unless they have their memory to themselves. */
export function compactBuffer(bytes: Buffer): Buffer {
  if (bytes.buffer.byteLength === bytes.length) return bytes
  const copy = Buffer.allocUnsafeSlow(bytes.length)
  bytes.copy(copy)
  return copy
}
