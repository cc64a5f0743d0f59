/**
 * gcr.io as the front of Artifact Registry: a 401 that does not say where tokens are to be had, a token service
 * that refuses in the registry's place, and blobs at a relative address of the same host.
 */
import { admitted, says, unknownManifest, unknownScope, unknownUser, type Profile } from './profile.ts'

const MAY_NOT =
  'Unauthenticated request. Unauthenticated requests do not have permission ' +
  '"artifactregistry.repositories.downloadArtifacts" on resource ' +
  '"projects/p/locations/us/repositories/gcr.io" (or it may not exist)'

const account = {
  username: '_json_key',
  password: '{\n  "type": "service_account",\n  "key": "ü:-----BEGIN\\n"\n}\n',
}

export const gcr: Profile = {
  key: 'gcr.io',
  repository: 'distroless/static',
  format: 'docker',
  account,
  options: {
    token: {
      service: 'gcr.io',
      credentials: account,
      private: ['distroless/private'],
      challenge: 'none',
      fields: 'token',
      ttl: 3600,
    },
    cdn: { status: 302, location: 'relative', rejectAuthorization: false },
    referrers: 'ok',
    tagsList: 'extraKeys',
  },
  quirks: (registry) => [
    [{ kind: 'token', method: 'POST' }, says(404, 'NOT_FOUND', 'page not found')],
    [{ when: unknownScope(registry) }, says(403, 'DENIED', MAY_NOT)],
    [
      { when: admitted(unknownManifest(registry)) },
      says(404, 'MANIFEST_UNKNOWN', 'Failed to fetch "missing"', { detail: '' }),
    ],
    [{ when: unknownUser(account) }, says(401, 'UNAUTHORIZED', 'authentication failed')],
  ],
}
