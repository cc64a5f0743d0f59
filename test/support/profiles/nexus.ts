/**
 * Nexus behind nginx: no digests in heads, lengths only sometimes, weak tags, types with a charset.
 */
import type { Profile } from './profile.ts'

const account = { username: 'reader', password: 'reader' }

export const nexus: Profile = {
  key: 'nexus.office.example',
  repository: 'team/app',
  format: 'docker',
  account,
  closed: true,
  options: {
    basic: account,
    referrers: 'unsupported',
    noDigestHeader: 'both',
    weakEtag: true,
    contentTypeMode: 'charset',
  },
  quirks: () => [
    [{ kind: 'manifest' }, { headers: { vary: 'Accept-Encoding' } }],
    [
      { kind: 'blob', method: 'GET' },
      { digestHeader: 'none', noContentLength: true },
    ],
  ],
}
