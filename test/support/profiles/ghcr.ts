/**
 * ghcr.io: tokens for everybody and everything, also for what is public; a scope in the ping that names nothing;
 * addresses signed for GET alone; and referrers on a web site.
 */
import { admitted, says, unknownManifest, unknownScope, unknownUser, type Profile } from './profile.ts'

const NO_LINK_INDEX = 'OCI index found, but Accept header does not support OCI indexes'

export const ghcr: Profile = {
  key: 'ghcr.io',
  repository: 'octo/app',
  format: 'oci',
  options: {
    token: { service: 'ghcr.io', fields: 'token', noExpiry: true },
    cdn: { status: 307, signedUrlTtlMs: 300_000 },
  },
  quirks: (registry) => {
    const { authUrl, cdnUrl } = registry
    const challenge = `Bearer realm="${authUrl}/token",service="ghcr.io",scope="repository:user/image:pull"`
    const denied = says(403, 'DENIED', 'requested access to the resource is denied')
    return [
      [
        { kind: 'ping' },
        says(401, 'UNAUTHORIZED', 'authentication required', { headers: { 'www-authenticate': challenge } }),
      ],
      [
        { kind: 'manifest', when: admitted(({ headers }) => !acceptsOciIndex(headers.accept)) },
        says(404, 'MANIFEST_UNKNOWN', NO_LINK_INDEX),
      ],
      [{ when: admitted(unknownManifest(registry)) }, says(404, 'MANIFEST_UNKNOWN', 'manifest unknown')],
      [{ when: unknownScope(registry) }, denied],
      [{ when: unknownUser }, denied],
      [
        { kind: 'cdn', method: 'HEAD' },
        {
          status: 403,
          body: {
            text: '<?xml version="1.0"?><Error><Code>AuthenticationFailed</Code></Error>',
            type: 'application/xml',
          },
        },
      ],
      [
        { kind: 'referrers', when: ({ headers }) => headers.authorization !== undefined },
        {
          status: 303,
          body: 'empty',
          headers: { location: `${cdnUrl}/-/v2/packages/container/package/octo%2Fapp%2Freferrers%2Fsha256` },
        },
      ],
      [
        { kind: 'other', when: ({ listener }) => listener === 'cdn' },
        { status: 404, body: 'html' },
      ],
    ]
  },
}

function acceptsOciIndex(accept: string | undefined): boolean {
  return accept?.includes('application/vnd.oci.image.index.v1+json') === true
}
