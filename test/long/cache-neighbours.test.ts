/** What goes wrong for one name is not another's: no repository can spoil a pull of its neighbour. */
import { readdir, truncate } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'tap'
import { parseRepositoryName, parseTag } from '../../src/oci/reference.ts'
import { content, image, randomBytesOf } from '../support/images.ts'
import {
  eventually,
  isWhole,
  pull,
  pullSame,
  pullSome,
  settled,
  simulate,
  startMirror,
} from '../support/app.ts'

const MiB = 1024 * 1024

async function setUp(t: Parameters<typeof simulate>[0], options: Parameters<typeof simulate>[1] = {}) {
  const upstream = await simulate(t, options)
  const good = image({ layers: [2 * MiB], seed: 'good' })
  upstream.addImage('library/good', '1', good)
  const clock = { now: 1_700_000_000_000 }
  const mirror = await startMirror(t, upstream, { budgetMs: 3_000, now: () => clock.now })
  const layer = good.layers[0]!
  await eventually(
    'the manifest is kept',
    async () => (await pull(`${mirror.url}/v2/library/good/manifests/1`)).cache === 'hit',
  )
  const blob = (name: string, digest: string = layer.digest): string =>
    `${mirror.url}/v2/${name}/blobs/${digest}`
  return { upstream, mirror, clock, good, layer, blob }
}

for (const [what, behaviour] of Object.entries({
  'does not have it': undefined,
  'is denied': { status: 403 },
  'is answered in HTML': { status: 404, body: 'html' as const },
  hangs: { hang: 'headers' as const },
})) {
  test(`a blob that another name asked for first, where that name ${what}`, async (t) => {
    const { upstream, layer, blob } = await setUp(t, { latencyMs: 50 })
    if (behaviour !== undefined) upstream.fault({ kind: 'blob', repo: 'library/other' }, behaviour)
    const spoiler = pull(blob('library/other'))
    await upstream.log.until((log) => log.count({ kind: 'blob', repo: 'library/other' }) > 0)
    t.ok((await pullSame(blob('library/good'), layer)).same)
    t.not((await spoiler).status, 200)
  })
}

for (const noContentLength of [false, true]) {
  const how = noContentLength ? 'gives no length' : 'says the length'
  test(`a manifest elsewhere that lies about a layer's size, where upstream ${how}`, async (t) => {
    const { upstream, mirror, good, layer, blob } = await setUp(t)
    if (noContentLength) upstream.fault({ kind: 'blob' }, { noContentLength })
    const text = good.manifest.bytes.toString().replace(`"size": ${2 * MiB}`, `"size": ${2 * MiB - 1}`)
    const liar = content(good.manifest.mediaType, Buffer.from(text))
    t.not(liar.digest, good.manifest.digest)
    upstream.addImage('library/liar', '1', { ...good, manifest: liar, manifests: [liar] })
    t.equal((await pull(`${mirror.url}/v2/library/liar/manifests/1`)).status, 200)
    const wrong = await pullSame(blob('library/liar'), layer)
    t.notOk(wrong.same && !wrong.broken && wrong.bytes !== layer.bytes.length)
    t.ok((await pullSame(blob('library/good'), layer)).same, 'nothing was called corrupt')
  })
}

test('a repository that makes no sense does not freeze the tags of the others', async (t) => {
  const { upstream, mirror, clock, good } = await setUp(t)
  const nonsense = content('application/vnd.oci.image.manifest.v1+json', Buffer.from('{"layers":[{}]}'))
  upstream.addImage('library/odd', '1', { ...good, manifest: nonsense, manifests: [nonsense] })
  const moved = image({ layers: [10], seed: 'moved' })
  upstream.moveTag('library/good', '1', moved)
  clock.now += 61_000
  t.equal((await pull(`${mirror.url}/v2/library/odd/manifests/1`)).status, 503)
  const answer = await pull(`${mirror.url}/v2/library/good/manifests/1`)
  t.equal(answer.cache, 'miss')
  t.ok(isWhole(answer, moved.manifest))
})

test('downloads that wait their turn hold no file, and those nobody waits for are dropped', async (t) => {
  const { upstream, mirror, blob } = await setUp(t)
  upstream.fault({ kind: 'blob', repo: 'library/many' }, { hang: 'headers' })
  const digests = Array.from(
    { length: 60 },
    (_, index) => content('x', randomBytesOf(10, `many ${index}`)).digest,
  )
  const leaving = digests.map((digest) => {
    const gone = new AbortController()
    return {
      gone,
      pulled: fetch(blob('library/many', digest), { signal: gone.signal }).catch(() => undefined),
    }
  })
  await upstream.log.until((log) => log.inFlight('blob') >= 6)
  await eventually('all have arrived', async () =>
    /entrepot_fills_in_flight 6\d/.test((await pull(`${mirror.url}/metrics`)).body.toString()),
  )
  const parts = (await readdir(path.join(mirror.root, 'ingest'))).filter((name) => name.endsWith('.part'))
  t.ok(parts.length <= 8, `${parts.length} files`)
  for (const { gone } of leaving) gone.abort()
  await Promise.all(leaving.map(({ pulled }) => pulled))
  await eventually('the waiting ones are gone', async () =>
    /entrepot_fills_in_flight [0-8]\n/.test((await pull(`${mirror.url}/metrics`)).body.toString()),
  )
})

