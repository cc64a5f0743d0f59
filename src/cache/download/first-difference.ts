/**
 * Where two attempts at the same blob differ: a client that has no byte beyond may go on with the right one.
 */
import type { Bytes } from '../../base/units.ts'
import type { GrowingSource } from '../../storage/ingest/ingest.ts'

const STEP: Bytes = 1024 * 1024

/** @returns the offset of the first byte that differs or that `left` lacks; `size` when none does */
export async function firstDifference(
  left: GrowingSource,
  right: GrowingSource,
  size: Bytes,
): Promise<Bytes> {
  const end = Math.min(left.readableTo(0), right.readableTo(0), size)
  const buffers = [Buffer.allocUnsafe(STEP), Buffer.allocUnsafe(STEP)] as const
  for (let at = 0; at < end;) {
    const want = Math.min(STEP, end - at)
    const [here, there] = await Promise.all([
      left.read(buffers[0].subarray(0, want), at),
      right.read(buffers[1].subarray(0, want), at),
    ])
    const length = Math.min(here, there)
    const a = buffers[0].subarray(0, length)
    const b = buffers[1].subarray(0, length)
    if (!a.equals(b)) {
      for (let index = 0; index < length; index += 1) if (a[index] !== b[index]) return at + index
    }
    at += length
  }
  return end
}
