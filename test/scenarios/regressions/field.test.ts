/** What people complain about in the trackers of other mirrors, as far as it meets a pull. */
import { writeFileSync } from 'node:fs'
import { request } from 'undici'
import { test } from 'tap'
import { isWhole, pull, pullSome, settled, startMirror } from '../../support/app.ts'
import { descriptorOf, image, index } from '../../support/images.ts'
import { fileOf, stage } from '../../support/scene.ts'

const MB = 1_000_000

test('a manifest is answered without waiting for what it names', async (t) => {
  const {
    upstream,
    image: held,
    get,
  } = await stage(t, [MB, MB], {
    mirror: { cache: { prefetch: 'layers' } },
  })
  upstream.fault({ kind: 'blob' }, { hang: 'headers' })
  t.ok(isWhole(await get('manifests/1'), held.manifest))
})

test('who waits for a layer gets it although the one who asked first gave up', async (t) => {
  const { upstream, layers, get, url } = await stage(t, [2 * MB], { upstream: { bytesPerSecond: 8 * MB } })
  const path = `blobs/${layers[0]!.digest}`
  const first = pullSome(url(path), 1)
  await upstream.log.until((log) => log.count('blob') > 0)
  const others = [get(path), get(path), get(path)]
  await first
  for (const other of await Promise.all(others)) t.ok(isWhole(other, layers[0]!))
  t.equal(upstream.log.count('blob'), 1)
})

test('a connection that is reset in the middle of a layer is nothing that a client notices', async (t) => {
  const { upstream, mirror, layers, get } = await stage(t, [2 * MB])
  upstream.fault({ kind: 'blob', times: 2 }, { dropAfterBytes: 700_000, how: 'rst' })
  t.ok(isWhole(await get(`blobs/${layers[0]!.digest}`), layers[0]!))
  await settled(mirror)
  t.equal((await get(`blobs/${layers[0]!.digest}`)).cache, 'hit')
})

test('HEAD of a cold blob is answered, so that mirrors can be chained', async (t) => {
  const { upstream, layers, mirror } = await stage(t, [50_000])
  const second = await startMirror(t, mirror)
  const path = `/v2/library/app/blobs/${layers[0]!.digest}`
  for (const { url } of [mirror, second]) {
    const { status, headers } = await pull(url + path, {}, 'HEAD')
    t.equal(status, 200)
    t.equal(headers['content-length'], '50000')
  }
  t.ok(isWhole(await pull(second.url + path), layers[0]!))
  t.equal(upstream.log.count({ kind: 'blob', method: 'GET' }), 1)
})

test('an index goes out as it is, also where upstream has not all that it names', async (t) => {
  const { upstream, mirror, image: held } = await stage(t, [1000])
  const sparse = index({ images: { amd64: held, arm64: image({ seed: 'never pushed' }) } })
  upstream.holdings.addManifest('library/app', 'sparse', sparse.manifest)
  const { manifest } = sparse
  for (const reference of ['sparse', manifest.digest, 'sparse']) {
    const pulled = await pull(`${mirror.url}/v2/library/app/manifests/${reference}`)
    t.ok(isWhole(pulled, manifest))
    t.equal(pulled.headers['content-type'], manifest.mediaType)
  }
  t.equal((await pull(`${mirror.url}/v2/library/app/manifests/${held.manifest.digest}`)).status, 200)
})

test('a mirror starts while its upstream is down, and serves what it has', async (t) => {
  const { upstream, mirror, clock, image: held, pullAll } = await stage(t, [20_000])
  await pullAll()
  await mirror.close()
  await upstream.stop()
  const now = (): number => clock.now + 24 * 3_600_000
  for (const cache of [{}, { offline: true }]) {
    await using later = await startMirror(t, upstream, { root: mirror.root, now, cache })
    t.ok(isWhole(await pull(`${later.url}/v2/library/app/manifests/1`), held.manifest))
    for (const blob of held.blobs) {
      t.ok(isWhole(await pull(`${later.url}/v2/library/app/blobs/${blob.digest}`), blob))
    }
    const began = performance.now()
    const refused = await pull(`${later.url}/v2/library/other/manifests/1`)
    t.equal(refused.status, 503)
    t.ok(performance.now() - began < 20_000, 'and refuses soon what it has not')
  }
})

test('an upstream that wants no more requests gets none, and all that is cached is served', async (t) => {
  const { upstream, clock, image: held, get, pullAll } = await stage(t, [20_000])
  await pullAll()
  clock.now += 3_600_000
  upstream.fault({}, { status: 429, retryAfter: 60 })
  upstream.log.clear()
  for (let turn = 0; turn < 5; turn += 1) {
    t.equal((await get('manifests/1')).cache, 'stale')
    for (const { digest } of held.blobs) t.equal((await get(`blobs/${digest}`)).cache, 'hit')
  }
  t.equal(upstream.log.count(), 1)
})

