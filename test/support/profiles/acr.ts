/**
 * Azure Container Registry: Basic offered beside Bearer, tokens under the other name, and a blob store that takes
 * no second kind of credentials.
 */
import { admitted, says, unknownManifest, unknownUser, type Profile } from './profile.ts'

const account = { username: '00000000-0000-0000-0000-000000000000', password: 'refresh' }

export const acr: Profile = {
  key: 'office.azurecr.io',
  repository: 'team/app',
  format: 'oci',
  account,
  options: {
    token: {
      service: 'office.azurecr.io',
      credentials: account,
      private: ['team/private'],
      fields: 'access_token',
      noExpiry: true,
      hideUnknown: true,
      challenge: (bearer) => ['Basic realm="office.azurecr.io"', bearer],
    },
    cdn: { status: 307, signedUrlTtlMs: 1_200_000 },
    referrers: 'ok',
  },
  quirks: (registry) => [
    [{ kind: 'token', method: 'POST' }, says(400, 'UNSUPPORTED', 'grant type is not supported')],
    [
      { when: admitted(unknownManifest(registry)) },
      says(404, 'MANIFEST_UNKNOWN', 'manifest tagged by "missing" is not found'),
    ],
    [
      { when: unknownUser(account) },
      says(401, 'UNAUTHORIZED', 'authentication required, visit the documentation'),
    ],
    [
      { kind: 'cdn', when: ({ headers }) => headers.authorization !== undefined },
      {
        status: 403,
        body: {
          text: '<?xml version="1.0"?><Error><Code>InvalidAuthenticationInfo</Code></Error>',
          type: 'application/xml',
        },
      },
    ],
  ],
}
