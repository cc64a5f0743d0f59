/**
 * ECR Public: one scope for everything, called `aws`; no HEAD for blobs; a digest told by HEAD, not by GET.
 */
import { admitted, says, unknownManifest, unknownRepository, unknownUser, type Profile } from './profile.ts'

export const ecrPublic: Profile = {
  key: 'public.ecr.aws',
  repository: 'nginx/nginx',
  format: 'oci',
  options: {
    token: { service: 'public.ecr.aws', scope: 'aws', fields: 'token', noExpiry: true },
    cdn: { status: 307 },
    referrers: 'ok',
  },
  quirks: (registry) => [
    [{ kind: 'manifest', method: 'GET' }, { digestHeader: 'none' }],
    [
      { kind: 'blob', method: 'HEAD' },
      says(401, 'UNAUTHORIZED', 'Not Authorized', {
        headers: {
          'www-authenticate': `Bearer realm="${registry.authUrl}/token",service="public.ecr.aws",scope="aws"`,
        },
      }),
    ],
    [
      { when: admitted(unknownRepository(registry)) },
      says(404, 'NAME_UNKNOWN', "The repository with name 'missing' does not exist in the registry"),
    ],
    [
      { when: admitted(unknownManifest(registry)) },
      says(404, 'MANIFEST_UNKNOWN', 'Requested image not found'),
    ],
    [{ when: unknownUser }, says(401, 'UNAUTHORIZED', 'Not Authorized')],
  ],
}
