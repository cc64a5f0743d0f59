/**
 * Answers that say the wrong thing, or say it oddly.
 */
import type { Fault } from './fault.ts'

export const CONTENT_FAULTS: readonly Fault[] = []
