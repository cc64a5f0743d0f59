/**
 * Upstreams that send us elsewhere, and where that leads.
 */
import type { Fault } from './fault.ts'

export const REDIRECT_FAULTS: readonly Fault[] = []
