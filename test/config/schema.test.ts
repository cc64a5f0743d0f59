import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { parse } from 'yaml'
import * as z from 'zod'
import { ConfigError, configSchema, loadConfig, type Config } from '../../src/config/schema.ts'
import '../support/folders-last.ts'

const EXAMPLE = join(import.meta.dirname, '../../config.example.yaml')

function config(text: string, env: Record<string, string> = {}): Config {
  return loadConfig({ text, env }).config
}

/** What is reported, as `path: message`. */
function problems(text: string, env: Record<string, string> = {}): string[] {
  try {
    loadConfig({ text, env })
  } catch (error) {
    if (error instanceof ConfigError)
      return error.problems.map((problem) => `${problem.path}: ${problem.message}`)
    throw error
  }
  return []
}

/** These problems and no others. */
function told(t: Test, found: string[], expected: RegExp[], message = 'told'): void {
  t.match(found, expected, message)
  t.equal(found.length, expected.length, 'and no others')
}

/** Every key of the schema, `*` for the keys of a map. */
function schemaKeys(schema: z.core.$ZodType, path: string[] = []): string[] {
  if (schema instanceof z.ZodPrefault || schema instanceof z.ZodOptional || schema instanceof z.ZodDefault) {
    return schemaKeys(schema.def.innerType, path)
  }
  if (schema instanceof z.ZodRecord) return schemaKeys(schema.valueType, [...path, '*'])
  if (!(schema instanceof z.ZodObject)) return [path.join('.')]
  const shape = schema.shape as Record<string, z.core.$ZodType>
  const keys = Object.entries(shape).flatMap(([key, inner]) => schemaKeys(inner, [...path, key]))
  return keys.length > 0 ? keys : [path.join('.')]
}

function hasKey(value: unknown, path: string[]): boolean {
  const [first, ...rest] = path
  if (first === undefined) return true
  if (typeof value !== 'object' || value === null) return false
  if (first === '*') return Object.values(value).some((inner) => hasKey(inner, rest))
  return first in value && hasKey((value as Record<string, unknown>)[first], rest)
}

test('the example covers every key and equals the defaults', async (t) => {
  const example: unknown = parse(readFileSync(EXAMPLE, 'utf8'))
  const keys = schemaKeys(configSchema)
  t.ok(keys.includes('upstreams.*.timeouts.idle'), 'the walk reaches the leaves')
  for (const key of keys) t.ok(hasKey(example, key.split('.')), `${key} is in the example`)
  t.strictSame(loadConfig({ file: EXAMPLE, env: {} }).config, config(''))
})

test('the table of the documentation has every key', async (t) => {
  const page = readFileSync(join(import.meta.dirname, '../../docs/configuration.md'), 'utf8')
  const named = new Set(Array.from(page.matchAll(/`([\w.*]+)`/g), (match) => match[1]))
  for (const key of schemaKeys(configSchema)) t.ok(named.has(key), `${key} is in the table`)
})

test('an empty file, a null and a file of comments are the defaults', async (t) => {
  for (const text of ['', 'null', '# nothing\n', 'cache:\nserver: { port: }\nupstreams:\n']) {
    t.strictSame(config(text), config(''))
  }
  t.match(config(''), {
    server: { host: '127.0.0.1', port: 5000 },
    storage: { root: './data' },
    cache: { tagTtl: 60_000, staleIfError: 30 * 86_400_000, maxSize: { bytes: 50 * 2 ** 30, percent: 80 } },
  })
  t.strictSame(
    config('').upstreams.map(({ key, url, default: standard }) => [key, url, standard]),
    [
      ['docker.io', 'https://registry-1.docker.io', true],
      ['quay.io', 'https://quay.io', false],
      ['gcr.io', 'https://gcr.io', false],
      ['ghcr.io', 'https://ghcr.io', false],
      ['registry.k8s.io', 'https://registry.k8s.io', false],
    ],
  )
})

