/**
 * Router: method and path to a typed route. One table of all endpoints, matched from the right.
 *
 * `blobs`, `manifests`, `tags` … are legal components of a repository name, so only the *end* of a path tells its
 * endpoint: `/v2/blobs/uploads/manifests/latest` is a manifest of repository `blobs/uploads`.
 * Spec: distribution-spec § Endpoints.
 */
import { parseDigest, type Digest } from '../oci/digest.ts'
import { OciError } from '../oci/errors.ts'
import { parseReference, parseRepositoryName, type Reference, type RepositoryName } from '../oci/reference.ts'

/** Kind of access that a request needs, in the words of authorization rules. */
export type Access = 'pull' | 'push' | 'delete' | 'catalog' | 'none'

export type Route = { readonly access: Access; readonly query: URLSearchParams } & (
  | { readonly endpoint: 'root' | 'base' | 'livez' | 'readyz' | 'metrics' | 'v1-ping' }
  | { readonly endpoint: 'catalog' }
  | { readonly endpoint: 'search' }
  | { readonly endpoint: 'explain' }
  | { readonly endpoint: 'manifest'; readonly repository: RepositoryName; readonly reference: Reference }
  | { readonly endpoint: 'blob'; readonly repository: RepositoryName; readonly digest: Digest }
  | { readonly endpoint: 'uploads'; readonly repository: RepositoryName }
  | { readonly endpoint: 'tags'; readonly repository: RepositoryName }
  | { readonly endpoint: 'upload'; readonly repository: RepositoryName; readonly session: string }
  | { readonly endpoint: 'referrers'; readonly repository: RepositoryName; readonly digest: Digest }
)

export type Endpoint = Route['endpoint']
export type RouteTo<E extends Endpoint> = Route & { readonly endpoint: E }

interface EndpointRow {
  readonly endpoint: Endpoint
  /** `<name>` takes one or more components, `<value>` exactly one. */
  readonly pattern: string
  readonly methods: Readonly<Record<string, Access>>
}

const READ = { GET: 'none', HEAD: 'none' } as const
const PULL = { GET: 'pull', HEAD: 'pull' } as const

/** First match wins. */
export const ENDPOINTS = [
  { endpoint: 'root', pattern: '/', methods: { ...READ, OPTIONS: 'none' } },
  { endpoint: 'livez', pattern: '/livez', methods: READ },
  { endpoint: 'readyz', pattern: '/readyz', methods: READ },
  { endpoint: 'metrics', pattern: '/metrics', methods: READ },
  { endpoint: 'v1-ping', pattern: '/v1/_ping', methods: READ },
  { endpoint: 'search', pattern: '/v1/search', methods: { GET: 'catalog', HEAD: 'catalog' } },
  { endpoint: 'explain', pattern: '/_entrepot/explain', methods: PULL },
  { endpoint: 'base', pattern: '/v2/', methods: READ },
  { endpoint: 'base', pattern: '/v2', methods: READ },
  { endpoint: 'catalog', pattern: '/v2/_catalog', methods: { GET: 'catalog', HEAD: 'catalog' } },
  { endpoint: 'uploads', pattern: '/v2/<name>/blobs/uploads/', methods: { POST: 'push' } },
  // Some clients omit the slash; `uploads` is no digest, so the path is unambiguous.
  { endpoint: 'uploads', pattern: '/v2/<name>/blobs/uploads', methods: { POST: 'push' } },
  {
    endpoint: 'manifest',
    pattern: '/v2/<name>/manifests/<value>',
    methods: { ...PULL, PUT: 'push', DELETE: 'delete' },
  },
  { endpoint: 'blob', pattern: '/v2/<name>/blobs/<value>', methods: { ...PULL, DELETE: 'delete' } },
  { endpoint: 'tags', pattern: '/v2/<name>/tags/list', methods: PULL },
  { endpoint: 'referrers', pattern: '/v2/<name>/referrers/<value>', methods: PULL },
  {
    endpoint: 'upload',
    pattern: '/v2/<name>/blobs/uploads/<value>',
    methods: { GET: 'push', HEAD: 'push', PATCH: 'push', PUT: 'push', DELETE: 'push' },
  },
] as const satisfies readonly EndpointRow[]

const ROWS = ENDPOINTS.map((row: EndpointRow) => {
  const [exact, tail] = row.pattern.split('<name>')
  return { ...row, exact, tail: tail?.split('/').slice(1) }
})