test('the list of tags has what was never pulled, too', async (t) => {
  const { upstream, get, pullAll } = await stage(t, [1000])
  for (const tag of ['2', '3']) upstream.addImage('library/app', tag, image({ seed: tag }))
  await pullAll()
  t.same(JSON.parse((await get('tags/list')).body.toString()), { name: 'library/app', tags: ['1', '2', '3'] })
})

test('signatures come along: as referrers, and as tags where there is no such API', async (t) => {
  for (const referrers of ['ok', 'unsupported'] as const) {
    const { upstream, image: held, get } = await stage(t, [1000], { upstream: { referrers } })
    const signature = image({
      layers: [300],
      seed: 'signature',
      subject: held.manifest,
      artifactType: 'application/vnd.example.signature',
    })
    const fallback = held.manifest.digest.replace(':', '-')
    const list = index({ images: { unknown: signature } })
    upstream.addImage('library/app', undefined, signature)
    upstream.holdings.addManifest('library/app', fallback, list.manifest)
    const answer = await get(`referrers/${held.manifest.digest}`)
    if (referrers === 'ok') {
      t.match(JSON.parse(answer.body.toString()), { manifests: [descriptorOf(signature.manifest)] })
    } else {
      t.equal(answer.status, 404)
      t.ok(isWhole(await get(`manifests/${fallback}`), list.manifest))
    }
    t.ok(isWhole(await get(`manifests/${signature.manifest.digest}`), signature.manifest))
    t.ok(isWhole(await get(`blobs/${signature.layers[0]!.digest}`), signature.layers[0]!))
  }
})

test('credentials that a client has for somebody else are neither an obstacle nor passed on', async (t) => {
  const { upstream, mirror, layers, get } = await stage(t, [1000], { upstream: { token: {} } })
  const authorization = `Basic ${Buffer.from('someone:hub-secret').toString('base64')}`
  const ping = await pull(`${mirror.url}/v2/`, { authorization })
  t.equal(ping.status, 200)
  t.equal(ping.headers['www-authenticate'], undefined)
  for (const path of ['manifests/1', `blobs/${layers[0]!.digest}`]) {
    t.equal((await get(path, { authorization })).status, 200)
  }
  t.notOk(upstream.log.entries.some(({ headers }) => headers.authorization === authorization))
  t.notOk(JSON.stringify(mirror.lines).includes(authorization.slice(6)))
})

test('?ns= names the registry, and is answered', async (t) => {
  const { mirror, image: held } = await stage(t, [1000])
  const pulled = await pull(`${mirror.url}/v2/library/app/manifests/1?ns=docker.io`)
  t.ok(isWhole(pulled, held.manifest))
  t.equal(pulled.headers['oci-namespace'], 'docker.io')
  const unknown = await pull(`${mirror.url}/v2/library/app/manifests/1?ns=169.254.169.254`)
  t.equal(unknown.status, 404)
})

test('a cached blob that became empty is not served as an empty 200', async (t) => {
  const { mirror, layers, get, pullAll } = await stage(t, [50_000])
  await pullAll()
  writeFileSync(fileOf(mirror.root, layers[0]!), '')
  t.ok(isWhole(await get(`blobs/${layers[0]!.digest}`), layers[0]!))
})

test('wrong bytes are neither delivered whole nor kept, however often they come', async (t) => {
  const { upstream, mirror, layers, clock, get } = await stage(t, [300_000])
  const rule = upstream.fault({ kind: 'blob' }, { corrupt: 1000 })
  for (let turn = 0; turn < 3; turn += 1) {
    const wrong = await get(`blobs/${layers[0]!.digest}`)
    t.ok(wrong.broken !== undefined || wrong.status === 502, `broken off, or ${wrong.status}`)
  }
  rule.remove()
  clock.now += 3_600_000
  t.ok(isWhole(await get(`blobs/${layers[0]!.digest}`), layers[0]!))
  await settled(mirror)
  t.equal((await get(`blobs/${layers[0]!.digest}`)).cache, 'hit')
})

test('the first bytes of a large cold layer come long before its last', async (t) => {
  const { upstream, layers, url } = await stage(t, [2 * MB])
  upstream.fault({ kind: 'blob' }, { hang: 'midBody' })
  const { body } = await request(url(`blobs/${layers[0]!.digest}`))
  for await (const chunk of body) {
    t.ok((chunk as Buffer).length > 0)
    break
  }
})
