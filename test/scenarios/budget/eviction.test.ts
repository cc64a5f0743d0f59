/** What goes when the mirror has more than its budget, and what stays. */
import { test } from 'tap'
import { request } from 'undici'
import { eventually, pull, settled } from '../../support/app.ts'
import { parseManifest } from '../../../src/oci/manifest.ts'
import { parseRepositoryName } from '../../../src/oci/reference.ts'
import { LOCAL } from '../../../src/storage/metadata/metadata.ts'
import { content, descriptorOf, image, index } from '../../support/images.ts'
import { pushImage } from '../../support/push.ts'
import { startTwoUpstreams } from '../../support/two-upstreams.ts'
import { blobBytes, KB, lookingAt, openWarehouse } from '../../support/warehouse.ts'

test('what was pulled longest ago goes, as whole images, and is pulled again like any other', async (t) => {
  const { mirror, clock, offer, pullImage, here, within } = await openWarehouse(t, {
    cache: { maxSize: '1000000' },
  })
  const names = ['library/a', 'library/b', 'library/c', 'library/d', 'library/e']
  const images = new Map(names.map((name) => [name, offer(name, [120 * KB, 80 * KB])]))
  for (const name of names.slice(0, 4)) await pullImage(name, images.get(name)!)
  t.ok(blobBytes(mirror.root) > 800 * KB)
  // A client that has the layers asks for no more than that.
  clock.now += 1_000
  t.equal((await pull(`${mirror.url}/v2/library/a/manifests/1`)).cache, 'hit')

  await pullImage('library/e', images.get('library/e')!)
  await within(900 * KB, images.get('library/b')!)
  t.same(
    names.map((name) => here(images.get(name)!)),
    ['all', 'none', 'all', 'all', 'all'],
  )
  const metrics = (await pull(`${mirror.url}/metrics`)).body.toString()
  t.match(metrics, /entrepot_cache_evicted_bytes_total\{reason="budget"\} 20\d{4}/)
  t.match(metrics, /entrepot_cache_evictions_total\{reason="budget"\} 1/)
  t.match(
    mirror.lines.filter(({ msg }) => msg === 'evicted'),
    [{ entries: 1, why: 'budget' }],
  )
  t.equal(
    await mirror.app.metadata.tags.get({ registry: 'docker.io', name: 'library/b' as never }, '1' as never),
    undefined,
  )
  t.same(JSON.parse((await pull(`${mirror.url}/v2/_catalog`)).body.toString()), {
    repositories: names.filter((name) => name !== 'library/b').map((name) => `docker.io/${name}`),
  })

  t.ok((await pullImage('library/b', images.get('library/b')!)).every((it) => it === 'miss'))
  t.equal(here(images.get('library/b')!), 'all')
})

test('an index that is large has its part of the budget', async (t) => {
  const { mirror, offer, pullImage, here } = await openWarehouse(t, { cache: { maxSize: '1000000' } })
  const [old, young] = [offer('library/old', [200 * KB]), offer('library/young', [200 * KB])]
  await pullImage('library/old', old)
  const descriptors = Array.from({ length: 7000 }, (_, nth) =>
    descriptorOf(content('application/vnd.oci.image.layer.v1.tar', Buffer.from(String(nth)))),
  )
  const { mediaType } = old.manifest
  const document = { schemaVersion: 2, mediaType, config: descriptors[0], layers: descriptors }
  const odd = content(mediaType, Buffer.from(JSON.stringify(document)))
  await mirror.app.metadata.transaction((tx) => {
    const key = { registry: LOCAL, name: parseRepositoryName('team/odd') }
    tx.putManifest(key, odd.digest, odd.bytes.length, parseManifest(odd.bytes), 1)
  })
  await pullImage('library/young', young)
  await eventually('the older one has gone', () => here(old) === 'none')
  const { body } = await pull(`${mirror.url}/metrics`)
  t.ok(Number(/^entrepot_index_bytes (\d+)$/m.exec(body.toString())?.[1]) > 2_000_000)
})

test('what was pushed stays, and so does what a pinned tag refers to', async (t) => {
  const cache = {
    maxSize: '500000',
    pin: ['docker.io/library/pinned:1.*', 'docker.io/library/other@sha256:0*'],
  }
  const { upstream, mirror, offer, pullImage, here, within } = await openWarehouse(t, { cache })
  const own = image({ layers: [150 * KB], seed: 'own' })
  t.equal((await pushImage(`${mirror.url}/v2/team/own`, own, '1')).status, 201)
  const amd64 = image({ layers: [100 * KB], seed: 'amd64' })
  const arm64 = image({ layers: [100 * KB], seed: 'arm64' })
  const pinned = index({ images: { amd64, arm64 } })
  upstream.addImage('library/pinned', '1.2', pinned)
  await pullImage('library/pinned', pinned, '1.2')
  // The layer that was pushed costs the budget nothing, whoever else has it.
  const copy = image({ layers: [{ size: 150 * KB, seed: 'own/0' }], seed: 'copy' })
  upstream.addImage('library/copy', '1', copy)
  await pullImage('library/copy', copy)
  const rest = ['library/x', 'library/y', 'library/z'].map((name) => [name, offer(name, [200 * KB])] as const)
  for (const [name, it] of rest) await pullImage(name, it)
  await within(500 * KB, rest[0]![1], rest[1]![1])
  t.equal(here(pinned), 'all')
  t.equal(here(own), 'all')
  t.equal(here(copy), 'some', 'of a mirrored image the layer that was pushed, too')
  t.same(
    rest.map(([, it]) => here(it)),
    ['none', 'none', 'all'],
  )
  t.equal((await pull(`${mirror.url}/v2/team/own/blobs/${own.layers[0]!.digest}`)).status, 200)
})

