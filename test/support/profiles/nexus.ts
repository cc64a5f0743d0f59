/**
 * Nexus behind nginx: no digests in heads, lengths only sometimes, weak tags, types with a charset.
 */
import type { Profile } from './profile.ts'

const credentials = { username: 'reader', password: 'reader' }

export const nexus: Profile = {
  key: 'nexus.office.example',
  repository: 'team/app',
  format: 'docker',
  credentials,
  options: { basic: credentials, referrers: 'unsupported' },
  quirks: () => [
    [
      { kind: 'manifest' },
      { digestHeader: 'none', headers: { etag: 'W/"5f3a"', vary: 'Accept-Encoding', server: 'Nexus/3.70' } },
    ],
    [
      { kind: 'blob', method: 'GET' },
      { digestHeader: 'none', noContentLength: true },
    ],
    [{ kind: 'ping' }, { headers: { server: 'Nexus/3.70' } }],
  ],
}
