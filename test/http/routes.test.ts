/** The table of endpoints: what each path and method means, and what everything else is told. */
import fc from 'fast-check'
import { test } from 'tap'
import { digestOf } from '../../src/oci/digest.ts'
import { OciError } from '../../src/oci/errors.ts'
import { ENDPOINTS, parseRoute, type Access, type Endpoint } from '../../src/http/routes.ts'

const digest = digestOf(Buffer.from('layer'))
const METHODS = [
  'GET',
  'HEAD',
  'POST',
  'PUT',
  'PATCH',
  'DELETE',
  'OPTIONS',
  'TRACE',
  'CONNECT',
  'get',
  '__proto__',
]

test('every endpoint allows what the table says, and answers every other method with it', (t) => {
  const expected: Record<Endpoint, Partial<Record<string, Access>>> = {
    root: { GET: 'none', HEAD: 'none', OPTIONS: 'none' },
    livez: { GET: 'none', HEAD: 'none' },
    readyz: { GET: 'none', HEAD: 'none' },
    metrics: { GET: 'none', HEAD: 'none' },
    base: { GET: 'none', HEAD: 'none' },
    'v1-ping': { GET: 'none', HEAD: 'none' },
    search: { GET: 'catalog', HEAD: 'catalog' },
    explain: { GET: 'pull', HEAD: 'pull' },
    catalog: { GET: 'catalog', HEAD: 'catalog' },
    uploads: { POST: 'push' },
    upload: { GET: 'push', HEAD: 'push', PATCH: 'push', PUT: 'push', DELETE: 'push' },
    manifest: { GET: 'pull', HEAD: 'pull', PUT: 'push', DELETE: 'delete' },
    blob: { GET: 'pull', HEAD: 'pull', DELETE: 'delete' },
    tags: { GET: 'pull', HEAD: 'pull' },
    referrers: { GET: 'pull', HEAD: 'pull' },
  }
  t.same(new Set(ENDPOINTS.map((row) => row.endpoint)), new Set(Object.keys(expected)))
  for (const { endpoint, pattern } of ENDPOINTS) {
    const path = pattern
      .replace('<name>', 'library/alpine')
      .replace('<value>', endpoint === 'upload' ? 'r1.abc' : digest)
    for (const method of METHODS) {
      const access = Object.hasOwn(expected[endpoint], method) ? expected[endpoint][method] : undefined
      if (access !== undefined) {
        const route = parseRoute(method, path)
        t.equal(route.endpoint, endpoint, `${method} ${path}`)
        t.equal(route.access, access, `${method} ${path}`)
      } else {
        t.throws(
          () => parseRoute(method, path),
          { code: 'UNSUPPORTED', status: 405, allow: Object.keys(expected[endpoint]) },
          `${method} ${path}`,
        )
      }
    }
  }
  t.end()
})

test('a path is read from the right', (t) => {
  const cases: [string, string, Record<string, unknown>][] = [
    [
      'GET',
      '/v2/blobs/uploads/manifests/latest',
      { endpoint: 'manifest', repository: 'blobs/uploads', reference: 'latest' },
    ],
    [
      'GET',
      '/v2/a/manifests/b/manifests/c',
      { endpoint: 'manifest', repository: 'a/manifests/b', reference: 'c' },
    ],
    [
      'GET',
      '/v2/manifests/manifests/manifests',
      { endpoint: 'manifest', repository: 'manifests', reference: 'manifests' },
    ],
    ['GET', `/v2/x/manifests/y/blobs/${digest}`, { endpoint: 'blob', repository: 'x/manifests/y', digest }],
    ['GET', '/v2/tags/list/tags/list', { endpoint: 'tags', repository: 'tags/list' }],
    ['POST', '/v2/a/blobs/uploads/blobs/uploads/', { endpoint: 'uploads', repository: 'a/blobs/uploads' }],
    ['PATCH', '/v2/a/blobs/uploads/uploads', { endpoint: 'upload', repository: 'a', session: 'uploads' }],
    ['GET', `/v2/referrers/referrers/${digest}`, { endpoint: 'referrers', repository: 'referrers', digest }],
  ]
  for (const [method, target, route] of cases) t.match(parseRoute(method, target), route, target)
  t.end()
})

