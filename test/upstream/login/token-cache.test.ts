import type { LookupFunction } from 'node:net'
import { test, type Test } from 'tap'
import { parseRepositoryName } from '../../../src/oci/reference.ts'
import { credentialsMayGo, isAcceptableRealm } from '../../../src/upstream/login/realm-policy.ts'
import type { LogEntry } from '../../support/upstream-log.ts'
import { TEST_CERTIFICATE, TEST_KEY } from '../../support/upstream-tls.ts'
import { bytesOf, clientFor, connect, failureOf, LATEST, NAME } from '../../support/upstream-client.ts'

const credentials = { username: 'robot', password: 'p:ä"ss\nword' }

void test('a hundred requests at once need one token', async (t) => {
  const { client, upstream, image, signal } = await connect(t, { token: {}, cdn: {} }, { maxConnections: 20 })
  const { digest } = image.layers[0]!
  await Promise.all(
    Array.from({ length: 100 }, async (_, position) =>
      position % 2 === 0
        ? client.manifest(NAME, LATEST, signal)
        : bytesOf(await client.blob(NAME, digest, { from: 0, signal })),
    ),
  )
  t.equal(upstream.log.count('token'), 1)
  t.equal(upstream.log.authorizationSeenBy('cdn'), 0)
})

void test('a repository whose challenge is known costs no second 401', async (t) => {
  const { client, upstream, signal } = await connect(t, { token: {} })
  await client.manifest(NAME, LATEST, signal)
  upstream.log.clear()
  await client.manifest(NAME, LATEST, signal)
  t.same(
    upstream.log.entries.map(({ kind, status }) => ({ kind, status })),
    [{ kind: 'manifest', status: 200 }],
  )
})

void test('the challenge is answered as it came', async (t) => {
  const { client, upstream, signal } = await connect(t, {
    token: { scope: 'aws', service: 'public.ecr.aws' },
  })
  t.ok(await client.manifest(NAME, LATEST, signal))
  t.match(upstream.log.of('token')[0]?.url, 'service=public.ecr.aws&scope=aws')
})

void test('a query in the realm is kept', async (t) => {
  const { client, upstream, signal } = await connect(t, { token: {} })
  upstream.set({ token: { realm: `${upstream.authUrl}/token?tenant=1` } })
  t.ok(await client.manifest(NAME, LATEST, signal))
  t.match(upstream.log.of('token')[0]?.url, '/token?tenant=1&service=simulator&scope=')
})

void test('tokens are taken from either field, however they look in the challenge', async (t) => {
  for (const fields of ['token', 'access_token', 'both'] as const) {
    for (const challenge of [
      (it: string) => it,
      (it: string) => it.replace('Bearer', 'bearer').replaceAll(',', ' ,  '),
      (it: string) => `Basic realm="a, b", ${it}`,
      (it: string) => ['Negotiate YWJj==', it],
      (it: string) => `Negotiate, ${it}`,
    ]) {
      const { client, signal } = await connect(t, { token: { fields, challenge } })
      t.ok(await client.manifest(NAME, LATEST, signal))
    }
  }
})

void test('a token lives for what it says, less a tenth; for a minute when it says nothing', async (t) => {
  for (const [token, seconds] of [
    [{ ttl: 300 }, 270],
    [{ noExpiry: true }, 54],
    // Whatever the clocks of others say.
    [{ ttl: 300, clockSkewMs: 3_600_000 }, 270],
    [{ ttl: 300, clockSkewMs: -3_600_000 }, 270],
  ] as const) {
    let now = 1000
    const { client, upstream, signal } = await connect(t, { token }, { now: () => now })
    await client.manifest(NAME, LATEST, signal)
    now += seconds * 1000 - 1
    await client.manifest(NAME, LATEST, signal)
    t.equal(upstream.log.count('token'), 1)
    now += 2
    await client.manifest(NAME, LATEST, signal)
    t.equal(upstream.log.count('token'), 2)
  }
})

