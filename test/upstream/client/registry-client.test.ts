import { test } from 'tap'
import { digestOf } from '../../../src/oci/digest.ts'
import { ACCEPT_MANIFESTS } from '../../../src/oci/descriptor.ts'
import { content, image } from '../../support/images.ts'
import { clientFor, connect, failureOf, LATEST, NAME, valueOf } from '../../support/upstream-client.ts'
import { startUpstream } from '../../support/upstream.ts'
import { upstreamSuite } from '../../suites/upstream.ts'

void test('an open registry', async (t) => {
  upstreamSuite(t, async (t) => {
    const upstream = await startUpstream()
    t.teardown(() => upstream.close())
    return {
      upstream: clientFor(t, { url: upstream.url }),
      addImage: (...args) => upstream.addImage(...args),
      addBlob: (...args) => upstream.addBlob(...args),
    }
  })
})

void test('a registry with tokens and a CDN', async (t) => {
  upstreamSuite(t, async (t) => {
    const upstream = await startUpstream({ token: {}, cdn: { hops: 2, anonymousBodies: false } })
    t.teardown(() => upstream.close())
    return {
      upstream: clientFor(t, { url: upstream.url }),
      addImage: (...args) => upstream.addImage(...args),
      addBlob: (...args) => upstream.addBlob(...args),
    }
  })
})

void test('manifests are asked for with the full Accept list, and nothing encoded', async (t) => {
  const { client, upstream, signal } = await connect(t)
  await client.manifest(NAME, LATEST, signal)
  await client.headManifest(NAME, LATEST, signal)
  for (const { headers } of upstream.log.of('manifest')) {
    t.equal(headers.accept, ACCEPT_MANIFESTS)
    t.equal(headers['accept-encoding'], 'identity')
    t.match(headers['user-agent'], /^entrepot\/\d/)
  }
})

void test('wrongDigestHeader: a manifest with another digest than asked for is refused and counted', async (t) => {
  const { client, upstream, image, metrics, signal } = await connect(t)
  upstream.fault({ kind: 'manifest' }, { corrupt: 40, digestHeader: 'none' })
  const error = await failureOf(client.manifest(NAME, image.manifest.digest, signal))
  t.equal(error.failure, 'broken')
  t.equal(await valueOf(metrics.integrityFailures, { upstream: 'docker.io' }), 1)
})

void test('wrongDigestHeader: one that contradicts the bytes is an error', async (t) => {
  const { client, upstream, signal } = await connect(t)
  upstream.fault({ kind: 'manifest' }, { digestHeader: digestOf(Buffer.from('another')) })
  t.equal((await failureOf(client.manifest(NAME, LATEST, signal))).failure, 'broken')
})

void test('noDigestHeader: a missing or strange one is none', async (t) => {
  const { client, upstream, image, signal } = await connect(t)
  for (const digestHeader of ['none', 'blake3:abcd', 'nonsense']) {
    const rule = upstream.fault({ kind: 'manifest' }, { digestHeader })
    t.equal((await client.manifest(NAME, LATEST, signal))?.digest, image.manifest.digest, digestHeader)
    t.same(await client.headManifest(NAME, LATEST, signal), { result: 'unusable' }, digestHeader)
    rule.remove()
  }
})

void test('otherAlgoHeader: it does not contradict a digest asked for', async (t) => {
  const { client, upstream, image, signal } = await connect(t)
  upstream.fault({ kind: 'manifest' }, { digestHeader: digestOf(Buffer.from('another'), 'sha512') })
  const manifest = await client.manifest(NAME, image.manifest.digest, signal)
  t.equal(manifest?.digest, image.manifest.digest)
})

void test('a HEAD that answers a digest with another digest is an error', async (t) => {
  const { client, upstream, image, signal } = await connect(t)
  upstream.fault({ kind: 'manifest' }, { digestHeader: digestOf(Buffer.from('another')) })
  t.equal((await failureOf(client.headManifest(NAME, image.manifest.digest, signal))).failure, 'broken')
})

