/** An upstream that cannot answer, and others that can: manifests, and the rest of a blob. */
import { test, type Test } from 'tap'
import { content, image, type Content } from '../support/images.ts'
import {
  eventually,
  heard,
  ownFolder,
  isWhole,
  pull,
  pullSame,
  settled,
  simulate,
  startMirror,
  type Mirror,
  type MirrorOptions,
} from '../support/app.ts'
import { lookAtRest } from '../support/at-rest.ts'
import { FaultyFiles } from '../support/faulty-files.ts'
import { codeOf } from '../support/two-upstreams.ts'
import type { UpstreamOptions, UpstreamSimulator } from '../support/upstream.ts'
import type { Behaviour } from '../support/upstream-rules.ts'

const MiB = 1024 * 1024
/** What may be in socket buffers when a connection is reset; nothing of it arrives. */
const LOST_BY_A_RESET = 6 * MiB

interface Setting {
  readonly hub: UpstreamSimulator
  /** Its fallback. */
  readonly spare: UpstreamSimulator
  readonly mirror: Mirror
  /** Decides how old things are. */
  readonly clock: { now: number }
  readonly layer: Content
  readonly manifest: Content
  /** The tag is here, and older than it is believed. */
  readonly age: () => Promise<void>
  readonly url: { readonly tag: string; readonly layer: string }
}

interface SettingOptions extends MirrorOptions {
  size?: number
  simulated?: UpstreamOptions
  spare?: UpstreamOptions
  /** Asked after the spare one. */
  further?: readonly UpstreamSimulator[]
}

async function setUp(t: Test, options: SettingOptions = {}): Promise<Setting> {
  const { size = 2 * MiB, simulated, spare: spareOptions, further = [], ...rest } = options
  const hub = await simulate(t, simulated)
  const spare = await simulate(t, spareOptions)
  const held = image({ layers: [size], seed: 'fallbacks' })
  const clock = { now: Date.now() }
  for (const it of [hub, spare]) it.addImage('library/big', '1', held)
  const mirror = await startMirror(t, hub, {
    now: () => clock.now,
    ...rest,
    // Only what these clients ask for is to be seen.
    cache: { prefetch: 'off', ...rest.cache },
    upstream: { fallbacks: [spare, ...further].map(({ url }) => url), ...rest.upstream },
  })
  const layer = held.layers[0]!
  const at = `${mirror.url}/v2/library/big`
  const url = { tag: `${at}/manifests/1`, layer: `${at}/blobs/${layer.digest}` }
  const age = async (): Promise<void> => {
    await eventually('the tag is kept', async () => (await pull(url.tag)).cache === 'hit')
    await heard(mirror)
    clock.now += 61_000
  }
  return { hub, spare, mirror, clock, layer, manifest: held.manifest, url, age }
}

async function healthOf(mirror: Mirror): Promise<Record<string, unknown>> {
  const { body } = await pull(`${mirror.url}/readyz`)
  return JSON.parse(body.toString()) as Record<string, unknown>
}

const BAD_DAYS: [what: string, day: Behaviour | 'down'][] = [
  ['is down', 'down'],
  ['hangs', { hang: 'headers' }],
  ['answers 500', { status: 500 }],
  ['answers 503 with a web page', { status: 503, body: 'html' }],
  ['limits our requests', { status: 429, retryAfter: 60 }],
  ['closes without a word', { emptyReply: true }],
  ['sends a web page for everything', { status: 200, body: 'html' }],
]

for (const [what, day] of BAD_DAYS) {
  test(`an upstream that ${what}: the image comes from the fallback`, async (t) => {
    const { hub, spare, mirror, layer, manifest, url } = await setUp(t)
    if (day === 'down') await hub.stop()
    else hub.fault({}, day)
    const tag = await pull(url.tag)
    t.equal(tag.status, 200)
    t.ok(tag.body.equals(manifest.bytes))
    t.equal(tag.cache, 'miss')
    t.match(await pullSame(url.layer, layer), { status: 200, same: true, cache: 'miss' })
    t.equal(spare.log.count('blob'), 1)
    await settled(mirror)
    await spare.stop()
    t.match(await pullSame(url.layer, layer), { status: 200, same: true, cache: 'hit' })
  })
}

