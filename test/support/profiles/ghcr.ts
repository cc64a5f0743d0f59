/**
 * ghcr.io: tokens for everybody and everything, also for what is public; a scope in the ping that names nothing;
 * addresses signed for GET alone; and referrers on a web site.
 */
import { admitted, says, unknownManifest, unknownScope, unknownUser, type Profile } from './profile.ts'

const account = { username: 'octocat', password: 'ghp_secret' }

export const ghcr: Profile = {
  key: 'ghcr.io',
  repository: 'octo/app',
  format: 'oci',
  account,
  options: {
    token: {
      service: 'ghcr.io',
      credentials: account,
      private: ['octo/private'],
      fields: 'token',
      noExpiry: true,
    },
    cdn: { status: 307, signedUrlTtlMs: 300_000, getOnlySignature: true },
    acceptStrict: true,
    referrers: '303html',
  },
  quirks: (registry) => {
    const challenge = `Bearer realm="${registry.authUrl}/token",service="ghcr.io",scope="repository:user/image:pull"`
    const denied = says(403, 'DENIED', 'requested access to the resource is denied')
    return [
      [
        { kind: 'ping' },
        says(401, 'UNAUTHORIZED', 'authentication required', { headers: { 'www-authenticate': challenge } }),
      ],
      [{ when: admitted(unknownManifest(registry)) }, says(404, 'MANIFEST_UNKNOWN', 'manifest unknown')],
      [{ when: unknownScope(registry) }, denied],
      [{ when: unknownUser(account) }, denied],
      [{ kind: 'token', when: ({ url }) => !url.includes('scope=') }, denied],
      // The web site.
      [
        { kind: 'other', when: ({ listener }) => listener === 'cdn' },
        { status: 404, body: 'html' },
      ],
    ]
  },
}