void test('a token that is refused is renewed, once for everybody', async (t) => {
  const { client, upstream, image, signal } = await connect(t, { token: {}, cdn: {} })
  await client.manifest(NAME, LATEST, signal)
  upstream.tokens.revokeTokens()
  upstream.log.clear()
  const { digest } = image.layers[0]!
  await Promise.all(Array.from({ length: 50 }, () => client.headBlob(NAME, digest, signal)))
  t.equal(upstream.log.count('token'), 1)
})

void test('a token that expires during a download is renewed for the rest', async (t) => {
  const { client, upstream, image, signal } = await connect(t, { token: {}, cdn: { signedUrlTtlMs: 60_000 } })
  const { digest, bytes } = image.layers[0]!
  const first = await client.blob(NAME, digest, { from: 0, to: 50_000, signal })
  upstream.tokens.revokeTokens()
  const second = await client.blob(NAME, digest, { from: 50_000, signal })
  t.ok(Buffer.concat([await bytesOf(first), await bytesOf(second)]).equals(bytes))
  t.equal(upstream.log.count('token'), 2)
})

void test('a fresh token that is not enough means that there is nothing for us', async (t) => {
  const { client, upstream, signal } = await connect(t, { token: { hideUnknown: true } })
  const hidden = parseRepositoryName('library/unknown')
  t.match(await failureOf(client.manifest(hidden, LATEST, signal)), {
    failure: 'denied',
    status: 401,
    insufficientScope: true,
  })
  t.equal(upstream.log.count('token'), 1)
  t.equal(upstream.log.count('manifest'), 2)
  upstream.log.clear()
  t.equal((await failureOf(client.manifest(hidden, LATEST, signal))).insufficientScope, true)
  t.equal(upstream.log.count(), 1, 'and the next one asks for no token')
})

void test('a refusal in other words is a refusal, and no more', async (t) => {
  const { client, upstream, signal } = await connect(t, { token: {} })
  for (const status of [401, 403]) {
    const rule = upstream.fault({ kind: 'manifest', when: hasToken }, { status })
    const error = await failureOf(client.manifest(NAME, LATEST, signal))
    t.match(error, { failure: 'denied', insufficientScope: false })
    rule.remove()
  }
})

void test('a token service that refuses denies, one that stumbles is tried again', async (t) => {
  for (const [status, failure, tries] of [
    [401, 'denied', 1],
    [403, 'denied', 1],
    [429, 'busy', 1],
    [404, 'broken', 1],
    [503, 'broken', 3],
  ] as const) {
    const { client, upstream, signal } = await connect(t, { token: {} })
    upstream.fault({ kind: 'token' }, { status })
    const error = await failureOf(client.manifest(NAME, LATEST, signal))
    t.match(error, { failure, status, insufficientScope: false })
    t.equal(upstream.log.count('token'), tries)
  }
})

void test('nonsense from a token service is no token', async (t) => {
  const { client, upstream, signal } = await connect(t, { token: {} })
  const type = 'application/json'
  for (const text of [
    '',
    'null',
    '[]',
    '{}',
    '{"token":""}',
    '{"token":7}',
    '{"token":"a\\r\\nX-Evil: 1"}',
  ]) {
    const rule = upstream.fault({ kind: 'token' }, { status: 200, body: { text, type } })
    t.equal((await failureOf(client.manifest(NAME, LATEST, signal))).failure, 'broken', text)
    rule.remove()
  }
  t.ok(await client.manifest(NAME, LATEST, signal), 'and is not remembered')
})

void test('a client that leaves does not take the token from the others', async (t) => {
  const { client, upstream, signal } = await connect(t, { token: {} })
  upstream.fault({ kind: 'token' }, { latencyMs: 100 })
  const leaving = new AbortController()
  const first = client.manifest(NAME, LATEST, leaving.signal)
  const second = client.manifest(NAME, LATEST, signal)
  await upstream.log.until((log) => log.inFlight('token') === 1)
  leaving.abort(new Error('gone'))
  await t.rejects(first, { message: 'gone' })
  t.ok(await second)
  t.equal(upstream.log.count('token'), 1)
})