test('a fallback in use is told in /readyz and in the log, once, and the first is gone back to', async (t) => {
  const { hub, spare, mirror, clock, manifest } = await setUp(t)
  // Each of them cold: none is answered from here.
  const tags = ['a', 'b', 'c', 'd', 'e']
  for (const tag of tags) for (const it of [hub, spare]) it.holdings.addManifest('library/big', tag, manifest)
  const get = async (tag: string): Promise<number> =>
    (await pull(`${mirror.url}/v2/library/big/manifests/${tag}`)).status
  await hub.stop()
  for (const tag of ['a', 'b', 'c']) t.equal(await get(tag), 200)
  t.match(await healthOf(mirror), {
    status: 'degraded',
    upstreams: [{ key: 'docker.io', state: 'ok', fallback: spare.url }],
  })
  const warned = mirror.lines.filter(({ level }) => level === 'warn')
  t.match(warned, [
    { upstream: 'docker.io', url: hub.url, msg: 'upstream is left alone' },
    { upstream: 'docker.io', url: hub.url, msg: 'cannot answer: others are asked instead' },
  ])
  t.equal(warned.length, 2)

  await hub.start()
  const before = hub.log.count()
  t.equal(await get('d'), 200)
  t.equal(hub.log.count(), before, 'it is left alone for a while')
  clock.now += 11_000
  spare.log.clear()
  t.equal(await get('e'), 200)
  t.equal(spare.log.count(), 0)
  t.equal((await healthOf(mirror))['status'], 'ok')
  t.match(
    mirror.lines.filter(({ msg }) => msg === 'answers again'),
    [{ upstream: 'docker.io', url: hub.url }],
  )
})

test('what upstream says is not there is not asked for elsewhere', async (t) => {
  const { hub, spare, url } = await setUp(t)
  hub.deleteRepository('library/big')
  for (const it of [url.tag, url.layer]) {
    for (const method of ['GET', 'HEAD'] as const) t.equal((await pull(it, {}, method)).status, 404)
  }
  t.equal(spare.log.count(), 0)
})

test('what upstream denies is not given by others', async (t) => {
  const { hub, spare, url } = await setUp(t)
  hub.fault({}, { status: 403 })
  const denied = await pull(url.tag)
  t.equal(denied.status, 403)
  t.equal(codeOf(denied), 'DENIED')
  t.equal((await pull(url.layer)).status, 403)
  t.equal(spare.log.count(), 0)
})

test('a fallback without the image is no proof that there is none', async (t) => {
  const { hub, spare, mirror, clock, manifest, url, age } = await setUp(t)
  const other = image({ seed: 'other', layers: [10] })
  hub.addImage('library/other', '1', other)
  spare.addImage('library/other', '1', other)
  await age()
  spare.deleteRepository('library/big')
  await hub.stop()
  const stale = await pull(url.tag)
  t.equal(stale.cache, 'stale')
  t.ok(stale.body.equals(manifest.bytes))
  for (const url of [`${mirror.url}/v2/library/big/manifests/2`, `${mirror.url}/v2/team/none/manifests/1`]) {
    for (const method of ['GET', 'HEAD'] as const) {
      const refused = await pull(url, {}, method)
      // A HEAD may begin a first push, which a 503 would end.
      const nothingServed = method === 'HEAD' && url.includes('none')
      t.equal(refused.status, nothingServed ? 404 : 503, `${method} ${url}`)
    }
  }
  const unreached = await pull(url.layer)
  t.equal(unreached.status, 503)
  t.ok(unreached.headers['retry-after'] !== undefined)
  const fine = await pull(`${mirror.url}/v2/library/other/manifests/1`)
  t.match(fine, { status: 200, cache: 'miss' }, 'other names are none the worse for it')

  await hub.start()
  t.equal((await pull(`${mirror.url}/v2/library/none/manifests/1`)).status, 503, 'left alone for a while')
  clock.now += 11_000
  t.equal((await pull(`${mirror.url}/v2/library/none/manifests/1`)).status, 404)
  t.equal((await pull(url.tag)).status, 200)
})

test('a fallback that lags behind what upstream said a moment ago makes no tombstone', async (t) => {
  const { hub, mirror, manifest, clock, url, age } = await setUp(t)
  await age()
  const newer = image({ seed: 'newer', layers: [10] })
  hub.moveTag('library/big', '1', newer)
  const trouble = hub.fault({ kind: 'manifest', method: 'GET' }, { status: 500 })
  const stale = await pull(url.tag)
  t.match(stale, { status: 200, cache: 'stale' })
  t.ok(stale.body.equals(manifest.bytes))
  trouble.remove()
  clock.now += 11_000
  t.ok((await pull(url.tag)).body.equals(newer.manifest.bytes))
  await mirror.close()
  t.same([...lookAtRest(mirror.root, new Map(), new Set()).tags], ['docker.io/library/big 1'])
})

test('rateLimit: what a fallback has left for us is not told as what upstream has', async (t) => {
  const rateLimit = (limit: number) => ({ rateLimit: { limit } })
  const { hub, mirror, url, age } = await setUp(t, { simulated: rateLimit(100), spare: rateLimit(5000) })
  t.equal((await pull(url.tag)).status, 200)
  await age()
  await hub.stop()
  t.equal((await pull(url.tag)).cache, 'hit', 'the fallback has confirmed it')
  const metrics = (await pull(`${mirror.url}/metrics`)).body.toString()
  t.match(metrics, /entrepot_upstream_ratelimit_remaining\{upstream="docker\.io",account="anonymous"\} 99\n/)
})