test('durations, sizes and shares are read in their units', async (t) => {
  const { cache } = config(
    'cache: { tagTtl: 500ms, negativeTtl: 0, staleIfError: 1.5h, staleIfDenied: 2d, maxSize: 80%, minFree: 1024, finishAbandoned: 25% }',
  )
  t.match(cache, {
    tagTtl: 500,
    negativeTtl: 0,
    staleIfError: 5_400_000,
    staleIfDenied: 172_800_000,
    minFree: { bytes: 1024, percent: undefined },
  })
  t.strictSame(cache.maxSize, { bytes: undefined, percent: 80 })
  t.strictSame(cache.finishAbandoned, { percent: 25 })
  t.strictSame(config('cache: { maxSize: 1TiB, minFree: 64 KiB }').cache.maxSize.bytes, 2 ** 40)
  for (const bad of [
    'tagTtl: 30',
    'tagTtl: -1s',
    'tagTtl: 5 apples',
    'tagTtl: [1s]',
    'minFree: 5GB',
    'minFree: -1',
    'maxSize: 0%',
    'maxSize: 101%',
    'finishAbandoned: sometimes',
  ]) {
    told(t, problems(`cache: { ${bad} }`), [/^cache\.\w+: found .+, expected .+/], bad)
  }
})

test("a user's upstreams replace the default map", async (t) => {
  const { upstreams } = config(`
cache: { tagTtl: 7m }
upstreams:
  registry.example:5000:
  docker.io: { aliases: [hub.example], tagTtl: 1s, url: "http://127.0.0.1:5001/" }
`)
  t.match(upstreams, [
    { key: 'registry.example:5000', url: 'https://registry.example:5000', default: false, tagTtl: 420_000 },
    { key: 'docker.io', url: 'http://127.0.0.1:5001', tagTtl: 1000 },
  ])
  t.strictSame(upstreams[1]?.aliases, ['index.docker.io', 'registry-1.docker.io', 'hub.example'])
  t.strictSame(config('upstreams: {}').upstreams, [])
})

test('all problems are told at once, with their lines', async (t) => {
  const text = `servr: {}
server: { hots: a, port: 70000 }
cache:
  prefetch: everything
upstreams:
  quay.io:
    username: me
`
  t.throws(() => loadConfig({ text, env: {} }), {
    name: 'ConfigError',
    problems: [
      { path: 'servr', line: 1, message: /did you mean server\?/ },
      { path: 'server.port', line: 2, message: 'found 70000, expected a whole number from 0 to 65535' },
      { path: 'server.hots', line: 2, message: /did you mean host\?/ },
      { path: 'cache.prefetch', line: 4, message: 'found "everything", expected one of layers, config, off' },
      { path: 'upstreams.quay.io.username', line: 7, message: /password/ },
    ],
  })
  t.throws(() => loadConfig({ text, env: {}, file: 'x.yaml' }), {
    message: /x\.yaml is not valid:\n {2}servr \(line 1\): /,
  })
})

test('what is not a map of settings, or not YAML, is a problem and not a crash', async (t) => {
  told(t, problems('hello'), [/expected a map/])
  told(t, problems('- a'), [/expected a map/])
  told(t, problems('a: [\n'), [/not YAML/])
  told(t, problems('log: {level: info}\nlog: {level: debug}'), [/not YAML: .*unique/])
  told(t, problems('server: 5'), [/^server: found 5, expected a map of settings/])
  told(t, problems('server: 5', { ENTREPOT_PORT: '1' }), [/^server: found 5/])
  told(t, problems('upstreams: [quay.io]'), [/^upstreams: found a list, expected a map/])
  told(t, problems('local: team/**'), [/^local: found "team\/\*\*", expected a list of globs/])
  t.equal(problems('local: [~, {}, "Team/**", ""]').length, 4)
  told(t, problems('upstreams: { __proto__: {} }'), [/not a registry name/])
  told(
    t,
    problems('a: &a [x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c]'),
    [/not YAML/],
  )
})

test('a mistyped key inside an upstream is answered with the nearest one', async (t) => {
  told(t, problems('upstreams: { quay.io: { timeout: {}, timeouts: { conect: 1s } } }'), [
    /^upstreams\.quay\.io\.timeouts\.conect: no such key; did you mean connect\?/,
    /^upstreams\.quay\.io\.timeout: no such key; did you mean timeouts\?/,
  ])
  told(t, problems('push: { zebra: 1 }'), [/^push\.zebra: no such key; there are anonymous, deny/])
  told(t, problems('auth: { users: [] }'), [/^auth\.users: no such key; there are none yet/])
})

