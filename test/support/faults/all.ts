/**
 * Every fault there is.
 */
import { AUTH_FAULTS } from './auth.ts'
import { CONTENT_FAULTS } from './content.ts'
import type { Fault } from './fault.ts'
import { LIMIT_FAULTS } from './limits.ts'
import { REDIRECT_FAULTS } from './redirects.ts'
import { TRANSPORT_FAULTS } from './transport.ts'

export const FAULTS: readonly Fault[] = [
  ...AUTH_FAULTS,
  ...REDIRECT_FAULTS,
  ...LIMIT_FAULTS,
  ...TRANSPORT_FAULTS,
  ...CONTENT_FAULTS,
]
