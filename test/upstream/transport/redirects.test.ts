import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { getCACertificates, setDefaultCACertificates } from 'node:tls'
import { test, type Test } from 'tap'
import { parseRepositoryName } from '../../../src/oci/reference.ts'
import {
  bytesOf,
  clientFor,
  connect,
  failureOf,
  LATEST,
  NAME,
  valueOf,
} from '../../support/upstream-client.ts'
import type { UpstreamOptions } from '../../support/upstream.ts'
import type { LogEntry } from '../../support/upstream-log.ts'
import {
  EXPIRED_CERTIFICATE,
  OTHER_HOSTS_CERTIFICATE,
  TEST_CERTIFICATE,
  TEST_KEY,
} from '../../support/upstream-tls.ts'

void test('a CDN never sees our credentials, and still the range', async (t) => {
  for (const status of [301, 302, 303, 307, 308] as const) {
    const { client, upstream, image, signal } = await connect(t, { token: {}, cdn: { status, hops: 3 } })
    const { digest, bytes } = image.layers[0]!
    const blob = await client.blob(NAME, digest, { from: 1000, signal })
    t.equal(blob?.start, 1000)
    t.ok((await bytesOf(blob)).equals(bytes.subarray(1000)))
    t.equal(upstream.log.authorizationSeenBy('cdn'), 0)
    t.equal(upstream.log.of('cdn')[0]?.headers.range, 'bytes=1000-')
    t.equal(upstream.log.of('cdn')[0]?.headers['accept-encoding'], 'identity')
    t.equal(upstream.log.count('hop'), 2)
  }
})

void test('ten redirects are followed, eleven are not', async (t) => {
  const { client, upstream, image, signal } = await connect(t, { cdn: { hops: 10 } })
  const { digest } = image.layers[0]!
  t.equal((await bytesOf(await client.blob(NAME, digest, { from: 0, signal }))).length, 100_000)
  upstream.set({ cdn: { hops: 11 } })
  t.equal((await failureOf(client.blob(NAME, digest, { from: 0, signal }))).failure, 'broken')
})

void test('a relative Location stays where it is, one without a scheme keeps the scheme', async (t) => {
  for (const location of ['relative', 'schemeRelative'] as const) {
    const { client, upstream, image, signal } = await connect(t, { cdn: { location } })
    const { digest, bytes } = image.layers[0]!
    t.ok((await bytesOf(await client.blob(NAME, digest, { from: 0, signal }))).equals(bytes))
    const expected = location === 'relative' ? 'registry' : 'cdn'
    t.equal(upstream.log.of('cdn')[0]?.listener, expected)
  }
})

void test('a manifest may be redirected, too, and its absence be told from there', async (t) => {
  const { client, upstream, image, signal } = await connect(t)
  const other = await connect(t, {}, {}, image)
  const path = `/v2/${NAME}/manifests/`
  upstream.fault(
    { ref: 'latest' },
    { status: 307, headers: { location: `${other.upstream.url}${path}latest` } },
  )
  t.equal((await client.manifest(NAME, LATEST, signal))?.digest, image.manifest.digest)
  upstream.fault({ ref: 'latest' }, { headers: { location: `${other.upstream.url}${path}gone` } })
  t.equal(await client.manifest(NAME, LATEST, signal), undefined)
})

void test('where no redirect may lead', async (t) => {
  const { client, upstream, image, signal } = await connect(t)
  const own = `${upstream.url}/v2/${NAME}/blobs/${image.layers[0]!.digest}`
  for (const location of [
    own, // a circle
    'http://169.254.169.254/latest/meta-data/',
    'http://[fe80::1]/',
    'http://[::ffff:169.254.169.254]/',
    'http://224.0.0.1/',
    'http://[64:ff9b::a9fe:a9fe]/',
    'ftp://127.0.0.1/blob',
    'file:///etc/passwd',
    'http://',
    undefined,
  ]) {
    const rule = upstream.fault({ kind: 'blob' }, { status: 307, headers: { location } })
    const asked = client.blob(NAME, image.layers[0]!.digest, { from: 0, signal })
    t.equal((await failureOf(asked)).failure, 'broken', String(location))
    t.equal(rule.hits, 1, 'and it is not tried again')
    rule.remove()
  }
})