test('variables are filled in, and a missing one is named with its key', async (t) => {
  const { server, storage, log } = config(
    'server: { port: "${PORT}" }\nstorage: { root: "${HOME_DIR}/$${x}/$y/${HOME_DIR}" }\nlog: { level: "${LEVEL}" }',
    { PORT: '5001', HOME_DIR: '/srv', LEVEL: 'warn' },
  )
  t.match([server.port, storage.root, log.level], [5001, '/srv/${x}/$y//srv', 'warn'])
  t.strictSame(problems('storage: { root: "${NOPE}/x" }\nlog: { level: "${ALSO_NOPE}" }'), [
    'storage.root: the environment variable NOPE is not set',
    'log.level: the environment variable ALSO_NOPE is not set',
  ])
  told(t, problems('storage: { root: "${" }'), [/^storage\.root: found "\$\{", expected \$\{NAME\}/])
})

test('host, port and root of the environment win', async (t) => {
  const env = { ENTREPOT_HOST: '0.0.0.0', ENTREPOT_PORT: '0', ENTREPOT_ROOT: '/srv/${x}' }
  const { server, storage } = config('server: { host: localhost, port: 1 }\nstorage: { root: a }', env)
  t.match([server.host, server.port, storage.root], ['0.0.0.0', 0, '/srv/${x}'])
  t.strictSame(config('', { ENTREPOT_PORT: '' }), config(''))
  t.strictSame(problems('', { ENTREPOT_PORT: 'abc' }), [
    'ENTREPOT_PORT: found "abc", expected a whole number from 0 to 65535',
  ])
})

test('a password may be in a file beside its user name', async (t) => {
  const dir = t.testdir({ password: 'pass word\n\n', empty: '\n' })
  const upstream = (text: string) => `upstreams: { quay.io: { username: me, ${text} } }`
  t.strictSame(config(upstream(`passwordFile: "${dir}/password"`)).upstreams[0]?.credentials, [
    { username: 'me', passwordFile: `${dir}/password` },
  ])
  told(t, problems(upstream(`passwordFile: "${dir}/none"`)), [
    /^upstreams\.quay\.io\.passwordFile: cannot be read: ENOENT/,
  ])
  told(t, problems(upstream(`passwordFile: "${dir}/empty"`)), [/^upstreams\.quay\.io\.passwordFile: .*empty/])
  told(t, problems(upstream(`password: a, passwordFile: "${dir}/password"`)), [/set one of the two/])
})

test('credentials come from one place: a password, a file of docker, or a helper', async (t) => {
  const dir = t.testdir({ 'config.json': '{"auths":{}}', list: '[]', torn: '{"auths":' })
  const upstream = (text: string) => `upstreams: { quay.io: { ${text} } }`
  const file = `credentialsFile: "${dir}/config.json"`
  t.strictSame(config(upstream(file)).upstreams[0]?.credentials, [{ credentialsFile: `${dir}/config.json` }])
  t.strictSame(config(upstream('credentialHelper: ecr-login')).upstreams[0]?.credentials, [
    { credentialHelper: 'ecr-login' },
  ])
  t.strictSame(config(upstream('')).upstreams[0]?.credentials, [])
  for (const [text, expected] of [
    [
      `credentialHelper: ecr-login, ${file}`,
      /^upstreams\.quay\.io\.credentialHelper: credentialsFile is set/,
    ],
    [`${file}, username: me, password: p`, /^upstreams\.quay\.io\.credentialsFile: password is set as well/],
    [`credentialHelper: x, username: me`, /^upstreams\.quay\.io\.username: credentialHelper brings a user/],
    ['username: "me:you", password: p', /^upstreams\.quay\.io\.username: .*without a colon/],
    ['credentialHelper: "../x"', /^upstreams\.quay\.io\.credentialHelper: .*docker-credential-NAME/],
    ['credentialHelper: "x; rm"', /^upstreams\.quay\.io\.credentialHelper: .*docker-credential-NAME/],
    ['credentialHelper: X', /^upstreams\.quay\.io\.credentialHelper: .*docker-credential-NAME/],
    [`credentialsFile: "${dir}/none"`, /^upstreams\.quay\.io\.credentialsFile: cannot be read: ENOENT/],
    [`credentialsFile: "${dir}/list"`, /^upstreams\.quay\.io\.credentialsFile: expected a file of JSON/],
    [`credentialsFile: "${dir}/torn"`, /^upstreams\.quay\.io\.credentialsFile: expected a file of JSON/],
  ] as const) {
    told(t, problems(upstream(text)), [expected], text)
  }
})