/** Suffices for a name of 255 characters, a digest, and a cursor. */
const MAX_TARGET_LENGTH = 8 * 1024

/** This server's ids are `<replica>.<random>`; the first character keeps an id from being a relative path. */
const SESSION = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/

const MALFORMED_PERCENT = /%(?![0-9A-Fa-f]{2})/

/**
 * @param target as in the request line
 * @throws OciError NOT_FOUND, UNSUPPORTED (with `allow`), BAD_REQUEST, URI_TOO_LONG, or the errors of the parsers of
 *   its values
 */
export function parseRoute(method: string, target: string): Route {
  if (target.length > MAX_TARGET_LENGTH) throw new OciError('URI_TOO_LONG', { limit: MAX_TARGET_LENGTH })
  // `*` is no resource here, and `readHost` has rewritten every absolute target of this server to a path.
  if (!target.startsWith('/')) throw new OciError('BAD_REQUEST', { reason: 'the target is not a path' })
  const mark = target.indexOf('?')
  const path = decode(mark < 0 ? target : target.slice(0, mark))
  const search = mark < 0 ? '' : target.slice(mark + 1)
  if (MALFORMED_PERCENT.test(search)) throw malformedPercent()

  const found = match(path)
  if (found === undefined) throw new OciError('NOT_FOUND', { path: path.slice(0, 300) })
  const { row, name, value } = found
  const access = Object.hasOwn(row.methods, method) ? row.methods[method] : undefined
  if (access === undefined) {
    throw new OciError('UNSUPPORTED', { method }, { allow: Object.keys(row.methods) })
  }

  const common = { access, query: new URLSearchParams(search) }
  switch (row.endpoint) {
    case 'root':
    case 'base':
    case 'livez':
    case 'readyz':
    case 'metrics':
    case 'v1-ping':
      return { ...common, endpoint: row.endpoint }
    case 'catalog':
    case 'search':
    case 'explain':
      return { ...common, endpoint: row.endpoint }
    case 'uploads':
    case 'tags':
      return { ...common, endpoint: row.endpoint, repository: parseRepositoryName(name) }
    case 'manifest': {
      const repository = parseRepositoryName(name)
      return { ...common, endpoint: row.endpoint, repository, reference: referenceOf(value, access) }
    }
    case 'blob':
    case 'referrers': {
      const repository = parseRepositoryName(name)
      return { ...common, endpoint: row.endpoint, repository, digest: parseDigest(value) }
    }
    case 'upload': {
      const repository = parseRepositoryName(name)
      if (!SESSION.test(value)) throw new OciError('BLOB_UPLOAD_UNKNOWN')
      return { ...common, endpoint: row.endpoint, repository, session: value }
    }
  }
}

/** No tag of illegal form exists: a client that pulls one is told that it is unknown, as for any other missing tag. */
function referenceOf(value: string, access: Access): Reference {
  try {
    return parseReference(value)
  } catch (cause) {
    if (access !== 'pull' || !(cause instanceof OciError) || cause.code !== 'TAG_INVALID') throw cause
    throw new OciError('MANIFEST_UNKNOWN', cause.detail, { cause })
  }
}

function match(path: string): { row: EndpointRow; name: string; value: string } | undefined {
  const components = path.split('/')
  for (const row of ROWS) {
    if (row.tail === undefined) {
      if (path === row.exact) return { row, name: '', value: '' }
      continue
    }
    // ['', 'v2', …name, …tail]
    const nameEnd = components.length - row.tail.length
    if (nameEnd < 3 || components[0] !== '' || components[1] !== 'v2') continue
    if (!endsWith(components, row.tail)) continue
    return { row, name: components.slice(2, nameEnd).join('/'), value: components.at(-1) ?? '' }
  }
  return undefined
}

/** Compares from the right, where patterns differ most. */
function endsWith(components: readonly string[], tail: readonly string[]): boolean {
  for (let back = 1; back <= tail.length; back++) {
    const word = tail.at(-back)
    if (word !== '<value>' && word !== components.at(-back)) return false
  }
  return true
}

/** Decodes once, before the match: `%2F` in a name is a slash, `%252F` is not. */
function decode(path: string): string {
  try {
    return decodeURIComponent(path)
  } catch (cause) {
    throw malformedPercent(cause)
  }
}

function malformedPercent(cause?: unknown): OciError {
  return new OciError('BAD_REQUEST', { reason: 'malformed percent-encoding' }, { cause })
}
