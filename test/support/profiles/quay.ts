/**
 * Quay: tokens that do not say how long they live, a manifest of another type for those who do not list its own,
 * redirects that call themselves good for a year, and a HEAD that is answered without one.
 */
import { admitted, says, unknownManifest, unknownRepository, unknownUser, type Profile } from './profile.ts'

const NOT_AUTHORIZED = 'access to the requested resource is not authorized'

const account = { username: 'office+robot', password: 'ROBOTSECRET' }

export const quay: Profile = {
  key: 'quay.io',
  repository: 'prometheus/node',
  format: 'oci',
  account,
  options: {
    token: {
      service: 'quay.io',
      credentials: account,
      private: ['prometheus/private'],
      fields: 'token',
      noExpiry: true,
    },
    cdn: { status: 302, redirectHead: false },
    referrers: 'ok',
    linkStyle: 'absolute',
    pageSize: 100,
    acceptConverts: 'schema1',
  },
  quirks: (registry) => {
    const { authUrl } = registry
    const challenge = (scope = ''): string => `Bearer realm="${authUrl}/token",service="quay.io"${scope}`
    return [
      [
        { kind: 'ping' },
        {
          status: 401,
          body: { text: 'true', type: 'application/json' },
          headers: { 'www-authenticate': challenge(), 'x-sparse-manifest-support': '1' },
        },
      ],
      // With a token as without one, and without a word on whether the token was to blame.
      [
        { when: unknownRepository(registry) },
        says(401, 'UNAUTHORIZED', NOT_AUTHORIZED, {
          detail: {},
          headers: { 'www-authenticate': challenge(',scope="repository:prometheus/missing:pull"') },
        }),
      ],
      [
        { when: admitted(unknownManifest(registry)) },
        says(404, 'MANIFEST_UNKNOWN', 'manifest unknown', { detail: {} }),
      ],
      [
        { ref: 'expired', when: admitted(unknownManifest(registry)) },
        says(404, 'TAG_EXPIRED', 'Tag expired was deleted or has expired.', { detail: {} }),
      ],
      [
        { when: unknownUser(account) },
        says(401, 'UNAUTHORIZED', 'Could not find robot with the given username', { detail: {} }),
      ],
    ]
  },
}
