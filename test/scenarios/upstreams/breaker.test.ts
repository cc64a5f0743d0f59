/** An upstream that is left alone, as clients see it: what is here comes at once, what is not is refused at once. */
import { once } from 'node:events'
import { createServer } from 'node:net'
import { test, type Test } from 'tap'
import { eventually, heard, pull, simulate, startMirror, type Mirror } from '../../support/app.ts'
import { FaultyFiles } from '../../support/faulty-files.ts'
import { image, type Image } from '../../support/images.ts'
import { codeOf } from '../../support/two-upstreams.ts'
import type { UpstreamSimulator } from '../../support/upstream.ts'

interface Setting {
  readonly hub: UpstreamSimulator
  readonly mirror: Mirror
  readonly clock: { now: number }
  readonly held: Image
  /** Cached, and older than it is believed. */
  readonly here: string
  /** Upstream has it, and nobody asked for it. */
  readonly there: string
}

async function setUp(t: Test, upstream: Record<string, unknown> = {}): Promise<Setting> {
  const hub = await simulate(t)
  const [held, other] = [image({ layers: [5_000], seed: 'held' }), image({ layers: [5_000], seed: 'other' })]
  hub.addImage('library/held', '1', held)
  hub.addImage('library/other', '1', other)
  const clock = { now: Date.now() }
  const mirror = await startMirror(t, hub, { now: () => clock.now, cache: { prefetch: 'off' }, upstream })
  const here = `${mirror.url}/v2/library/held/manifests/1`
  // Written down, too.
  await eventually('it is here', async () => (await pull(here)).cache === 'hit')
  await heard(mirror)
  clock.now += 120_000
  return { hub, mirror, clock, held, here, there: `${mirror.url}/v2/library/other/manifests/1` }
}

async function health(mirror: Mirror): Promise<{ state: string; message?: string }> {
  const { body } = await pull(`${mirror.url}/readyz`)
  return (JSON.parse(body.toString()) as { upstreams: [{ state: string; message?: string }] }).upstreams[0]
}

test('a port where nobody listens is dialled once', async (t) => {
  const { hub, mirror, clock, held, here, there } = await setUp(t)
  await hub.stop()
  t.match(await pull(there), { status: 503 })

  // It would answer again: whoever is not served by it was not asked for.
  await hub.start()
  hub.log.clear()
  clock.now += 4_000
  const refused = await pull(there)
  t.match(refused, { status: 503, headers: { 'retry-after': '6' } }, 'told when it will be asked again')
  t.equal(codeOf(refused), 'UNAVAILABLE')
  t.match(await pull(here), { status: 200, cache: 'stale', body: held.manifest.bytes })
  const blob = there.replace('manifests/1', `blobs/${held.layers[0]!.digest}`)
  t.match(await pull(blob), { status: 503, headers: { 'retry-after': '6' } })
  t.match(await pull(there.replace('manifests/1', 'tags/list')), { status: 503 })
  t.match(await health(mirror), {
    state: 'failing',
    message: /left alone, asked again in 6 s: .*ECONNREFUSED/,
  })
  t.match(
    (await pull(`${mirror.url}/metrics`)).body.toString(),
    'entrepot_upstream_breaker_open{upstream="docker.io",account="anonymous"} 1',
  )
  t.equal(hub.log.count(), 0, 'nothing of all this was asked')

  clock.now += 6_000
  t.match(await pull(here), { status: 200, cache: 'hit' }, 'then the next one is, whoever comes')
  t.match(await pull(there), { status: 200, cache: 'miss' })
  t.match(await health(mirror), { state: 'ok' })
})

test('one that takes connections and never answers is waited for once', async (t) => {
  const { hub, mirror, clock, held, here, there } = await setUp(t, { timeouts: { headers: '400ms' } })
  await hub.hang('tls')
  t.match(await pull(there), { status: 503 }, 'this one has waited')

  // Now a question would be answered, by something that counts connections.
  await hub.stop()
  let dialled = 0
  const counter = createServer((socket) => {
    dialled++
    socket.destroy()
  })
  counter.listen(Number(new URL(hub.url).port), '127.0.0.1')
  await once(counter, 'listening')
  t.teardown(() => counter.close())
  t.match(await pull(there), { status: 503, headers: { 'retry-after': '10' } })
  t.match(await pull(here), { status: 200, cache: 'stale', body: held.manifest.bytes })
  t.match(await pull(here, {}, 'HEAD'), { status: 200, cache: 'stale' })
  t.equal(dialled, 0)
  clock.now += 10_000
  t.match(await pull(there), { status: 503 })
  t.ok(dialled > 0, 'after ten seconds it is tried')
  const begun = dialled
  clock.now += 19_999
  t.match(await pull(there), { status: 503, headers: { 'retry-after': '1' } })
  t.equal(dialled, begun, 'and then left alone for twenty')
  const news = mirror.lines.filter(({ msg }) => msg === 'upstream is left alone')
  t.equal(news.length, 1, 'one line for all of it')
})