test('what nobody waits for any more makes way for what somebody does', async (t) => {
  const upstream = await simulate(t)
  const slow = image({ layers: [64 * MiB], seed: 'slow' })
  const quick = image({ layers: [1000], seed: 'quick' })
  upstream.addImage('library/slow', '1', slow)
  upstream.addImage('library/quick', '1', quick)
  const mirror = await startMirror(t, upstream, { upstream: { maxConnections: 2 } })
  upstream.fault({ kind: 'blob', repo: 'library/slow', times: 1 }, { bytesPerSecond: 1 * MiB })
  await pullSome(`${mirror.url}/v2/library/slow/blobs/${slow.layers[0]!.digest}`, 1)
  const { digest } = quick.layers[0]!
  t.ok(isWhole(await pull(`${mirror.url}/v2/library/quick/blobs/${digest}`), quick.layers[0]!))
  t.equal(upstream.log.of({ kind: 'blob', repo: 'library/slow' })[0]?.aborted, true, 'it gave its turn back')
  await settled(mirror)
  t.equal(
    (await pull(`${mirror.url}/v2/library/slow/blobs/${slow.layers[0]!.digest}`, {}, 'HEAD')).cache,
    'hit',
  )
})

test('a client that was broken off and goes on from there gets no whole wrong file', async (t) => {
  const { upstream, layer, blob, mirror, clock } = await setUp(t)
  upstream.fault({ kind: 'blob', ref: layer.digest }, { corrupt: 'tail' })
  const first = await pull(blob('library/good'))
  t.ok(first.broken)
  await settled(mirror)
  clock.now += 11_000
  const rest = await pull(blob('library/good'), { range: `bytes=${first.body.length}-` })
  t.ok(rest.status === 502 || rest.broken !== undefined)
  t.ok(first.body.length + rest.body.length < layer.bytes.length || rest.status === 502)
})

test('a blob that lost its end is fetched again, also where no manifest names it', async (t) => {
  const { upstream, mirror, layer, blob } = await setUp(t)
  const lone = content('application/octet-stream', randomBytesOf(300_000, 'lone'))
  upstream.addBlob('library/good', lone)
  for (const it of [layer, lone]) {
    await pullSame(blob('library/good', it.digest), it)
    await settled(mirror)
    const hex = it.digest.slice('sha256:'.length)
    await truncate(path.join(mirror.root, 'blobs/sha256', hex.slice(0, 2), hex), 1000)
    const healed = await pullSame(blob('library/good', it.digest), it)
    t.ok(healed.same)
    t.equal(healed.cache, 'miss')
  }
})

test('a tag that a HEAD told of and that moved before the GET is asked for anew', async (t) => {
  const { upstream, mirror } = await setUp(t)
  const before = image({ layers: [10], seed: 'before' })
  const after = image({ layers: [20], seed: 'after' })
  upstream.addImage('library/moving', '1', before)
  const url = `${mirror.url}/v2/library/moving/manifests/1`
  t.equal((await pull(url, {}, 'HEAD')).status, 200)
  const key = { registry: 'docker.io', name: parseRepositoryName('library/moving') }
  await eventually(
    'it is remembered',
    async () => (await mirror.app.metadata.tags.get(key, parseTag('1'))) !== undefined,
  )
  upstream.moveTag('library/moving', '1', after)
  upstream.deleteManifest('library/moving', before.manifest.digest)
  t.ok(isWhole(await pull(url), after.manifest))
})

test('HEADs of what is not there, and of what fifty want at once, cost upstream one', async (t) => {
  const { upstream, mirror, layer, blob } = await setUp(t, { latencyMs: 20 })
  for (let turn = 0; turn < 5; turn += 1) {
    t.equal((await pull(`${mirror.url}/v2/library/good/manifests/nope`, {}, 'HEAD')).status, 404)
  }
  t.equal(upstream.log.count({ kind: 'manifest', ref: 'nope' }), 1)
  await pullSame(blob('library/good'), layer)
  await settled(mirror)
  upstream.addBlob('library/second', layer)
  const pulled = await Promise.all(Array.from({ length: 50 }, () => pullSame(blob('library/second'), layer)))
  t.ok(pulled.every(({ same }) => same))
  t.equal(upstream.log.count({ kind: 'blob', repo: 'library/second' }), 1)
})
