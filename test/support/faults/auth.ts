/**
 * Upstreams that will not let us in: tokens, challenges, credentials.
 */
import type { Fault } from './fault.ts'

export const AUTH_FAULTS: readonly Fault[] = []