void test('headMode: noLength, 405: such a HEAD is unusable', async (t) => {
  const { client, upstream, signal } = await connect(t)
  for (const behaviour of [{ noContentLength: true }, { status: 405 }, { status: 501 }]) {
    const rule = upstream.fault({ method: 'HEAD' }, behaviour)
    t.same(await client.headManifest(NAME, LATEST, signal), { result: 'unusable' })
    rule.remove()
  }
})

void test('a HEAD that takes long is no reason to spend pulls of a registry that counts them', async (t) => {
  const timeouts = { connect: 60_000, headers: 400, idle: 60_000 }
  const clock = { now: 0 }
  const counting = { 'ratelimit-remaining': '97;w=21600' }
  const { upstream, client, signal } = await connect(t, {}, { timeouts, now: () => clock.now })
  upstream.fault({ kind: 'manifest' }, { headers: counting })
  t.match(await client.headManifest(NAME, LATEST, signal), { result: 'present' })
  const slow = upstream.fault({ method: 'HEAD' }, { hang: 'headers' })
  t.match(await failureOf(client.headManifest(NAME, LATEST, signal)), { failure: 'unreachable' })
  slow.remove()
  clock.now += 10_000
  // A GET that is answered has not shown that HEADs are not.
  const refused = upstream.fault({ method: 'HEAD', times: 1 }, { status: 405 })
  t.same(await client.headManifest(NAME, LATEST, signal), { result: 'unusable' })
  t.equal(refused.hits, 1)
  t.ok(await client.manifest(NAME, LATEST, signal))
  t.match(await client.headManifest(NAME, LATEST, signal), { result: 'present' })
})

void test('a HEAD that never worked may hang: pulls are counted, and GET is what is left', async (t) => {
  const timeouts = { connect: 60_000, headers: 400, idle: 60_000 }
  const { upstream, client, signal } = await connect(t, {}, { timeouts })
  upstream.fault({ method: 'GET' }, { headers: { 'ratelimit-remaining': '97;w=21600' } })
  const hanging = upstream.fault({ method: 'HEAD' }, { hang: 'headers' })
  for (let round = 0; round < 3; round += 1) {
    t.ok(await client.manifest(NAME, LATEST, signal))
    t.same(await client.headManifest(NAME, LATEST, signal), { result: 'unusable' })
  }
  t.equal(hanging.hits, 2)
})

void test('the web page of a captive portal is neither a manifest nor an absence', async (t) => {
  const { client, upstream, image, signal } = await connect(t)
  for (const status of [200, 404]) {
    const rule = upstream.fault({}, { status, body: 'html' })
    const none = new URLSearchParams()
    for (const asked of [
      client.manifest(NAME, LATEST, signal),
      client.tags(NAME, none, signal),
      client.referrers(NAME, image.manifest.digest, none, signal),
    ]) {
      t.equal((await failureOf(asked)).failure, 'broken')
    }
    rule.remove()
  }
  upstream.fault({}, { status: 404, body: 'html' })
  const blob = client.blob(NAME, image.layers[0]!.digest, { from: 0, signal })
  t.equal((await failureOf(blob)).failure, 'broken')
})

void test('what is no JSON object is no manifest', async (t) => {
  const { client, upstream, signal } = await connect(t)
  for (const text of ['', 'ok', '[]', '"{"', 'null']) {
    const body = { text, type: 'application/vnd.oci.image.manifest.v1+json' }
    const rule = upstream.fault({ kind: 'manifest' }, { status: 200, body })
    t.equal((await failureOf(client.manifest(NAME, LATEST, signal))).failure, 'broken', text)
    rule.remove()
  }
})

void test('nonJsonErrors: a 404 is believed only with an error code', async (t) => {
  const { client, upstream, signal } = await connect(t)
  const type = 'application/json'
  for (const [text, believed] of [
    ['{"errors":[{"code":"manifest_unknown"}]}', true],
    ['{"errors":[{"code":"TAG_EXPIRED","detail":{}}]}', true],
    ['{"errors":[]}', false],
    ['{"errors":[{"code":""}]}', false],
    ['{"errors":[{"code":7}]}', false],
    ['{"errors":{"code":"X"}}', false],
    ['null', false],
    ['404 page not found', false],
    ['', false],
  ] as const) {
    const rule = upstream.fault({ kind: 'manifest' }, { status: 404, body: { text, type } })
    const asked = client.manifest(NAME, LATEST, signal)
    if (believed) t.equal(await asked, undefined, text)
    else t.equal((await failureOf(asked)).failure, 'broken', text)
    rule.remove()
  }
})