test('while one probes, the others are refused at once', async (t) => {
  const { hub, clock, here, there } = await setUp(t)
  await hub.stop()
  t.match(await pull(there), { status: 503 })
  await hub.start()
  clock.now += 10_000
  const rule = hub.fault({ kind: 'manifest' }, { hang: 'headers' })
  hub.log.clear()
  const leaving = new AbortController()
  const probe = fetch(there, { signal: leaving.signal }).catch(() => undefined)
  await hub.log.until((log) => log.count() === 1)
  const third = there.replace('other', 'third')
  t.match(await pull(third), { status: 503, headers: { 'retry-after': '1' } })
  t.match(await pull(here), { status: 200, cache: 'stale' })
  t.equal(hub.log.count(), 1, 'only the probe was asked')
  rule.remove()
  leaving.abort()
  await probe
})

test('one stumble costs nobody else anything', async (t) => {
  const { hub, here, there } = await setUp(t)
  hub.fault({ kind: 'manifest', times: 1 }, { status: 500 })
  t.match(await pull(there), { status: 503 })
  hub.fault({ kind: 'manifest', times: 2 }, { connReset: true })
  t.match(await pull(there), { status: 200, cache: 'miss' })
  t.match(await pull(here), { status: 200, cache: 'hit' })
})

test('a transfer that clients follow is gone on with although new ones are refused', async (t) => {
  const big = image({ layers: [600_000], seed: 'followed' })
  const { hub, mirror, there } = await setUp(t)
  hub.addImage('library/big', '1', big)
  const layer = big.layers[0]!
  hub.fault({ kind: 'blob', times: 1 }, { dropAfterBytes: 300_000 })
  const lost = hub.fault({ kind: 'blob', when: () => hub.log.count('blob') > 1 }, { connReset: true })
  const pulled = pull(there.replace('other/manifests/1', `big/blobs/${layer.digest}`))
  await eventually('it is left alone', async () => (await health(mirror)).state === 'failing')
  const asked = hub.log.count('manifest')
  t.match(await pull(there), { status: 503 })
  t.equal(hub.log.count('manifest'), asked)
  lost.remove()
  const { status, body, broken } = await pulled
  t.equal(broken, undefined)
  t.equal(status, 200)
  t.ok(body.equals(layer.bytes))
  t.match(await pull(there), { status: 200 }, 'an answer has told that it is back')
})

test('a blob that would wait its turn is refused at once, like everything else', async (t) => {
  const { hub, mirror, held, there } = await setUp(t, { maxConnections: 3 })
  hub.addImage('library/big', '1', image({ layers: [600_000], seed: 'stalled' }))
  const layer = image({ layers: [600_000], seed: 'stalled' }).layers[0]!
  hub.fault({ kind: 'blob', times: 1 }, { hang: 'midBody' })
  const leaving = new AbortController()
  const stalled = await fetch(`${mirror.url}/v2/library/big/blobs/${layer.digest}`, {
    signal: leaving.signal,
  })
  t.equal(stalled.status, 200, 'it has the only turn')

  hub.fault({ kind: 'manifest', times: 3 }, { connReset: true })
  t.match(await pull(there), { status: 503 })
  t.equal((await health(mirror)).state, 'failing')
  const asked = hub.log.count('blob')
  const refused = await pull(`${mirror.url}/v2/library/held/blobs/${held.layers[0]!.digest}`)
  t.match(refused, { status: 503, headers: { 'retry-after': '10' } })
  t.equal(hub.log.count('blob'), asked)
  t.equal(hub.log.inFlight('blob'), 1, 'nobody has given a turn back for that')
  leaving.abort()
})

test('a name of which only answers are known is not taken for a first push', async (t) => {
  const hub = await simulate(t)
  const app = image({ layers: [5_000] })
  hub.addImage('library/app', '1', app)
  const disk = new FaultyFiles()
  const mirror = await startMirror(t, hub, { files: disk.files, cache: { prefetch: 'off' } })
  const head = (name: string): Promise<{ status: number }> =>
    pull(`${mirror.url}/v2/${name}/blobs/${app.config.digest}`, {}, 'HEAD')
  disk.failing.set('create', 'EIO')
  // The second time the disk is not even asked.
  for (const reference of ['1', app.manifest.digest]) {
    t.match(await pull(`${mirror.url}/v2/library/app/manifests/${reference}`), { status: 200 })
  }
  await hub.stop()
  await eventually('it is written down', async () => (await head('library/app')).status === 503)
  t.match(await head('never-seen'), { status: 404 }, 'somebody may begin to push it')
})
