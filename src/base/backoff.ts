/**
 * Exponential back-off after failures in a row.
 */
import type { Milliseconds } from './units.ts'

const FIRST: Milliseconds = 200
const MOST: Milliseconds = 5_000

export function backoff(failures: number): Milliseconds {
  return Math.min(FIRST * 2 ** failures, MOST)
}
