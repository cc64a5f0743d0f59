/**
 * Harbor: everything from its own host, and codes of its own for what it does not have.
 */
import { admitted, says, unknownManifest, unknownUser, type Profile } from './profile.ts'

const account = { username: 'robot$office', password: 'secret' }

export const harbor: Profile = {
  key: 'harbor.office.example',
  repository: 'team/app',
  format: 'oci',
  account,
  options: {
    token: {
      service: 'harbor-registry',
      credentials: account,
      private: ['team/private'],
      fields: 'both',
      ttl: 1800,
      hideUnknown: true,
    },
    referrers: 'ok',
  },
  quirks: (registry) => [
    [
      { when: admitted(unknownManifest(registry)) },
      says(404, 'NOT_FOUND', 'artifact team/app:missing not found'),
    ],
    [{ when: unknownUser(account) }, says(401, 'UNAUTHORIZED', 'unauthorized')],
    [{}, { headers: { 'set-cookie': 'sid=4711; Path=/; HttpOnly', etag: undefined } }],
  ],
}
