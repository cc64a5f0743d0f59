/**
 * registry.k8s.io: open, and nothing but redirects; manifests to Artifact Registry, under another name there,
 * blobs likewise, from where they are sent on.
 */
import { says, unknownManifest, unknownRepository, type Profile } from './profile.ts'

/** `<region>-docker.pkg.dev`, for readers without a token. */
const artifactRegistry: Profile = {
  key: 'pkg.dev',
  repository: 'k8s-artifacts-prod/images/pause',
  format: 'docker',
  options: { cdn: { status: 302, location: 'relative', rejectAuthorization: false }, referrers: 'ok' },
  quirks: (registry) => [
    [
      { kind: 'ping' },
      says(401, 'UNAUTHORIZED', 'authentication failed', {
        headers: { 'www-authenticate': `Bearer realm="${registry.authUrl}/token",service="pkg.dev"` },
      }),
    ],
    [{ when: unknownRepository(registry) }, says(404, 'NAME_UNKNOWN', 'Repository not found')],
    [{ when: unknownManifest(registry) }, says(404, 'MANIFEST_UNKNOWN', 'Failed to fetch "missing"')],
  ],
}

export const k8s: Profile = {
  key: 'registry.k8s.io',
  repository: 'pause',
  format: 'docker',
  options: {},
  quirks: () => [[{ kind: 'ping' }, { status: 200, body: 'empty' }]],
  behind: { profile: artifactRegistry, prefix: 'k8s-artifacts-prod/images' },
}
