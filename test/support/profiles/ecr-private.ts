/**
 * ECR private: plain Basic with a password of twelve hours, and a 403 that says when those are over.
 */
import { basicOf, says, unknownManifest, unknownRepository, type Profile } from './profile.ts'

const OVER = 'Your authorization token has expired. Reauthenticate and try again.'
const account = { username: 'AWS', password: 'eyJwYXlsb2FkIjoi:fresh' }

export const ecrPrivate: Profile = {
  key: '123456789012.dkr.ecr.eu-west-1.amazonaws.com',
  repository: 'team/app',
  format: 'oci',
  account,
  closed: true,
  options: { basic: account, cdn: { status: 307, signedUrlTtlMs: 3_600_000 }, referrers: 'ok' },
  quirks: (registry) => {
    const right = basicOf(account)
    return [
      [
        { when: unknownRepository(registry) },
        says(404, 'NAME_UNKNOWN', "The repository with name 'team/missing' does not exist in the registry"),
      ],
      [{ when: unknownManifest(registry) }, says(404, 'MANIFEST_UNKNOWN', 'Requested image not found')],
      [
        { when: ({ listener, headers }) => listener === 'registry' && headers.authorization === undefined },
        says(401, 'UNAUTHORIZED', 'Not Authorized', {
          headers: { 'www-authenticate': `Basic realm="${registry.url}/",service="ecr.amazonaws.com"` },
        }),
      ],
      [
        {
          when: ({ listener, headers }) =>
            listener === 'registry' && headers.authorization !== undefined && headers.authorization !== right,
        },
        says(403, 'DENIED', OVER),
      ],
    ]
  },
}