test('percent-codes are decoded exactly once', (t) => {
  const encoded = digest.replace(':', '%3A')
  t.match(parseRoute('GET', `/v2/library%2Falpine/blobs/${encoded}`), {
    repository: 'library/alpine',
    digest,
  })
  t.match(parseRoute('GET', '/v2/%61/manifests/l%61test'), { repository: 'a', reference: 'latest' })
  t.throws(() => parseRoute('GET', '/v2/library%252Falpine/manifests/latest'), { code: 'NAME_INVALID' })
  t.throws(() => parseRoute('GET', '/v2/a%2F..%2Fb/manifests/latest'), { code: 'NAME_INVALID' })
  t.throws(() => parseRoute('PUT', '/v2/a/manifests/la%00test'), { code: 'TAG_INVALID' })
  for (const target of [
    '/v2/%/manifests/latest',
    '/v2/%zz/manifests/x',
    '/v2/%c3/manifests/x',
    '/v2/a/tags/list?n=%',
  ]) {
    t.throws(() => parseRoute('GET', target), { code: 'BAD_REQUEST', status: 400 }, target)
  }
  t.end()
})

test('the query stays with the route', (t) => {
  const { query } = parseRoute('GET', '/v2/a/tags/list?n=2&last=x%2Fy&ns=quay.io%3A5000?')
  t.same(
    [...query],
    [
      ['n', '2'],
      ['last', 'x/y'],
      ['ns', 'quay.io:5000?'],
    ],
  )
  t.end()
})

test('what cannot be understood gets the error that fits', (t) => {
  const cases: [string, string][] = [
    ['//', 'NOT_FOUND'],
    ['//v2/', 'NOT_FOUND'],
    ['/v2//', 'NOT_FOUND'],
    ['/v1/repositories/library/alpine/images', 'NOT_FOUND'],
    ['/v2/a', 'NOT_FOUND'],
    ['/v2/a/', 'NOT_FOUND'],
    ['/v2/../livez', 'NOT_FOUND'],
    ['/V2/a/tags/list', 'NOT_FOUND'],
    ['/x/v2/a/tags/list', 'NOT_FOUND'],
    ['/v2/a/manifests/b/', 'NOT_FOUND'],
    ['/v2/manifests/latest', 'NOT_FOUND'],
    ['/livez/', 'NOT_FOUND'],
    ['/v2/_catalog/', 'NOT_FOUND'],
    ['/v2//manifests/latest', 'NAME_INVALID'],
    ['/v2/a//manifests/latest', 'NAME_INVALID'],
    ['/v2/a//b/manifests/latest', 'NAME_INVALID'],
    ['/v2/a/./manifests/latest', 'NAME_INVALID'],
    ['/v2/a/../../manifests/latest', 'NAME_INVALID'],
    ['/v2/A/manifests/latest', 'NAME_INVALID'],
    [`/v2/${'a'.repeat(256)}/tags/list`, 'NAME_INVALID'],
    ['/v2/a/manifests/', 'MANIFEST_UNKNOWN'],
    ['/v2/a/manifests/.x', 'MANIFEST_UNKNOWN'],
    ['/v2/a/manifests/x#y', 'MANIFEST_UNKNOWN'],
    ['/v2/a/manifests/sha256:baddigest', 'DIGEST_INVALID'],
    ['/v2/a/blobs/latest', 'DIGEST_INVALID'],
    ['/v2/a/blobs/', 'DIGEST_INVALID'],
    [`/v2/a/blobs/blake3:${'a'.repeat(64)}`, 'DIGEST_INVALID'],
    ['/v2/a/referrers/x', 'DIGEST_INVALID'],
    ['/v2/a/blobs/uploads/..', 'BLOB_UPLOAD_UNKNOWN'],
    ['/v2/a/blobs/uploads/a%20b', 'BLOB_UPLOAD_UNKNOWN'],
    ['http://evil/v2/', 'BAD_REQUEST'],
    ['https://127.0.0.1/v2/', 'BAD_REQUEST'],
    ['*', 'BAD_REQUEST'],
    ['', 'BAD_REQUEST'],
    ['v2/', 'BAD_REQUEST'],
    [`/v2/a/tags/list?last=${'x'.repeat(9000)}`, 'URI_TOO_LONG'],
  ]
  for (const [target, code] of cases) t.throws(() => parseRoute('GET', target), { code }, target.slice(0, 80))
  t.end()
})

