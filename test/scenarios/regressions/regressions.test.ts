/** What has bitten those who mirrored registries before us: one test for each bite. */
import { rmSync } from 'node:fs'
import { request } from 'undici'
import { test } from 'tap'
import { pull, pullSome, settled, simulate, startMirror } from '../../support/app.ts'
import { image, type Content } from '../../support/images.ts'
import { fileOf, stage } from '../../support/scene.ts'
import { codeOf } from '../../support/two-upstreams.ts'
import { bytesOf, clientFor, failureOf, LATEST, NAME } from '../../support/upstream-client.ts'

const MB = 1_000_000
const WEEK = 7 * 24 * 3_600_000

function isSame({ body }: { body: Buffer }, content: Content | undefined): boolean {
  return content !== undefined && body.equals(content.bytes)
}

test('distribution: a second request for a blob in flight does not reach upstream again', async (t) => {
  const { upstream, layers, url } = await stage(t, [2 * MB])
  upstream.fault({ kind: 'blob' }, { hang: 'midBody' })
  const caches = []
  for (let client = 0; client < 3; client += 1) {
    const { headers, body } = await request(url(`blobs/${layers[0]!.digest}`))
    for await (const chunk of body) {
      t.ok((chunk as Buffer).length > 0, 'and already gets some of it')
      caches.push(headers['x-cache'])
      break
    }
  }
  t.same(caches, ['miss', 'join', 'join'])
  t.equal(upstream.log.count('blob'), 1)
})

test('distribution: a blob is asked for by GET alone, never by HEAD before it', async (t) => {
  const { upstream, layers, pullAll } = await stage(t, [100_000, 2 * MB])
  t.ok((await pullAll()).every(({ status }) => status === 200))
  t.equal(upstream.log.count({ kind: 'blob', method: 'HEAD' }), 0)
  t.equal(upstream.log.count({ kind: 'blob', method: 'GET' }), layers.length + 1)
})

test('distribution: a Range of a cold blob gets that range', async (t) => {
  const { layers, get } = await stage(t, [300_000])
  const [cold] = layers
  const part = await get(`blobs/${cold!.digest}`, { range: 'bytes=1000-1999' })
  t.equal(part.status, 206)
  t.equal(part.headers['content-range'], 'bytes 1000-1999/300000')
  t.ok(part.body.equals(cold!.bytes.subarray(1000, 2000)))
})

test('distribution: what is being cached is cached although the client leaves', async (t) => {
  const { upstream, mirror, layers, get, url } = await stage(t, [2 * MB], {
    upstream: { bytesPerSecond: 8 * MB },
  })
  const [big] = layers
  await pullSome(url(`blobs/${big!.digest}`), 100_000)
  await settled(mirror)
  await upstream.stop()
  const again = await get(`blobs/${big!.digest}`)
  t.equal(again.cache, 'hit')
  t.ok(isSame(again, big))
})

test('distribution: a layer that two repositories share outlives one of them', async (t) => {
  const { upstream, mirror, layers, clock, pullAll } = await stage(t, [200_000])
  const [shared] = layers
  const other = image({ layers: [{ size: 200_000, seed: '0/0' }], seed: 'other' })
  t.equal(other.layers[0]!.digest, shared!.digest)
  upstream.addImage('library/other', '1', other)
  await pullAll()
  await pull(`${mirror.url}/v2/library/other/manifests/1`)
  t.ok(isSame(await pull(`${mirror.url}/v2/library/other/blobs/${shared!.digest}`), shared))
  await settled(mirror)

  upstream.deleteRepository('library/app')
  clock.now += WEEK + 1
  t.equal((await pull(`${mirror.url}/v2/library/app/manifests/1`)).status, 404)
  const still = await pull(`${mirror.url}/v2/library/other/blobs/${shared!.digest}`)
  t.equal(still.cache, 'hit')
  t.ok(isSame(still, shared))
})

