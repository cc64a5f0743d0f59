/**
 * Method and path -> what is asked for. One table of all endpoints, read from the right.
 *
 * `blobs`, `manifests`, `tags` … are legal components of a repository name, so only the *end* of a path
 * says what it is: `/v2/blobs/uploads/manifests/latest` is a manifest of repository `blobs/uploads`.
 * Spec: distribution-spec § Endpoints.
 */
import type { Digest } from './digest.ts'
import type { Reference, RepositoryName } from './reference.ts'

/** What the caller wants to do; the word that authorization rules use. */
export type Access = 'pull' | 'push' | 'delete' | 'catalog' | 'none'

export type Route = { readonly access: Access; readonly query: URLSearchParams } & (
  | { readonly endpoint: 'base' | 'catalog' | 'livez' | 'readyz' | 'metrics' }
  | { readonly endpoint: 'manifest'; readonly repository: RepositoryName; readonly reference: Reference }
  | { readonly endpoint: 'blob'; readonly repository: RepositoryName; readonly digest: Digest }
  | { readonly endpoint: 'uploads' | 'tags'; readonly repository: RepositoryName }
  | { readonly endpoint: 'upload'; readonly repository: RepositoryName; readonly session: string }
  | { readonly endpoint: 'referrers'; readonly repository: RepositoryName; readonly digest: Digest }
)
