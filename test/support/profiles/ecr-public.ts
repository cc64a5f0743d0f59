/**
 * ECR Public: one scope for everything, called `aws`; no HEAD for blobs; a digest told by HEAD, not by GET.
 */
import { admitted, says, unknownManifest, unknownRepository, unknownUser, type Profile } from './profile.ts'

const account = { username: 'AWS', password: 'eyJwYXlsb2FkIjoi' }

export const ecrPublic: Profile = {
  key: 'public.ecr.aws',
  repository: 'nginx/nginx',
  format: 'oci',
  account,
  options: {
    token: {
      service: 'public.ecr.aws',
      credentials: account,
      private: ['nginx/private'],
      scope: 'aws',
      fields: 'token',
      noExpiry: true,
    },
    cdn: { status: 307 },
    referrers: 'ok',
    noDigestHeader: 'get',
    blobHead401: true,
  },
  quirks: (registry) => [
    [
      { when: admitted(unknownRepository(registry)) },
      says(404, 'NAME_UNKNOWN', "The repository with name 'missing' does not exist in the registry"),
    ],
    [
      { when: admitted(unknownManifest(registry)) },
      says(404, 'MANIFEST_UNKNOWN', 'Requested image not found'),
    ],
    [{ when: unknownUser(account) }, says(401, 'UNAUTHORIZED', 'Not Authorized')],
  ],
}