test('distribution: an old tag is told apart from a fresh one, and a denial is not hidden', async (t) => {
  for (const [status, says] of [
    [500, /cannot be asked/],
    [429, /limits our requests/],
    [401, /denies access/],
  ] as const) {
    const { upstream, mirror, clock, get, written } = await stage(t, [1000])
    t.equal((await get('manifests/1')).headers['warning'], undefined)
    await written()
    clock.now += 3_600_000
    upstream.fault({}, { status })
    const old = await get('manifests/1')
    t.equal(old.status, 200)
    t.equal(old.cache, 'stale')
    t.match(old.headers['warning'], says)
    const ready = await pull(`${mirror.url}/readyz`)
    t.match(ready.body.toString(), status === 401 ? /"denied"/ : /"failing"/)
    t.equal((await pull(`${mirror.url}/v2/library/never/manifests/1`)).status, status === 401 ? 403 : 503)
    // A day later nobody can say that we would still be let in.
    clock.now += 24 * 3_600_000
    t.equal((await get('manifests/1')).status, status === 401 ? 403 : 200)
  }
})

test('distribution: ETag is in quotes, and 304 for whoever has it', async (t) => {
  const { image: held, layers, get } = await stage(t, [1000])
  for (const [path, { digest }] of [
    ['manifests/1', held.manifest],
    [`blobs/${layers[0]!.digest}`, layers[0]!],
  ] as const) {
    t.equal((await get(path)).headers['etag'], `"${digest}"`)
    t.equal((await get(path, { 'if-none-match': `"${digest}"` })).status, 304)
  }
})

test('distribution: one mirror for several registries', async (t) => {
  const [hub, quay] = [await simulate(t), await simulate(t)]
  const [ofHub, ofQuay] = [image({ seed: 'hub' }), image({ seed: 'quay' })]
  hub.addImage('library/app', '1', ofHub)
  quay.addImage('library/app', '1', ofQuay)
  const mirror = await startMirror(t, hub, {
    config: { upstreams: { 'docker.io': { url: hub.url, default: true }, 'quay.io': { url: quay.url } } },
  })
  t.ok(isSame(await pull(`${mirror.url}/v2/library/app/manifests/1`), ofHub.manifest))
  t.ok(isSame(await pull(`${mirror.url}/v2/quay.io/library/app/manifests/1`), ofQuay.manifest))
  t.ok(isSame(await pull(`${mirror.url}/v2/library/app/manifests/1?ns=quay.io`), ofQuay.manifest))
})

test('distribution: a redirect is followed also from a registry below a path', async (t) => {
  const upstream = await simulate(t, {
    cdn: { location: 'relative' },
    elsewhere: ({ url }) => (url.startsWith('/hub/') ? url.slice('/hub'.length) : undefined),
  })
  const held = image({ layers: [50_000] })
  upstream.addImage(NAME, LATEST, held)
  const client = clientFor(t, { url: `${upstream.url}/hub` })
  const { signal } = new AbortController()
  t.ok((await client.manifest(NAME, LATEST, signal))?.bytes.equals(held.manifest.bytes))
  const blob = await client.blob(NAME, held.layers[0]!.digest, { from: 0, signal })
  t.ok((await bytesOf(blob)).equals(held.layers[0]!.bytes))
  t.equal(
    upstream.log.count(({ url }) => url.startsWith('/hub/v2/')),
    2,
  )
})

test('distribution: a realm elsewhere gets no credentials of ours', async (t) => {
  const stranger = await simulate(t)
  const realm = `${stranger.authUrl.replace('127.0.0.1', 'phish.example')}/token`
  const upstream = await simulate(t, { token: { realm } })
  upstream.addImage(NAME, LATEST, image())
  const client = clientFor(t, {
    url: upstream.url,
    credentials: { username: 'office', password: 'secret' },
    resolve: (_name, _options, callback) => callback(null, [{ address: '127.0.0.1', family: 4 }]),
  })
  const failed = await failureOf(client.manifest(NAME, LATEST, new AbortController().signal))
  t.match(failed.message, /our credentials are not for the token realm phish\.example/)
  t.equal(stranger.log.count(), 0)
})

test('Harbor: the head of a blob says all there is to say before the first byte', async (t) => {
  const { upstream, layers, url } = await stage(t, [2 * MB])
  const [big] = layers
  upstream.fault({ kind: 'blob' }, { hang: 'midBody' })
  const { headers, body } = await request(url(`blobs/${big!.digest}`))
  t.match(headers, {
    'content-length': String(big!.bytes.length),
    'content-type': 'application/octet-stream',
    'docker-content-digest': big!.digest,
    etag: `"${big!.digest}"`,
    'x-cache': 'miss',
  })
  body.on('error', () => undefined).destroy()
})