void test('from https to http no redirect may lead', async (t) => {
  const plain = await connect(t)
  const { client, upstream, image, signal } = await connect(
    t,
    { tls: { cert: TEST_CERTIFICATE, key: TEST_KEY } },
    { ca: TEST_CERTIFICATE },
  )
  const { digest } = image.layers[0]!
  t.equal((await bytesOf(await client.blob(NAME, digest, { from: 0, signal }))).length, 100_000)
  const location = `${plain.upstream.url}/v2/${NAME}/blobs/${digest}`
  upstream.fault({ kind: 'blob' }, { status: 307, headers: { location } })
  t.equal((await failureOf(client.blob(NAME, digest, { from: 0, signal }))).failure, 'broken')
  t.equal(plain.upstream.log.count(), 0)
})

void test('from http to https a redirect may lead', async (t) => {
  const secure = await connect(t, { tls: { cert: TEST_CERTIFICATE, key: TEST_KEY } })
  const { client, upstream, image, signal } = await connect(t, {}, { ca: TEST_CERTIFICATE })
  const { digest } = image.layers[0]!
  const location = `${secure.upstream.url}/v2/${NAME}/blobs/${digest}`
  upstream.fault({ kind: 'blob' }, { status: 307, headers: { location } })
  t.equal((await bytesOf(await client.blob(NAME, digest, { from: 0, signal }))).length, 100_000)
})

void test('a certificate that nobody vouches for is not believed', async (t) => {
  const { upstream, signal } = await connect(t, { tls: { cert: TEST_CERTIFICATE, key: TEST_KEY } })
  const client = clientFor(t, { url: upstream.url })
  t.equal((await failureOf(client.manifest(NAME, LATEST, signal))).failure, 'unreachable')
  t.equal(upstream.log.count(), 0)
})

void test("certificates of the configuration are believed in place of the system's, not beside them", async (t) => {
  const { upstream, signal } = await connect(t, { tls: { cert: TEST_CERTIFICATE, key: TEST_KEY } })
  const before = getCACertificates('default')
  t.teardown(() => setDefaultCACertificates(before))
  setDefaultCACertificates([...before, TEST_CERTIFICATE])
  const believing = clientFor(t, { url: upstream.url })
  t.ok(await believing.manifest(NAME, LATEST, signal))
  const other = clientFor(t, { url: upstream.url, ca: OTHER_HOSTS_CERTIFICATE })
  t.equal((await failureOf(other.manifest(NAME, LATEST, signal))).failure, 'unreachable')
  const both = clientFor(t, { url: upstream.url, ca: `${EXPIRED_CERTIFICATE}\n${TEST_CERTIFICATE}` })
  t.ok(await both.manifest(NAME, LATEST, signal))
})

void test('a signed URL that is refused is asked for once more, and is never a "denied" or "absent"', async (t) => {
  for (const status of [400, 401, 403, 404]) {
    const { client, upstream, image, metrics, signal } = await connect(t, { cdn: {} })
    const { digest } = image.layers[0]!
    upstream.fault({ kind: 'cdn', times: 1 }, { status, body: 'html' })
    t.equal((await bytesOf(await client.blob(NAME, digest, { from: 0, signal }))).length, 100_000)
    t.equal(upstream.log.count('blob'), 2)
    t.equal(await valueOf(metrics.upstreamRetries, { reason: 'redirect-refused' }), 1)

    upstream.fault({ kind: 'cdn' }, { status, body: 'json', code: 'BLOB_UNKNOWN' })
    t.equal((await failureOf(client.blob(NAME, digest, { from: 0, signal }))).failure, 'broken')
    t.equal(upstream.log.count('blob'), 4, 'once')
  }
})

void test('a registry that sends us on within itself, and wants a token there, gets one', async (t) => {
  const { client, upstream, image, signal } = await connect(t, { token: {} })
  const there = parseRepositoryName('project/library/thing')
  upstream.addImage(there, LATEST, image)
  const { digest } = image.layers[0]!
  for (const path of [`manifests/${LATEST}`, `blobs/${digest}`]) {
    const ref = path.split('/')[1]!
    upstream.fault({ repo: NAME, ref }, { status: 301, headers: { location: `/v2/${there}/${path}` } })
  }
  for (const round of [1, 2]) {
    const found = await client.manifest(NAME, LATEST, signal)
    t.equal(found?.digest, image.manifest.digest, `round ${round}`)
    const blob = await client.blob(NAME, digest, { from: 0, signal })
    t.ok((await bytesOf(blob)).equals(image.layers[0]!.bytes))
  }
  t.equal(upstream.log.count('token'), 1)
  t.equal(upstream.log.count({ status: 401 }), 1)
})