void test('manifestTooBig: 4 MiB are taken, one byte more is not', async (t) => {
  const { client, upstream, signal } = await connect(t)
  const spare = 4 * 1024 * 1024 - image({ pad: 1_000_000 }).manifest.bytes.length
  const largest = image({ pad: 1_000_000 + spare })
  t.equal(largest.manifest.bytes.length, 4 * 1024 * 1024)
  upstream.moveTag(NAME, LATEST, largest)
  t.equal((await client.manifest(NAME, LATEST, signal))?.bytes.length, 4 * 1024 * 1024)
  upstream.moveTag(NAME, LATEST, image({ pad: 1_000_001 + spare }))
  t.equal((await failureOf(client.manifest(NAME, LATEST, signal))).failure, 'broken')
  upstream.fault({ kind: 'manifest' }, { noContentLength: true })
  t.equal((await failureOf(client.manifest(NAME, LATEST, signal))).failure, 'broken')
})

void test('manifestTooBig: infinite: it is not read to its end', async (t) => {
  const { client, upstream, signal } = await connect(t)
  upstream.holdings.addManifest(NAME, LATEST, content('application/json', Buffer.alloc(64 << 20, '{')))
  upstream.fault({ kind: 'manifest' }, { noContentLength: true })
  t.equal((await failureOf(client.manifest(NAME, LATEST, signal))).failure, 'broken')
  await upstream.log.until((log) => log.inFlight('manifest') === 0)
  t.ok(upstream.log.bytesSent('manifest') < 16 << 20, String(upstream.log.bytesSent('manifest')))
})

void test('a registry below a path is asked below that path', async (t) => {
  const { upstream, signal } = await connect(t)
  const client = clientFor(t, { url: `${upstream.url}/hub/` })
  await failureOf(client.manifest(NAME, LATEST, signal)).catch(() => undefined)
  t.equal(upstream.log.entries[0]?.url, '/hub/v2/library/thing/manifests/latest')
})

void test('statuses become the failures of the interface', async (t) => {
  const { upstream, signal } = await connect(t)
  for (const [status, failure] of [
    [401, 'denied'],
    [403, 'denied'],
    [429, 'busy'],
    [500, 'broken'],
    [503, 'broken'],
    [418, 'broken'],
    [204, 'broken'],
  ] as const) {
    const rule = upstream.fault({ kind: 'manifest' }, { status })
    const client = clientFor(t, { url: upstream.url })
    const error = await failureOf(client.manifest(NAME, LATEST, signal))
    t.match(error, { failure, status, upstream: 'docker.io', insufficientScope: false })
    rule.remove()
  }
})

void test('rateLimit: headers: what is left of the quota is counted, as are requests and received bytes', async (t) => {
  const { client, upstream, image, metrics, signal } = await connect(t)
  upstream.fault({ kind: 'manifest' }, { headers: { 'ratelimit-remaining': '97;w=21600' } })
  await client.manifest(NAME, LATEST, signal)
  await client.headBlob(NAME, image.layers[0]!.digest, signal)
  await client.manifest(NAME, digestOf(Buffer.from('nothing')), signal)
  const { upstreamRequests, upstreamBytes, upstreamRatelimitRemaining } = metrics
  t.equal(await valueOf(upstreamRequests, { kind: 'manifest', code: '2xx' }), 1)
  t.equal(await valueOf(upstreamRequests, { kind: 'manifest', code: '4xx' }), 1)
  t.equal(await valueOf(upstreamRequests, { kind: 'blob', code: '2xx' }), 1)
  t.equal(await valueOf(upstreamBytes, { upstream: 'docker.io' }), upstream.log.bytesSent())
  t.equal(await valueOf(upstreamRatelimitRemaining, { upstream: 'docker.io' }), 97)
})