test('Harbor: a cut body is never a whole one with 200', async (t) => {
  const { upstream, layers, get } = await stage(t, [2 * MB])
  upstream.fault({ kind: 'blob' }, { dropAfterBytes: 300_000, how: 'cleanChunkEnd' })
  upstream.fault({ kind: 'blob', when: ({ headers }) => headers.range !== undefined }, { status: 404 })
  const cut = await get(`blobs/${layers[0]!.digest}`)
  t.ok(cut.broken !== undefined || cut.status >= 500)
  upstream.rules.clear()
  t.notOk((await get(`blobs/${layers[0]!.digest}`)).cache === 'hit', 'nothing of it was kept as whole')
})

test('Harbor: what one account was given opens nothing for another', async (t) => {
  const account = { username: 'office', password: 'secret' }
  const upstream = await simulate(t, { token: { credentials: account, private: ['team/secret'] } })
  const secret = image({ layers: [1000] })
  upstream.addImage('team/secret', '1', secret)
  const mirror = await startMirror(t, upstream, {
    config: {
      upstreams: {
        'ours.example': { url: upstream.url, ...account },
        'theirs.example': { url: upstream.url },
      },
    },
  })
  const [child] = secret.layers
  for (const path of ['manifests/1', `blobs/${child!.digest}`]) {
    t.equal((await pull(`${mirror.url}/v2/ours.example/team/secret/${path}`)).status, 200)
  }
  await settled(mirror)
  for (const path of ['manifests/1', `manifests/${secret.manifest.digest}`, `blobs/${child!.digest}`]) {
    const refused = await pull(`${mirror.url}/v2/theirs.example/team/secret/${path}`)
    t.ok([403, 404].includes(refused.status), `${path} is ${refused.status}`)
  }
})

test('Harbor: the path before /v2/ is kept when the registry is asked how to log in', async (t) => {
  const upstream = await simulate(t)
  const { manifest } = image()
  const challenge = `Bearer realm="${upstream.authUrl}/token",service="hub"`
  const text = manifest.bytes.toString()
  upstream.fault({ kind: 'other' }, { status: 401 })
  upstream.fault(
    { when: ({ url }) => url === '/hub/v2/' },
    { status: 401, headers: { 'www-authenticate': challenge } },
  )
  upstream.fault(
    { kind: 'other', when: ({ headers }) => headers.authorization !== undefined },
    { status: 200, body: { text, type: manifest.mediaType } },
  )
  const client = clientFor(t, { url: `${upstream.url}/hub/` })
  const found = await client.manifest(NAME, LATEST, new AbortController().signal)
  t.ok(found?.bytes.equals(manifest.bytes))
})

test('Harbor: a tag that upstream deletes is absent, what it named stays', async (t) => {
  const { upstream, image: held, layers, clock, get, pullAll } = await stage(t, [1000])
  await pullAll()
  upstream.deleteRepository('library/app')
  clock.now += 3_600_000
  const gone = await get('manifests/1')
  t.equal(gone.status, 404)
  t.equal(codeOf(gone), 'MANIFEST_UNKNOWN')
  t.equal((await get(`manifests/${held.manifest.digest}`)).cache, 'hit')
  t.equal((await get(`blobs/${layers[0]!.digest}`)).cache, 'hit')
})

test('Harbor: library/ is put before a name here, not by sending the client elsewhere', async (t) => {
  const { upstream, image: held, mirror } = await stage(t, [1000])
  const short = await pull(`${mirror.url}/v2/app/manifests/1`)
  t.equal(short.status, 200)
  t.ok(isSame(short, held.manifest))
  t.ok(upstream.log.of('manifest').every(({ repo }) => repo === 'library/app'))
})

test('Quay: what is cached is served while nobody can log in, from the start on', async (t) => {
  const { upstream, mirror, clock, pullAll } = await stage(t, [1000], { upstream: { token: {} } })
  await pullAll()
  await settled(mirror)
  await mirror.close()
  upstream.fault({ kind: 'token' }, { status: 503 })
  const later = await startMirror(t, upstream, {
    root: mirror.root,
    now: () => clock.now + 3_600_000,
    budgetMs: 2_000,
    staleBudgetMs: 500,
  })
  const old = await pull(`${later.url}/v2/library/app/manifests/1`)
  t.equal(old.status, 200)
  t.equal(old.cache, 'stale')
  for (const { digest } of image({ layers: [1000] }).blobs) {
    t.equal((await pull(`${later.url}/v2/library/app/blobs/${digest}`)).cache, 'hit')
  }
})