test('several accounts are listed, each with credentials of one place', async (t) => {
  const dir = t.testdir({ password: 'p\n', empty: '', 'config.json': '{"auths":{}}' })
  const upstream = (text: string) => `upstreams: { quay.io: { ${text} } }`
  const one = `{ username: a, passwordFile: "${dir}/password" }`
  const text = `credentials: [${one}, { credentialsFile: "${dir}/config.json" }, { credentialHelper: pass }]`
  t.strictSame(config(upstream(text)).upstreams[0]?.credentials, [
    { username: 'a', passwordFile: `${dir}/password` },
    { credentialsFile: `${dir}/config.json` },
    { credentialHelper: 'pass' },
  ])
  t.strictSame(config(upstream('credentials: []')).upstreams[0]?.credentials, [])
  const at = 'upstreams\\.quay\\.io\\.credentials'
  for (const [wrong, expected] of [
    [
      `username: me, password: p, credentials: [${one}]`,
      `${at}: username is set as well: list every account`,
    ],
    [`credentialHelper: pass, credentials: [${one}]`, `${at}: credentialHelper is set as well: list every`],
    [`credentials: [${one}, {}]`, `${at}\\[1\\]: expected a username with a password, a credentialsFile or`],
    [`credentials: [{ username: a }]`, `${at}\\[0\\]\\.username: needs a password`],
    [`credentials: [{ password: a }]`, `${at}\\[0\\]\\.password: needs a username`],
    [
      `credentials: [{ credentialHelper: a, username: b }]`,
      `${at}\\[0\\]\\.username: credentialHelper brings`,
    ],
    [`credentials: [{ username: a, passwordFile: "${dir}/empty" }]`, `${at}\\[0\\]\\.passwordFile: .*empty`],
    [
      `credentials: [{ credentialsFile: "${dir}/no" }]`,
      `${at}\\[0\\]\\.credentialsFile: cannot be read: ENOENT`,
    ],
    [
      `credentials: [{ user: a }, ${one}]`,
      `${at}\\[0\\]: expected a username|${at}\\[0\\]\\.user: no such key`,
    ],
    ['credentials: "me:hunter2"', `${at}: found a value not shown here, expected a list of accounts`],
    ['credentials: ["me:hunter2"]', `${at}\\[0\\]: found a value not shown here, expected a map of settings`],
  ] as const) {
    const found = problems(upstream(wrong))
    t.match(found[0], new RegExp(`^(?:${expected})`), wrong)
    t.notMatch(found.join('\n'), 'hunter2')
  }
  const open = `server: { host: 0.0.0.0 }\nupstreams: { quay.io: { credentials: [${one}]`
  told(t, problems(`${open} } }`), [/^upstreams\.quay\.io: has credentials, so whoever reaches 0\.0\.0\.0 /])
  t.strictSame(problems(`${open}, allow: ["team/**"] } }`), [])
})

test('secrets are in no message', async (t) => {
  const text = `
upstreams:
  quay.io:
    password: 2468013579
    url: https://me:hunter2@quay.io/
    proxy: socks://me:hunter2@proxy/
    timeouts: { idle: "\${SECRET}" }
  gcr.io: { password: hunter2 }
`
  const found = problems(text, { SECRET: 'hunter2' })
  t.equal(found.length, 6)
  t.notMatch(found.join('\n'), /hunter2|2468013579/)
})

