/**
 * Upstreams that have heard enough of us.
 */
import type { Fault } from './fault.ts'

export const LIMIT_FAULTS: readonly Fault[] = []
