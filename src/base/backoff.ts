/**
 * How long upstream is left alone after failures in a row: longer each time.
 */
import type { Milliseconds } from './units.ts'

const FIRST: Milliseconds = 200
const MOST: Milliseconds = 5_000

export function backoff(failures: number): Milliseconds {
  return Math.min(FIRST * 2 ** failures, MOST)
}