test('credentials go to the upstream itself and to nobody else', async (t) => {
  const credentials = { username: 'me', password: 'secret-of-mine' }
  const { hub, spare, layer, url } = await setUp(t, {
    simulated: { basic: credentials },
    spare: { token: {}, cdn: {} },
    upstream: credentials,
  })
  t.equal((await pull(url.tag)).status, 200)
  t.equal(spare.log.count(), 0)
  t.ok(hub.log.authorizationSeenBy('registry') > 0)
  await hub.stop()
  t.match(await pullSame(url.layer, layer), { status: 200, same: true })
  t.equal(spare.log.authorizationSeenBy('auth'), 0, 'its token is an anonymous one')
  t.equal(spare.log.authorizationSeenBy('cdn'), 0)
  for (const { headers, url } of spare.log.entries) {
    t.notMatch(headers.authorization ?? '', /^basic/i)
    t.notMatch(url, /secret-of-mine|account=/)
  }
})

for (const [how, size, clients] of [
  ['fin', 32 * MiB, 20],
  ['rst', 32 * MiB, 2],
  ['cleanChunkEnd', 8 * MiB, 2],
  ['hang', 8 * MiB, 2],
] as const) {
  test(`a layer whose upstream is lost half-way (${how}) comes to its end from the fallback`, async (t) => {
    const { hub, spare, mirror, layer, url } = await setUp(t, {
      size,
      // One stream, of which it is plain what was lost.
      upstream: { timeouts: { idle: '300ms' }, segments: { parallel: 1 } },
    })
    t.equal((await pull(url.tag)).status, 200)
    const half: Behaviour = how === 'hang' ? { hang: 'midBody' } : { dropAfterBytes: size / 2, how }
    hub.fault({ kind: 'blob', ref: layer.digest }, half)
    const pulled = await Promise.all(Array.from({ length: clients }, () => pullSame(url.layer, layer)))
    t.ok(
      pulled.every(({ status, same, broken }) => status === 200 && same && !broken),
      'all clients have it all, and right',
    )
    const sent = { kind: 'blob', ref: layer.digest } as const
    t.equal(hub.log.count(sent), 1)
    t.equal(spare.log.count(sent), 1)
    const first = hub.log.bytesSent(sent)
    const second = spare.log.bytesSent(sent)
    t.ok(first <= size / 2 + MiB, `${first} bytes from the upstream itself`)
    t.ok(
      second >= size / 2 && second <= size / 2 + (how === 'rst' ? LOST_BY_A_RESET : MiB),
      `${second} bytes from the fallback`,
    )
    t.match(spare.log.of(sent)[0]?.headers.range, /^bytes=\d{7,}-/)
    await settled(mirror)
    t.match(await pullSame(url.layer, layer), { same: true, cache: 'hit' })
  })
}

test('a layer that comes in pieces, whose upstream breaks all of them off, comes to its end from the fallback', async (t) => {
  const size = 32 * MiB
  const { hub, spare, mirror, layer, url } = await setUp(t, {
    size,
    upstream: { segments: { size: '4MiB', parallel: 4 } },
  })
  t.equal((await pull(url.tag)).status, 200)
  const sent = { kind: 'blob', ref: layer.digest } as const
  hub.fault(sent, { dropAfterBytes: MiB })
  const pulled = await Promise.all(Array.from({ length: 8 }, () => pullSame(url.layer, layer)))
  t.ok(pulled.every(({ status, same, broken }) => status === 200 && same && !broken))
  const [first, second] = [hub.log.bytesSent(sent), spare.log.bytesSent(sent)]
  t.ok(second > 0, `${first} bytes from the upstream itself, ${second} from the fallback`)
  t.ok(first + second <= size * 1.1, 'hardly any twice')
  await settled(mirror)
  t.match(await pullSame(url.layer, layer), { same: true, cache: 'hit' })
})

test('a fallback that ignores Range, or has not got the layer, does no harm to its rest', async (t) => {
  const size = 8 * MiB
  for (const spareDay of ['ignores', 'absent', 'denies'] as const) {
    const { hub, spare, layer, url } = await setUp(t, { size, root: ownFolder(t) })
    if (spareDay === 'ignores') spare.fault({ kind: 'blob' }, { ignoreRange: true })
    else if (spareDay === 'denies') spare.fault({}, { status: 401 })
    else spare.deleteBlob('library/big', layer.digest)
    hub.fault({ kind: 'blob', ref: layer.digest, times: 1 }, { dropAfterBytes: size / 2 })
    t.match(await pullSame(url.layer, layer), { status: 200, same: true }, spareDay)
    t.equal(hub.log.count({ kind: 'blob', ref: layer.digest }), spareDay === 'ignores' ? 1 : 2)
    t.ok(spare.log.count({ kind: 'blob', ref: layer.digest }) > 0)
  }
})