test('Quay: an upstream that hangs costs nobody more than the header budget', async (t) => {
  const { upstream, layers, clock, get, written } = await stage(t, [1000, 5000], {
    mirror: { budgetMs: 1_500, staleBudgetMs: 300 },
  })
  await get('manifests/1')
  await written()
  clock.now += 3_600_000
  upstream.fault({}, { hang: 'headers' })
  const began = performance.now()
  t.equal((await get('manifests/1')).cache, 'stale')
  const paths = ['manifests/2', `blobs/${layers[1]!.digest}`]
  for (const refused of await Promise.all(paths.map((path) => get(path)))) {
    t.equal(refused.status, 503)
    t.ok(Number(refused.headers['retry-after']) > 0)
  }
  t.equal((await get('tags/list')).cache, 'stale', 'the tags that are here')
  t.ok(performance.now() - began < 20_000, 'did not hang')
})

test('Quay: a blob that the database knows and the disk has lost is fetched again', async (t) => {
  const { upstream, mirror, layers, get, pullAll } = await stage(t, [50_000])
  await pullAll()
  await settled(mirror)
  rmSync(fileOf(mirror.root, layers[0]!))
  upstream.log.clear()
  t.ok(isSame(await get(`blobs/${layers[0]!.digest}`), layers[0]))
  t.equal(upstream.log.count('blob'), 1)
  await settled(mirror)
  t.equal((await get(`blobs/${layers[0]!.digest}`)).cache, 'hit')
})

test('Quay: anonymous tokens are asked for with the scope of the repository, where the ping names another', async (t) => {
  const { upstream, get } = await stage(t, [1000], { upstream: { token: { challenge: 'none' } } })
  const realm = `${upstream.authUrl}/token`
  const example = `Bearer realm="${realm}",service="simulator",scope="repository:user/image:pull"`
  upstream.fault({ kind: 'ping' }, { status: 401, headers: { 'www-authenticate': example } })
  upstream.fault({ kind: 'token', when: ({ url }) => !url.includes('library') }, { status: 403 })
  t.equal((await get('manifests/1')).status, 200)
})

test('nginx: an address that the registry sends us to is never used for another request', async (t) => {
  const { upstream, layers, get } = await stage(t, [2 * MB, 10_000], {
    upstream: { cdn: { expireSignedUrlDuringBody: true } },
  })
  upstream.fault({ kind: 'cdn', times: 1 }, { dropAfterBytes: 500_000 })
  const pulled = await get(`blobs/${layers[0]!.digest}`)
  t.equal(pulled.status, 200)
  t.ok(isSame(pulled, layers[0]))
  const addresses = upstream.log.of('cdn').map(({ url }) => url)
  t.equal(new Set(addresses).size, addresses.length)
  t.equal(upstream.log.count('blob'), addresses.length)
})

test('nginx: what came encoded goes out as it was meant, and says nothing of it', async (t) => {
  const { upstream, image: held, layers, get } = await stage(t, [50_000])
  upstream.fault({ kind: ['manifest', 'blob'], method: 'GET' }, { encoding: 'gzip' })
  for (const [path, content] of [
    ['manifests/1', held.manifest],
    [`blobs/${layers[0]!.digest}`, layers[0]!],
  ] as const) {
    const pulled = await get(path)
    t.equal(pulled.headers['content-encoding'], undefined)
    t.equal(pulled.status, 200)
    t.ok(isSame(pulled, content))
  }
  t.ok(upstream.log.of().every(({ headers }) => headers['accept-encoding'] === 'identity'))
})

test('Nexus: a relative Location is followed', async (t) => {
  const { layers, upstream, get } = await stage(t, [50_000], {
    upstream: { cdn: { location: 'relative', status: 302, rejectAuthorization: false } },
  })
  t.ok(isSame(await get(`blobs/${layers[0]!.digest}`), layers[0]))
  t.equal(upstream.log.count('cdn'), 1)
})

test('zot: a hundred pulls of an old tag are one question', async (t) => {
  const { upstream, clock, image: held, get, written } = await stage(t, [1000])
  await get('manifests/1')
  await written()
  clock.now += 3_600_000
  upstream.log.clear()
  upstream.fault({ kind: 'manifest', method: 'HEAD' }, { latencyMs: 50 })
  const all = await Promise.all(Array.from({ length: 100 }, () => get('manifests/1')))
  t.ok(all.every((it) => it.status === 200 && isSame(it, held.manifest)))
  t.equal(upstream.log.count(), 1)
})
