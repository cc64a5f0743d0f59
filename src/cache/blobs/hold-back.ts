/**
 * Hold-back of the bytes that wait for the digest: the last 64 KiB of a blob leave only when all of it is verified, so
 * a wrong file never arrives whole, not even by a client that resumes.
 */
import type { Bytes } from '../../base/units.ts'

/** What one client is given of a blob; without an end: all from there on. */
export interface Stretch {
  readonly start: Bytes
  readonly end: Bytes | undefined
}

export const HOLD_BACK: Bytes = 64 * 1024

/**
 * A part that begins within the tail is a lookup (lazy pullers read the footer first), not a download; one that
 * begins where the tail does is how a client that was broken off goes on.
 */
export function holdsBack(size: Bytes | undefined, range: Stretch | undefined): boolean {
  if (range?.end === undefined || size === undefined || size <= HOLD_BACK) return true
  return range.end > size - HOLD_BACK && range.start <= size - HOLD_BACK
}