test('an account that everybody could pull with is refused', async (t) => {
  const text = (host: string, more = '') =>
    `server: { host: "${host}" }\nupstreams: { quay.io: { username: me, password: p${more} } }`
  told(t, problems(text('0.0.0.0')), [
    /^upstreams\.quay\.io: has credentials, so whoever reaches 0\.0\.0\.0 /,
  ])
  t.equal(problems(text('127.0.0.1'), { ENTREPOT_HOST: '10.0.0.1' }).length, 1)
  for (const host of ['127.0.0.1', '::1', 'localhost', '127.1.2.3'])
    t.strictSame(problems(text(host)), [], host)
  t.strictSame(problems(text('0.0.0.0', ', allow: ["team/**"]')), [])
  const dir = t.testdir({ file: '{}' })
  for (const from of ['credentialHelper: x', `credentialsFile: "${dir}/file"`]) {
    const open = `server: { host: 0.0.0.0 }\nupstreams: { quay.io: { ${from}`
    told(t, problems(`${open} } }`), [/^upstreams\.quay\.io: has credentials, so whoever/])
    t.strictSame(problems(`${open}, allow: ["team/**"] } }`), [])
  }
})

test('user and password come together, as do certificate and key', async (t) => {
  told(t, problems('upstreams: { quay.io: { username: me } }'), [
    /^upstreams\.quay\.io\.username: needs a password/,
  ])
  told(t, problems('upstreams: { quay.io: { password: p } }'), [
    /^upstreams\.quay\.io\.password: needs a username/,
  ])
  told(t, problems('server: { tls: { cert: a.pem } }'), [/^server\.tls: cert and key belong together/])
  t.strictSame(problems('server: { tls: { cert: a.pem, key: b.pem } }'), [])
})

test('names of upstreams are registry names and belong to one of them', async (t) => {
  const rows: [upstreams: string, expected: RegExp][] = [
    ['local:', /^upstreams\.local: the name local is kept/],
    ['Quay.io:', /not a registry name/],
    ['quay.io/x:', /not a registry name/],
    ['quay.io: { aliases: [local] }', /^upstreams\.quay\.io\.aliases\[0\]: the name local is kept/],
    [
      'quay.io: { aliases: [UP] }',
      /^upstreams\.quay\.io\.aliases\[0\]: found "UP", expected a registry name/,
    ],
    [
      'quay.io: { aliases: [a.io, gcr.io] }\n  gcr.io:',
      /^upstreams\.quay\.io\.aliases\[1\]: gcr\.io is an upstream of its own/,
    ],
    [
      'quay.io: { aliases: [a.io] }\n  gcr.io: { aliases: [a.io] }',
      /^upstreams\.gcr\.io\.aliases\[0\]: a\.io is also a name of quay\.io/,
    ],
    [
      'docker.io:\n  index.docker.io:',
      /^upstreams\.index\.docker\.io: index\.docker\.io is always a name of docker\.io/,
    ],
    [
      'a.io: { default: true }\n  b.io: { default: true }',
      /^upstreams\.b\.io\.default: only one .* a\.io is/,
    ],
  ]
  for (const [upstreams, expected] of rows)
    told(t, problems(`upstreams:\n  ${upstreams}\n`), [expected], upstreams)
})

test('fallbacks are further places of an upstream, each of them once', async (t) => {
  const { upstreams } = config(
    'upstreams: { docker.io: { fallbacks: ["https://mirror.gcr.io/", "http://a:5000"] }, quay.io: {} }',
  )
  t.strictSame(
    upstreams.map(({ fallbacks }) => fallbacks),
    [['https://mirror.gcr.io', 'http://a:5000'], []],
  )
  const rows: [upstream: string, expected: RegExp][] = [
    ['docker.io: { fallbacks: [a.io] }', /fallbacks\[0\]: found "a\.io", expected an http or https URL/],
    ['docker.io: { fallbacks: ["https://a.io/path"] }', /fallbacks\[0\]: found .* expected an http or https/],
    ['docker.io: { fallbacks: "https://a.io" }', /fallbacks: found .* expected a list of http or https URLs/],
    [
      'docker.io: { fallbacks: ["https://registry-1.docker.io/"] }',
      /fallbacks\[0\]: .* is the upstream itself/,
    ],
    [
      'a.io: { fallbacks: ["https://b.io", "https://a.io:443"] }',
      /fallbacks\[1\]: .* is the upstream itself/,
    ],
    [
      'a.io: { url: "https://b.io", fallbacks: ["https://B.io"] }',
      /fallbacks\[0\]: .* is the upstream itself/,
    ],
    [
      'a.io: { fallbacks: ["http://b", "http://c", "http://b/"] }',
      /fallbacks\[2\]: http:\/\/b is listed twice/,
    ],
  ]
  for (const [upstream, expected] of rows)
    told(t, problems(`upstreams:\n  ${upstream}\n`), [expected], upstream)
})

