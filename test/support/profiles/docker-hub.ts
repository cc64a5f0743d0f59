/**
 * Docker Hub: two names for one repository, quotas told in heads, and "no such repository" told as 401.
 */
import { admitted, says, unknownManifest, unknownUser, type Profile } from './profile.ts'

const account = { username: 'office', password: 'dckr_pat_secret' }

export const dockerHub: Profile = {
  key: 'docker.io',
  repository: 'library/thing',
  format: 'docker',
  account,
  options: {
    token: {
      service: 'registry.docker.io',
      credentials: account,
      private: ['library/private'],
      ttl: 300,
      fields: 'both',
      hideUnknown: true,
    },
    cdn: { status: 307, redirectHead: true },
    referrers: 'unsupported',
    rateLimit: { limit: 100, source: '192.0.2.1' },
  },
  quirks: (registry) => [
    [
      { kind: 'manifest', when: admitted(unknownManifest(registry)) },
      says(404, 'MANIFEST_UNKNOWN', 'manifest unknown', { detail: 'unknown tag=missing' }),
    ],
    [
      { kind: 'blob' },
      { headers: { 'content-type': 'application/octet-stream', 'cache-control': undefined } },
    ],
    [
      { kind: 'cdn' },
      { headers: { etag: '"9b7d2f0c1f6d4e"', 'cf-cache-status': 'HIT', 'cache-control': 'max-age=14400' } },
    ],
    [
      { when: unknownUser(account) },
      {
        status: 401,
        body: { text: '{"details":"incorrect username or password"}', type: 'application/json' },
      },
    ],
  ],
}