void test('credentials go to the token service, tokens to the registry, neither to the CDN', async (t) => {
  const { client, upstream, image, signal } = await connect(
    t,
    { token: { credentials, private: [NAME] }, cdn: {} },
    { credentials },
  )
  await bytesOf(await client.blob(NAME, image.layers[0]!.digest, { from: 0, signal }))
  const basic = `Basic ${Buffer.from(`${credentials.username}:${credentials.password}`).toString('base64')}`
  t.equal(upstream.log.of('token')[0]?.headers.authorization, basic)
  t.notOk(upstream.log.entries.some((it) => it.listener !== 'auth' && it.headers.authorization === basic))
  t.equal(upstream.log.authorizationSeenBy('cdn'), 0)
})

void test('plain Basic: not before it is asked for, then at once', async (t) => {
  const { client, upstream, image, signal } = await connect(
    t,
    { basic: credentials, cdn: {} },
    { credentials },
  )
  t.ok(await client.manifest(NAME, LATEST, signal))
  await bytesOf(await client.blob(NAME, image.layers[0]!.digest, { from: 0, signal }))
  t.same(
    upstream.log.entries.map(({ kind, status }) => `${kind} ${status}`),
    ['manifest 401', 'manifest 200', 'blob 307', 'cdn 200'],
  )
  t.equal(upstream.log.authorizationSeenBy('cdn'), 0)
})

void test('wrong or missing credentials are "denied", after one try', async (t) => {
  const { upstream, signal } = await connect(t, { basic: credentials })
  for (const [options, requests] of [
    [{ credentials: { username: 'robot', password: 'wrong' } }, 2],
    [{}, 1],
  ] as const) {
    upstream.log.clear()
    const client = clientFor(t, { url: upstream.url, ...options })
    t.match(await failureOf(client.manifest(NAME, LATEST, signal)), { failure: 'denied', status: 401 })
    t.equal(upstream.log.count('manifest'), requests)
  }
})

void test('a resource that only says 401 is explained by the ping', async (t) => {
  const { client, upstream, signal } = await connect(t, { token: { challenge: 'none' } })
  t.ok(await client.manifest(NAME, LATEST, signal))
  t.equal(upstream.log.count('ping'), 1)
})

void test('a hostile realm gets neither credentials nor a connection', async (t) => {
  const elsewhere = await connect(t)
  const { upstream, signal } = await connect(t, { token: {} })
  const ask = (t: Test, options: object, realm: string) => {
    upstream.set({ token: { realm } })
    return failureOf(clientFor(t, { url: upstream.url, ...options }).manifest(NAME, LATEST, signal))
  }
  for (const realm of [
    'http://169.254.169.254/token',
    'http://[fe80::1]/token',
    'nonsense',
    'ftp://127.0.0.1/',
  ]) {
    t.equal((await ask(t, {}, realm)).failure, 'broken', realm)
    t.equal((await ask(t, { credentials }, realm)).failure, 'broken', realm)
  }
  t.equal((await ask(t, { credentials }, 'http://registry.example/token')).failure, 'broken')
  t.equal(elsewhere.upstream.log.count(), 0)
})

void test('hostileRealm: a name is looked at where it leads, and so is a redirect of the token service', async (t) => {
  const dialled: string[] = []
  const resolve: LookupFunction = (hostname, _options, callback) => {
    dialled.push(hostname)
    callback(null, [{ address: '169.254.169.254', family: 4 }])
  }
  const { upstream, client, signal } = await connect(t, { token: {} }, { resolve })
  upstream.set({ token: { realm: 'http://tokens.example/token' } })
  const named = await failureOf(client.manifest(NAME, LATEST, signal))
  t.match(named, { failure: 'broken', message: /resolves to an address/ })
  t.same(dialled, ['tokens.example'])
  upstream.set({ token: {} })
  await failureOf(client.manifest(NAME, LATEST, signal))
  for (const location of ['http://169.254.169.254/token', 'http://tokens.example/token', '//[fe80::1]/']) {
    const rule = upstream.fault({ kind: 'token' }, { status: 307, headers: { location } })
    t.equal((await failureOf(client.manifest(NAME, LATEST, signal))).failure, 'broken', location)
    rule.remove()
  }
  t.ok(await client.manifest(NAME, LATEST, signal))
})