test('a layer that another image needs stays', async (t) => {
  const { upstream, offer, pullImage, here, has, within } = await openWarehouse(t, {
    cache: { maxSize: '500000' },
  })
  const base = { size: 200 * KB, seed: 'base' }
  const old = image({ layers: [base, 100 * KB], seed: 'old' })
  const young = image({ layers: [base, 50 * KB], seed: 'young' })
  upstream.addImage('library/old', '1', old)
  upstream.addImage('library/young', '1', young)
  await pullImage('library/old', old)
  await pullImage('library/young', young)
  await pullImage('library/more', offer('library/more', [180 * KB]))
  await within(450 * KB, old.manifest, old.layers[1]!)
  t.equal(here(young), 'all')
  t.same([has(old.manifest), has(old.layers[1]!), has(old.layers[0]!)], [false, false, true])
})

test('what somebody reads stays until he has gone', async (t) => {
  const { mirror, offer, pullImage, has, here, within } = await openWarehouse(t, {
    cache: { maxSize: '14000000' },
  })
  const read = offer('library/read', [8_000 * KB])
  await pullImage('library/read', read)
  const { body } = await request(`${mirror.url}/v2/library/read/blobs/${read.layers[0]!.digest}`)
  const other = offer('library/other', [4_000 * KB])
  await pullImage('library/other', other)
  await pullImage('library/third', offer('library/third', [5_000 * KB]))
  await within(14_000 * KB, other)
  t.ok(has(read.manifest) && has(read.layers[0]!), 'although it was pulled longest ago')
  t.equal(here(other), 'none')

  let bytes = 0
  for await (const chunk of body as AsyncIterable<Buffer>) bytes += chunk.length
  t.equal(bytes, 8_000 * KB)
  for (let at = 0; here(read) !== 'none'; at++) {
    if (at === 20) throw new Error('it stays although nobody reads it')
    await pullImage(`library/more${at}`, offer(`library/more${at}`, [3_000 * KB]))
    await within(14_000 * KB)
  }
})

test('an upstream has a budget of its own', async (t) => {
  const { hub, quay, mirror, get } = await startTwoUpstreams(t, {
    cache: { prefetch: 'off', minFree: '0' },
    quay: { maxSize: '300000' },
  })
  const fromHub = image({ layers: [200 * KB], seed: 'hub' })
  hub.addImage('library/app', '1', fromHub)
  const fromQuay = [1, 2].map((at) => image({ layers: [200 * KB], seed: `quay ${at}` }))
  for (const [at, it] of fromQuay.entries()) quay.addImage(`team/app${at}`, '1', it)
  const pullAll = async (name: string, { blobs }: typeof fromHub): Promise<void> => {
    await get(`${name}/manifests/1`)
    for (const { digest } of blobs) await get(`${name}/blobs/${digest}`)
  }
  await pullAll('library/app', fromHub)
  const { within, here } = lookingAt(mirror)
  for (const [at, it] of fromQuay.entries()) {
    await pullAll(`quay.io/team/app${at}`, it)
    // What is still followed does not go, although its turn may have come.
    await settled(mirror)
  }
  await within(500 * KB, fromQuay[0]!)
  t.same([fromHub, ...fromQuay].map(here), ['all', 'none', 'all'])
  t.match(
    mirror.lines.filter(({ msg }) => msg === 'evicted'),
    [{ entries: 1, why: 'upstream', upstream: 'quay.io' }],
  )
})

test('an image that is larger than the budget is pulled whole; its first layers may go meanwhile', async (t) => {
  const { mirror, offer, pullImage, within } = await openWarehouse(t, {
    cache: { maxSize: '500000', prefetch: 'layers' },
  })
  const large = offer(
    'library/large',
    [150, 150, 150, 150, 150, 150].map((size) => size * KB),
  )
  await pullImage('library/large', large)
  await within(500 * KB)
  await pullImage('library/large', large)
  await within(500 * KB)
  const { mirrored } = await mirror.app.metadata.eviction.stored()
  t.equal(mirrored.get('docker.io') ?? 0, blobBytes(mirror.root), 'what is reckoned is what is there')
})

test('what refers to an image goes with it', async (t) => {
  const { upstream, mirror, offer, pullImage, within } = await openWarehouse(t, {
    cache: { maxSize: '500000' },
  })
  const signed = offer('library/signed', [200 * KB])
  const signature = image({ layers: [50 * KB], seed: 'signature', subject: signed.manifest })
  upstream.addImage('library/signed', undefined, signature)
  await pullImage('library/signed', signed)
  await pullImage('library/signed', signature, signature.manifest.digest)
  await pullImage('library/other', offer('library/other', [100 * KB]))
  await pullImage('library/more', offer('library/more', [200 * KB]))
  await within(450 * KB, signed, signature.manifest, signature.layers[0]!)
  t.equal((await pull(`${mirror.url}/v2/library/signed/manifests/${signature.manifest.digest}`)).status, 200)
})
