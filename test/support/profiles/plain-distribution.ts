/**
 * The reference implementation as it comes: open, no redirects, no referrers.
 */
import type { Profile } from './profile.ts'

export const plainDistribution: Profile = {
  key: 'registry.office.example',
  repository: 'team/app',
  format: 'oci',
  options: { referrers: 'unsupported' },
  quirks: () => [],
}
