/**
 * Batches of buffers, cut without copying.
 */

export function byteLength(chunks: readonly Buffer[]): number {
  let length = 0
  for (const chunk of chunks) length += chunk.length
  return length
}

/** The part of `chunks` from `start` on and before `end`, both counted from the batch's first byte. */
export function slice(chunks: readonly Buffer[], start: number, end: number): Buffer[] {
  const parts: Buffer[] = []
  let at = 0
  for (const chunk of chunks) {
    const from = Math.max(start - at, 0)
    const to = Math.min(end - at, chunk.length)
    if (from < to) parts.push(from === 0 && to === chunk.length ? chunk : chunk.subarray(from, to))
    at += chunk.length
    if (at >= end) break
  }
  return parts
}