test('a fallback whose layer has another length is not asked for it again', async (t) => {
  const size = 8 * MiB
  const third = await simulate(t)
  const { hub, spare, layer, url } = await setUp(t, { size, further: [third] })
  third.addBlob('library/big', layer)
  spare.addBlob('library/big', { ...layer, bytes: content('', layer.bytes.subarray(1)).bytes })
  hub.fault({ kind: 'blob', ref: layer.digest }, { dropAfterBytes: size / 2 })
  t.equal((await pull(url.tag)).status, 200)
  t.match(await pullSame(url.layer, layer), { status: 200, same: true })
  t.ok(spare.log.count({ kind: 'blob', ref: layer.digest }) <= 2, 'with a range, and without')
  t.equal(third.log.count({ kind: 'blob', ref: layer.digest }), 1)
})

test('bytes that are wrong are asked for once more, from the fallback', async (t) => {
  for (const corrupt of [1000, 'tail'] as const) {
    const { hub, spare, mirror, layer, url } = await setUp(t, { size: MiB, root: ownFolder(t) })
    hub.fault({ kind: 'blob' }, { corrupt })
    const pulled = await Promise.all(Array.from({ length: 20 }, () => pull(url.layer)))
    for (const it of pulled) {
      t.ok(isWhole(it, layer) || it.broken !== undefined, 'right, or visibly broken off')
    }
    if (corrupt === 'tail') t.ok(pulled.every((it) => isWhole(it, layer)))
    t.equal(hub.log.count({ kind: 'blob', ref: layer.digest }), 1)
    t.equal(spare.log.count({ kind: 'blob', ref: layer.digest }), 1)
    await settled(mirror)
    t.match(await pullSame(url.layer, layer), { same: true, cache: 'hit' })
  }
})

test('a fallback that sends wrong bytes makes no client believe them', async (t) => {
  const size = 8 * MiB
  const { hub, spare, mirror, layer, url } = await setUp(t, { size })
  hub.fault({ kind: 'blob', ref: layer.digest, times: 1 }, { dropAfterBytes: size / 2 })
  spare.fault({ kind: 'blob' }, { corrupt: 'tail' })
  const pulled = await Promise.all(Array.from({ length: 20 }, () => pullSame(url.layer, layer)))
  t.ok(pulled.every(({ same }) => same))
  t.equal(hub.log.count({ kind: 'blob', ref: layer.digest }), 2, 'the second time from the first, whole')
  await settled(mirror)
  t.match(await pullSame(url.layer, layer), { same: true, cache: 'hit' })
})

test('where everybody sends wrong bytes the client gets none of it whole, and the cache nothing', async (t) => {
  const { hub, spare, mirror, layer, url } = await setUp(t)
  for (const it of [hub, spare]) it.fault({ kind: 'blob' }, { corrupt: 'tail' })
  const pulled = await pull(url.layer)
  t.ok(pulled.status === 502 || pulled.broken !== undefined)
  t.equal(hub.log.count('blob'), 1)
  t.equal(spare.log.count('blob'), 1)
  t.match(await pull(url.layer), { status: 502 }, 'and it is not asked for again at once')
  await mirror.close()
  const { blobs, faults } = lookAtRest(mirror.root, new Map())
  t.equal(blobs.has(layer.digest), false)
  t.same(faults, [])
})

test('past a disk that takes nothing, the fallback does the same', async (t) => {
  const disk = new FaultyFiles()
  disk.failing.set('create', 'ENOSPC')
  const { hub, spare, layer, url } = await setUp(t, { files: disk.files })
  hub.fault({ kind: 'blob' }, { corrupt: 'tail' })
  t.match(await pullSame(url.layer, layer), { status: 200, same: true, cache: 'bypass' })
  t.equal(spare.log.count('blob'), 1)
  await hub.stop()
  t.match(await pullSame(url.layer, layer), { status: 200, same: true, cache: 'bypass' })
})

test('tags and referrers are lists of the upstream itself', async (t) => {
  const { hub, spare, mirror, manifest } = await setUp(t)
  await hub.stop()
  for (const path of ['tags/list', `referrers/${manifest.digest}`]) {
    t.equal((await pull(`${mirror.url}/v2/library/big/${path}`)).status, 503)
  }
  t.equal(spare.log.count(), 0)
})
