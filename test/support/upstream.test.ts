import { once } from 'node:events'
import { connect } from 'node:net'
import { test } from 'tap'
import { request } from 'undici'
import { image, index, randomBytesOf } from './images.ts'
import { TEST_CERTIFICATE, TEST_KEY } from './upstream-tls.ts'
import { startUpstream } from './upstream.ts'

async function get(url: string): Promise<{ status: number; bytes: Buffer }> {
  const { statusCode, body } = await request(url)
  return { status: statusCode, bytes: Buffer.from(await body.arrayBuffer()) }
}

void test('the same options make the same image, other ones another', (t) => {
  const one = image({ layers: [1000, 2000], seed: 'x' })
  t.same(one, image({ layers: [1000, 2000], seed: 'x' }))
  t.not(one.manifest.digest, image({ layers: [1000, 2000], seed: 'y' }).manifest.digest)
  t.equal(new Set(one.layers.map(({ digest }) => digest)).size, 2)
  t.ok(randomBytesOf(10).equals(randomBytesOf(20).subarray(0, 10)))
  const both = index({ images: { amd64: one, arm64: index({ images: { v8: image() } }) } })
  t.equal(both.manifests.length, 4)
  t.equal(both.manifests.at(-1), both.manifest)
  t.end()
})

void test('a rule hits the requests that it names, and only so many', async (t) => {
  await using upstream = await startUpstream()
  upstream.addImage('a/b', 'latest', image())
  const manifest = `${upstream.url}/v2/a/b/manifests/latest`
  const statuses = async (count: number) => {
    const all: number[] = []
    for (let asked = 0; asked < count; asked += 1) all.push((await get(manifest)).status)
    return all
  }
  const second = upstream.fault({ kind: 'manifest', nth: 2 }, { status: 500 })
  t.same(await statuses(3), [200, 500, 200])
  t.equal(second.hits, 3)
  upstream.rules.clear()
  upstream.fault({ repo: 'a/b', times: 2 }, { status: 503 })
  upstream.fault({ repo: 'c/d' }, { status: 500 })
  t.same(await statuses(3), [503, 503, 200])
  upstream.rules.clear()
  upstream.fault({ kind: ['blob', 'manifest'], when: ({ method }) => method === 'GET' }, { status: 403 })
  t.same(await statuses(1), [403])
})

void test('tags move and disappear, repositories too', async (t) => {
  await using upstream = await startUpstream()
  const [one, two] = [image({ seed: 1 }), image({ seed: 2 })]
  upstream.addImage('a/b', 'latest', one)
  const manifest = `${upstream.url}/v2/a/b/manifests/`
  t.ok((await get(`${manifest}latest`)).bytes.equals(one.manifest.bytes))
  upstream.moveTag('a/b', 'latest', two)
  t.ok((await get(`${manifest}latest`)).bytes.equals(two.manifest.bytes))
  upstream.deleteTag('a/b', 'latest')
  t.equal((await get(`${manifest}latest`)).status, 404)
  t.equal((await get(manifest + two.manifest.digest)).status, 200)
  upstream.deleteManifest('a/b', two.manifest.digest)
  t.equal((await get(manifest + two.manifest.digest)).status, 404)
  upstream.deleteRepository('a/b')
  t.match((await get(manifest + one.manifest.digest)).bytes.toString(), 'NAME_UNKNOWN')
})

void test('down means down, and up is where it was', async (t) => {
  await using upstream = await startUpstream({ bytesPerSecond: 1000 })
  upstream.addImage('a/b', 'latest', image({ layers: [100_000] }))
  const { url } = upstream
  const running = get(`${url}/v2/a/b/blobs/${image({ layers: [100_000] }).layers[0]!.digest}`)
  running.catch(() => undefined)
  await upstream.log.until((log) => log.bytesSent('blob') > 0)
  await upstream.stop()
  await t.rejects(running)
  await t.rejects(get(`${url}/v2/`))
  await upstream.start()
  t.equal(upstream.url, url)
  t.equal((await get(`${url}/v2/`)).status, 200)
})

void test('a connection that never came to speak TLS does not keep it up', async (t) => {
  await using upstream = await startUpstream({ tls: { cert: TEST_CERTIFICATE, key: TEST_KEY } })
  const { hostname, port } = new URL(upstream.url)
  const silent = connect(Number(port), hostname)
  silent.on('error', () => undefined)
  await once(silent, 'connect')
  // Who comes later is accepted later.
  const later = connect(Number(port), hostname).end('not TLS')
  await once(later.resume(), 'close')
  await upstream.stop()
  if (!silent.destroyed) await once(silent.resume(), 'close')
  t.ok(silent.destroyed)
})

void test('the log knows what was asked, sent and broken off', async (t) => {
  await using upstream = await startUpstream()
  const held = image({ layers: [500_000] })
  upstream.addImage('a/b', 'latest', held)
  const blob = `${upstream.url}/v2/a/b/blobs/${held.layers[0]!.digest}`
  await Promise.all([get(blob), get(blob), get(blob)])
  t.equal(upstream.log.bytesSent('blob'), 1_500_000)
  t.equal(upstream.log.count({ kind: 'blob', status: 200, repo: 'a/b' }), 3)
  upstream.log.clear()
  const hanging = upstream.fault({ kind: 'blob' }, { hang: 'headers' })
  const waiting = Promise.allSettled([get(blob), get(blob)])
  await upstream.log.until((log) => log.inFlight('blob') === 2)
  await upstream.stop()
  await waiting
  t.equal(upstream.log.inFlight('blob'), 0)
  t.equal(upstream.log.maxConcurrent('blob'), 2)
  await upstream.start()
  hanging.remove()
  upstream.log.clear()
  upstream.fault({ kind: 'blob' }, { dropAfterBytes: 1000, how: 'fin' })
  await t.rejects(get(blob))
  await upstream.log.until((log) => log.inFlight('blob') === 0)
  t.match(upstream.log.entries, [{ bytesSent: 1000, aborted: true }])
})