const ROBOT = { username: 'robot', password: 'secret' }

/** A name of their own in front of another registry, which asks who is there; the first has our credentials. */
async function vanity(t: Test, target: UpstreamOptions = {}) {
  const there = await connect(t, { token: {}, cdn: {}, ...target })
  const elsewhere = ({ kind, url, headers }: LogEntry): string | undefined =>
    kind === 'token' || headers.authorization === undefined ? undefined : `${there.upstream.url}${url}`
  const here = await connect(
    t,
    { basic: ROBOT, elsewhere },
    { credentials: ROBOT, ...(target.now === undefined ? {} : { now: target.now }) },
    there.image,
  )
  return { there: there.upstream, here: here.upstream, ...here }
}

void test('another registry that we are sent to, and that asks who is there, gets nobody', async (t) => {
  const { client, here, there, image, signal } = await vanity(t)
  const { digest, bytes } = image.layers[0]!
  t.match(await client.headManifest(NAME, LATEST, signal), { digest: image.manifest.digest })
  t.equal((await client.manifest(NAME, LATEST, signal))?.digest, image.manifest.digest)
  t.ok((await bytesOf(await client.blob(NAME, digest, { from: 0, signal }))).equals(bytes))
  const rest = await bytesOf(await client.blob(NAME, digest, { from: 1000, signal }))
  t.ok(rest.equals(bytes.subarray(1000)), 'the rest of it as well')
  t.same((await client.tags(NAME, new URLSearchParams(), signal))?.tags, [LATEST])
  t.ok(here.log.count({ status: 307 }) > 4)
  t.equal(there.log.count('token'), 1)
  const [asked] = there.log.of('token')
  t.equal(new URL(asked!.url, 'http://auth').searchParams.get('scope'), `repository:${NAME}:pull`)
  t.notOk(there.log.entries.some(({ headers }) => headers.authorization?.startsWith('Basic')))
  t.equal(there.log.authorizationSeenBy('auth'), 0)
  t.equal(there.log.authorizationSeenBy('cdn'), 0)
  t.notOk(here.log.entries.some(({ headers }) => headers.authorization?.startsWith('Bearer')))
})

void test('what another registry refuses us once more is denied, of that name alone', async (t) => {
  const { client, there, image, signal } = await vanity(t, {
    token: { insufficientScope: { repos: [NAME] } },
  })
  for (const asked of [
    () => client.manifest(NAME, LATEST, signal),
    () => client.blob(NAME, image.layers[0]!.digest, { from: 0, signal }),
  ]) {
    const before = there.log.count('manifest') + there.log.count('blob')
    t.match(await failureOf(asked()), { failure: 'denied', status: 401, isHostwide: false })
    t.ok(there.log.count('manifest') + there.log.count('blob') - before <= 2)
  }
})

void test('a token service of another registry that is down is no failure of the upstream', async (t) => {
  for (const [tokenEndpoint, realm] of [
    [{ status: 503 }, undefined],
    [{ status: 429 }, undefined],
    [undefined, 'http://127.0.0.1:1/token'],
    [undefined, 'http://169.254.169.254/token'],
  ] as const) {
    const token = realm === undefined ? {} : { realm }
    const { client, signal } = await vanity(t, { token, tokenEndpoint })
    const error = await failureOf(client.manifest(NAME, LATEST, signal))
    t.match(error, { failure: 'broken', isHostwide: false })
    t.match(client.status().accounts, [{ breaker: { state: 'closed' }, stoppedForMs: undefined }])
  }
})

void test('a path as long as a header may be, to a registry that asks who is there, is looked at in no time', async (t) => {
  const { client, upstream, signal } = await connect(t)
  const other = createServer({ maxHeaderSize: 128 * 1024 }, (_request, response) => {
    response.writeHead(401, { 'www-authenticate': `Bearer realm="${url}/token"` }).end()
  })
  t.teardown(() => other.close())
  await once(other.listen(0, '127.0.0.1'), 'listening')
  const url = `http://127.0.0.1:${(other.address() as AddressInfo).port}`
  const location = `${url}${'/v2/'.repeat(15_000)}`
  upstream.fault({ ref: 'latest' }, { status: 307, headers: { location } })
  const before = process.threadCpuUsage()
  t.equal((await failureOf(client.manifest(NAME, LATEST, signal))).failure, 'denied')
  const { user, system } = process.threadCpuUsage(before)
  // A fraction of that; where it is quadratic, seconds.
  t.ok(user + system < 500_000, `${user + system} µs`)
})