test('a tag that cannot be is absent to who reads, and refused to who writes', (t) => {
  for (const method of ['GET', 'HEAD']) {
    t.throws(() => parseRoute(method, '/v2/a/manifests/.x'), { code: 'MANIFEST_UNKNOWN', status: 404 })
  }
  for (const method of ['PUT', 'DELETE']) {
    t.throws(() => parseRoute(method, '/v2/a/manifests/.x'), { code: 'TAG_INVALID', status: 400 })
  }
  t.end()
})

test('no request line makes the router throw anything but its errors, and nothing routed escapes the grammar', (t) => {
  const word = fc.constantFrom(
    'v2',
    'blobs',
    'uploads',
    'manifests',
    'tags',
    'list',
    'referrers',
    '_catalog',
    'a',
    'latest',
  )
  const odd = fc.constantFrom(
    '',
    '.',
    '..',
    '%2e%2e',
    '%2F',
    '%',
    '%00',
    'A',
    '?',
    '#',
    'é',
    digest,
    'sha256:x',
    '?n=%4',
  )
  const path = fc
    .array(fc.oneof({ weight: 4, arbitrary: word }, odd), { maxLength: 9 })
    .map((all) => `/v2/${all.join('/')}`)
  const target = fc.oneof({ weight: 4, arbitrary: path }, fc.string({ unit: 'binary' }), fc.webUrl())
  fc.assert(
    fc.property(fc.constantFrom(...METHODS), target, (method, text) => {
      try {
        const route = parseRoute(method, text)
        const values = Object.entries(route).flatMap(([key, value]) =>
          typeof value === 'string' && key !== 'endpoint' && key !== 'access' ? [value] : [],
        )
        return values.every((value) => /^[\w.:/-]+$/.test(value) && !/(^|\/)\.{1,2}(\/|$)/.test(value))
      } catch (error) {
        return error instanceof OciError && error.status >= 400 && error.status < 500
      }
    }),
    { numRuns: 5000 },
  )
  t.end()
})

test('a route that was built from parts comes apart into them', (t) => {
  const component = fc.stringMatching(/^[a-z0-9]{1,8}([._-][a-z0-9]{1,4})?$/)
  const trap = fc.constantFrom('blobs', 'uploads', 'manifests', 'tags', 'list', 'referrers')
  const name = fc.array(fc.oneof(component, trap), { minLength: 1, maxLength: 6 }).map((all) => all.join('/'))
  const tag = fc.stringMatching(/^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$/)
  fc.assert(
    fc.property(name, tag, fc.boolean(), (repository, reference, escape) => {
      const written = escape ? encodeURIComponent(repository) : repository
      const manifest = parseRoute('GET', `/v2/${written}/manifests/${reference}`)
      const uploads = parseRoute('POST', `/v2/${written}/blobs/uploads/`)
      const tags = parseRoute('GET', `/v2/${written}/tags/list`)
      return (
        manifest.endpoint === 'manifest' &&
        manifest.repository === repository &&
        manifest.reference === reference &&
        uploads.endpoint === 'uploads' &&
        uploads.repository === repository &&
        tags.endpoint === 'tags' &&
        tags.repository === repository
      )
    }),
    { numRuns: 1000 },
  )
  t.end()
})