void test('tokens of a registry behind TLS come over TLS', async (t) => {
  for (const [upstream, realm, allowed] of [
    ['https://quay.io', 'https://elsewhere.example/token', true],
    ['https://quay.io', 'http://quay.io/token', false],
    ['http://quay.lan', 'http://other.lan/token', true],
    ['http://quay.lan', 'ftp://quay.lan/token', false],
  ] as const) {
    t.equal(isAcceptableRealm(new URL(upstream), new URL(realm)), allowed, `${upstream} -> ${realm}`)
  }
  const { upstream, client, signal } = await connect(
    t,
    { tls: { cert: TEST_CERTIFICATE, key: TEST_KEY } },
    { ca: TEST_CERTIFICATE },
  )
  upstream.set({ token: { realm: `${upstream.authUrl.replace('https:', 'http:')}/token` } })
  t.match(await failureOf(client.manifest(NAME, LATEST, signal)), { failure: 'broken', message: /not https/ })
  t.equal(upstream.log.count('token'), 0)
})

void test('who may see our credentials', async (t) => {
  for (const [upstream, realm, allowed] of [
    ['https://registry-1.docker.io', 'https://auth.docker.io/token', true],
    ['https://quay.io', 'https://quay.io/v2/auth', true],
    ['https://quay.io', 'https://quay.io:8443/v2/auth', true],
    ['https://quay.io', 'http://quay.io/v2/auth', false],
    ['https://quay.io', 'https://evil.io/v2/auth', false],
    ['https://quay.io', 'https://quay.io.evil.com/', false],
    ['https://registry.corp.co.uk', 'https://auth.corp.co.uk/', true],
    ['https://registry.corp.co.uk', 'https://evil.co.uk/', false],
    ['https://one.azurecr.io', 'https://two.azurecr.io/', false],
    ['https://1.dkr.ecr.eu-west-1.amazonaws.com', 'https://evil.s3.amazonaws.com/', false],
    ['https://10.0.0.5', 'https://10.0.0.6/', false],
    ['https://10.0.0.5', 'https://10.0.0.5:8080/', true],
    ['https://registry', 'https://auth/', false],
    ['https://registry.gitlab.com', 'https://gitlab.com/jwt/auth', true],
    ['https://registry.digitalocean.com', 'https://api.digitalocean.com/v2/registry/auth', true],
    ['https://registry-1.docker.io', 'https://auth.docker.io.evil.com/token', false],
    ['https://registry-1.docker.io', 'https://evildocker.io/token', false],
    ['https://registry-1.docker.io.', 'https://auth.docker.io/token', true],
    ['https://quay.io.', 'https://evil.io./token', false],
    ['https://REGISTRY-1.Docker.IO', 'https://AUTH.docker.io/token', true],
    ['https://office.jfrog.io', 'https://evil.jfrog.io/token', false],
    ['https://eu-docker.pkg.dev', 'https://evil.pkg.dev/v2/token', false],
    ['https://office.github.io', 'https://evil.github.io/token', false],
    ['https://registry.nhs.uk', 'https://evil.nhs.uk/', false],
    ['https://co.uk', 'https://evil.co.uk/', false],
    ['https://corp.co.uk', 'https://auth.corp.co.uk/', true],
    ['https://registry.city.kawasaki.jp', 'https://auth.city.kawasaki.jp/', true],
    ['https://registry.me.kawasaki.jp', 'https://evil.kawasaki.jp/', false],
    ['https://one.com.de', 'https://two.com.de/', false],
    ['https://one.duckdns.org', 'https://two.duckdns.org/', false],
    ['https://registry.one.duckdns.org', 'https://gitlab.one.duckdns.org/jwt/auth', true],
    ['https://one.xn--55qx5d.cn', 'https://two.xn--55qx5d.cn/', false],
    ['https://1.dkr.ecr.eu-west-1.amazonaws.com', 'https://2.dkr.ecr.eu-west-1.amazonaws.com/', false],
    ['https://storage.googleapis.com', 'https://evil.storage.googleapis.com/', false],
    ['https://one.z01.azurefd.net', 'https://two.z01.azurefd.net/', false],
    ['https://one.blob.core.windows.net', 'https://two.blob.core.windows.net/', false],
    ['https://one.up.railway.app', 'https://two.up.railway.app/', false],
    ['https://..evil.io', 'https://quay.io', false],
    ['https://registry.corp.com.au', 'https://auth.corp.com.au/', true],
    ['https://io', 'https://io/', true],
    ['https://[2001:db8::1]', 'https://[2001:db8::2]/', false],
    ['https://[2001:db8::1]', 'https://[2001:db8::1]:8443/', true],
    ['https://quay.io', 'ftp://quay.io/', false],
    ['https://quay.io', 'https://user:pass@evil.io/quay.io', false],
    ['http://127.0.0.1:5000', 'http://127.0.0.1:5001/token', true],
    ['http://127.0.0.1:5000', 'http://127.0.0.2:5001/token', true],
    ['http://127.0.0.1:5000', 'http://10.0.0.1:5001/token', false],
    ['http://localhost:5000', 'http://127.0.0.1:5001/token', true],
    ['http://registry.localhost:5000', 'http://localhost:5001/token', true],
    ['http://localhost:5000', 'http://localhost.evil.io:5001/token', false],
    ['http://registry.lan:5000', 'http://registry.lan:5001/token', true],
    ['http://registry.lan:5000', 'http://other.lan:5001/token', false],
    ['https://registry.lan', 'http://127.0.0.1:5001/token', false],
  ] as const) {
    t.equal(credentialsMayGo(new URL(upstream), new URL(realm)), allowed, `${upstream} -> ${realm}`)
  }
})

