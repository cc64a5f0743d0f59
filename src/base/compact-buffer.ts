/**
 * Copies bytes that a cache keeps out of the larger buffer that they are a part of.
 *
 * Node cuts small buffers from slabs of 64 KiB, and a cache that keeps one keeps the slab: it would take sixty times,
 * or more, of the memory that it accounts for.
 */

/** @returns the same buffer, if it has its memory to itself */
export function compactBuffer(bytes: Buffer): Buffer {
  if (bytes.buffer.byteLength === bytes.length) return bytes
  const copy = Buffer.allocUnsafeSlow(bytes.length)
  bytes.copy(copy)
  return copy
}
