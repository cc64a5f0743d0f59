/**
 * Hold-back of unverified bytes: the last 64 KiB of a blob leave only when all of it is verified, so a wrong file
 * never arrives whole, not even by a client that resumes.
 */
import type { Bytes } from '../../base/units.ts'

/** The bytes of a blob that one client gets; without an end: to the end of the blob. */
export interface Stretch {
  readonly start: Bytes
  readonly end: Bytes | undefined
}

export const HOLD_BACK: Bytes = 64 * 1024

/**
 * A range that begins within the tail is a lookup (lazy pullers read the footer first), not a download; one that
 * begins where the tail does is how an interrupted client resumes.
 */
export function holdsBack(size: Bytes | undefined, range: Stretch | undefined): boolean {
  if (range?.end === undefined || size === undefined || size <= HOLD_BACK) return true
  return range.end > size - HOLD_BACK && range.start <= size - HOLD_BACK
}