void test('two customers of one hoster are two, whatever they share', (t) => {
  for (const domain of (
    'amazonaws.com appspot.com azurecr.io azureedge.net azurefd.net azurewebsites.net backblazeb2.com cloudapp.net ' +
    'cloudfront.net cloudfunctions.net digitaloceanspaces.com fly.dev github.io githubusercontent.com gitlab.io ' +
    'googleapis.com herokuapp.com jfrog.io linodeobjects.com netlify.app ngrok.app ngrok.io nip.io ' +
    'ondigitalocean.app onrender.com pages.dev pkg.dev r2.dev run.app scw.cloud sslip.io trafficmanager.net ' +
    'vercel.app web.app windows.net workers.dev'
  ).split(' ')) {
    const upstream = new URL(`https://one.${domain}`)
    t.ok(credentialsMayGo(upstream, new URL(`https://one.${domain}:8443/token`)), domain)
    t.notOk(credentialsMayGo(upstream, new URL(`https://two.${domain}/token`)), domain)
    t.notOk(credentialsMayGo(upstream, new URL(`https://${domain}/token`)), domain)
  }
  t.end()
})

void test('a realm whose host is nothing but dots is looked at in no time', (t) => {
  const realm = new URL(`https://quay${'.'.repeat(60_000)}io/token`)
  const before = process.threadCpuUsage()
  t.notOk(credentialsMayGo(new URL('https://quay.io'), realm))
  const { user, system } = process.threadCpuUsage(before)
  t.ok(user + system < 500_000, `${user + system} µs`)
  t.ok(credentialsMayGo(new URL('https://quay.io'), new URL('https://quay.io../token')))
  t.end()
})

function hasToken({ headers }: LogEntry): boolean {
  return headers.authorization !== undefined
}
