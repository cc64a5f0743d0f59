/**
 * mcr.microsoft.com: open, with blobs in a store of its own.
 */
import { says, unknownManifest, unknownRepository, type Profile } from './profile.ts'

export const mcr: Profile = {
  key: 'mcr.microsoft.com',
  repository: 'dotnet/runtime',
  format: 'docker',
  options: { cdn: { status: 307, redirectHead: true, signedUrlTtlMs: 600_000 }, referrers: 'ok' },
  quirks: (registry) => [
    [
      { when: unknownRepository(registry) },
      says(404, 'NAME_UNKNOWN', 'repository name not known to registry'),
    ],
    [
      { when: unknownManifest(registry) },
      says(404, 'MANIFEST_UNKNOWN', 'manifest tagged by "missing" is not found', {
        detail: { Tag: 'missing' },
      }),
    ],
  ],
}
