/**
 * Quay: tokens that do not say how long they live, a manifest of another type for those who do not list its own,
 * redirects that call themselves good for a year, and a HEAD that is answered without one.
 */
import { content } from '../images.ts'
import { admitted, says, unknownManifest, unknownRepository, unknownUser, type Profile } from './profile.ts'

const NOT_AUTHORIZED = 'access to the requested resource is not authorized'

/** What a tag becomes for a client of ten years ago. */
const OLD = content(
  'application/vnd.docker.distribution.manifest.v1+prettyjws',
  Buffer.from('{"schemaVersion":1,"name":"prometheus/node","tag":"1","fsLayers":[],"history":[]}'),
)

export const quay: Profile = {
  key: 'quay.io',
  repository: 'prometheus/node',
  format: 'oci',
  options: {
    token: { service: 'quay.io', fields: 'token', noExpiry: true },
    cdn: { status: 302, redirectHead: false },
    referrers: 'ok',
    linkStyle: 'absolute',
    pageSize: 100,
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
      [
        { kind: 'manifest', when: ({ headers }) => !listsOciIndex(headers.accept) },
        { replace: OLD.bytes, digestHeader: OLD.digest, contentType: OLD.mediaType },
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
        { when: unknownUser },
        says(401, 'UNAUTHORIZED', 'Could not find robot with the given username', { detail: {} }),
      ],
    ]
  },
}

// A star in its place is not enough for Quay.
function listsOciIndex(accept: string | undefined): boolean {
  return accept?.includes('application/vnd.oci.image.index.v1+json') === true
}
