/** An image, from the first cold request to the second hot one with upstream gone. */
import { test } from 'tap'
import { image } from '../../support/images.ts'
import { isWhole, pull, settled, simulate, startMirror } from '../../support/app.ts'

test('an image is fetched once and then served from here, also without upstream', async (t) => {
  const upstream = await simulate(t, { token: {}, cdn: {} })
  const busybox = image({ layers: [300_000, 70_000, 10] })
  upstream.addImage('library/busybox', 'latest', busybox)
  const mirror = await startMirror(t, upstream)
  const base = `${mirror.url}/v2/library/busybox`

  for (const round of ['cold', 'hot', 'dead'] as const) {
    if (round === 'dead') await upstream.stop()
    const byTag = await pull(`${base}/manifests/latest`)
    t.equal(byTag.status, 200, round)
    t.ok(byTag.body.equals(busybox.manifest.bytes))
    t.equal(byTag.headers['content-type'], busybox.manifest.mediaType)
    t.equal(byTag.cache, round === 'cold' ? 'miss' : 'hit')
    const byDigest = await pull(`${base}/manifests/${busybox.manifest.digest}`)
    t.ok(isWhole(byDigest, busybox.manifest))
    for (const blob of busybox.blobs) {
      const pulled = await pull(`${base}/blobs/${blob.digest}`)
      t.equal(pulled.status, 200)
      t.ok(isWhole(pulled, blob))
      if (round !== 'cold') t.equal(pulled.cache, 'hit')
    }
    await settled(mirror)
  }
  t.equal(upstream.log.count({ kind: 'cdn' }), busybox.blobs.length, 'every blob crossed the wire once')
  t.equal(upstream.log.count({ kind: 'manifest' }), 2, 'one 401 and one answer')
})

test('credentials that a client sends are neither needed, nor handed on, nor logged', async (t) => {
  const upstream = await simulate(t, { token: {}, cdn: {} })
  const small = image({ layers: [100_000] })
  upstream.addImage('library/small', '1', small)
  const mirror = await startMirror(t, upstream)
  const authorization = `Basic ${Buffer.from('hub-user:hub-secret').toString('base64')}`
  const base = `${mirror.url}/v2/library/small`
  t.equal((await pull(`${mirror.url}/v2/`, { authorization })).status, 200)
  t.equal((await pull(`${base}/manifests/1`, { authorization })).status, 200)
  t.equal((await pull(`${base}/blobs/${small.layers[0]!.digest}`, { authorization })).status, 200)
  t.ok(upstream.log.count() > 0)
  t.notOk(upstream.log.entries.some(({ headers }) => headers.authorization === authorization))
  const said = JSON.stringify(mirror.lines)
  t.notMatch(said, 'hub-secret')
  t.notMatch(said, authorization.slice('Basic '.length))
})

test('start and GET /v2/ need no upstream at all', async (t) => {
  const mirror = await startMirror(t, { url: 'http://127.0.0.1:1' })
  const ping = await pull(`${mirror.url}/v2/`)
  t.equal(ping.status, 200)
  t.equal(ping.headers['docker-distribution-api-version'], 'registry/2.0')
})