test('addresses of upstreams, proxies and ourselves are origins', async (t) => {
  for (const url of [
    'ftp://a',
    'a.io',
    'https://a.io/path',
    'https://a.io/?q',
    'https://a.io/#h',
    'https://u:p@a.io',
    'http://',
    '5',
  ]) {
    t.equal(problems(`upstreams: { a.io: { url: "${url}" } }`).length, 1, url)
    t.equal(problems(`server: { publicUrl: "${url}" }`).length, 1, url)
  }
  const [upstream] = config('upstreams: { a.io: { proxy: "http://u:p@proxy:3128" } }').upstreams
  t.equal(upstream?.proxy, 'http://u:p@proxy:3128/')
  t.equal(problems('upstreams: { a.io: { proxy: "socks5://proxy" } }').length, 1)
})

test('proxies of the environment are handed on', async (t) => {
  t.strictSame(config('', { HTTPS_PROXY: 'http://p:1', https_proxy: '', no_proxy: 'a,b' }).proxyEnvironment, {
    httpProxy: undefined,
    httpsProxy: 'http://p:1',
    noProxy: 'a,b',
  })
})

test('a certificate file has certificates in it', async (t) => {
  const dir = t.testdir({
    not: 'hello',
    broken: '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n',
  })
  for (const name of ['not', 'broken', 'none']) {
    told(t, problems(`upstreams: { a.io: { ca: "${dir}/${name}" } }`), [/^upstreams\.a\.io\.ca: /], name)
  }
})

test('receivers of notifications are checked, and nothing secret of them is shown', async (t) => {
  const { notifications } = config(
    `notifications:
  - url: https://hooks.example/a?key=\${KEY}
    headers: { Authorization: "Bearer \${KEY}", X-Two: [a, b] }
    ignoreActions: [pull, mount]
    timeout: 500ms
  - url: http://hooks.example
    headers:
    backoff: 10m`,
    { KEY: 'k' },
  )
  t.strictSame(notifications, [
    {
      url: 'https://hooks.example/a?key=k',
      headers: { Authorization: ['Bearer k'], 'X-Two': ['a', 'b'] },
      ignoreActions: ['pull', 'mount'],
      timeout: 500,
      backoff: 60_000,
    },
    { url: 'http://hooks.example/', headers: {}, ignoreActions: [], timeout: 5000, backoff: 600_000 },
  ])
  for (const [entry, expected] of [
    ['{}', /^notifications\[0\]\.url: found nothing, expected an http or https URL/],
    ['{ url: "hooks.example/?key=secret" }', /^notifications\[0\]\.url: found "hooks\.example\/\?…"/],
    ['{ url: "https://me:secret@a.io/" }', /^notifications\[0\]\.url: found "https:\/\/…@a\.io/],
    [
      '{ url: "http://a", ignoreActions: [pull, all] }',
      /ignoreActions\[1\]: found "all", expected one of pull,/,
    ],
    ['{ url: "http://a", timeout: 0s }', /\.timeout: found/],
    ['{ url: "http://a", backof: 1s }', /\.backof: no such key; did you mean backoff\?/],
    ['{ url: "http://a", headers: { A b: c } }', /\.headers\."A b": not the name of a header/],
    ['{ url: "http://a", headers: { content-Length: "0" } }', /content-Length: this header cannot be set/],
    ['{ url: "http://a", headers: { A: "sec\\nret" } }', /\.headers\.A: found a value not shown here/],
    ['{ url: "http://a", headers: { A: [secret, 1] } }', /\.headers\.A: found a list, expected a print/],
    [
      '{ url: "http://a" }, { url: "http://A:80/" }',
      /^notifications\[1\]\.url: another end-point has the same/,
    ],
    ['~', /^notifications\[0\]: found null, expected a map of settings/],
  ] as const) {
    const found = problems(`notifications: [${entry}]`)
    told(t, found, [expected], entry)
    t.notMatch(found.join(), /secret|sec\nret/)
  }
  told(t, problems('notifications: { url: a }'), [/^notifications: found a map, expected a list/])
})
