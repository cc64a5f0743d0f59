/** Which images a glob of `cache.pin` keeps. */
import { writeFileSync } from 'node:fs'
import { test } from 'tap'
import { evict } from '../../../src/admin/cli/evict.ts'
import { pins } from '../../../src/cache/eviction/pins.ts'
import { recordedEdge } from '../../support/edge.ts'
import { image, index } from '../../support/images.ts'
import { pull, settled } from '../../support/app.ts'
import { KB, openWarehouse } from '../../support/warehouse.ts'

const DIGEST = `sha256:${'0'.repeat(64)}`

test('a pin is over names and tags, or over names and digests', (t) => {
  const kept: [glob: string, image: string, is: boolean][] = [
    ['docker.io/library/alpine:3.*', 'docker.io/library/alpine:3.20', true],
    ['docker.io/library/alpine:3.*', 'docker.io/library/alpine:4', false],
    ['docker.io/library/alpine:3.*', `docker.io/library/alpine@${DIGEST}`, false],
    ['docker.io/library/alpine', 'docker.io/library/alpine:any', true],
    ['docker.io/library/alpine', `docker.io/library/alpine@${DIGEST}`, true],
    ['docker.io/library/alpine', 'docker.io/library/alpine-extra:1', false],
    ['quay.io/**', 'quay.io/team/deep/app:1', true],
    ['quay.io/**:stable', 'quay.io/team/deep/app:stable', true],
    ['quay.io/**:stable', 'quay.io/team/deep/app:1', false],
    ['docker.io/library/alpine@sha256:0*', `docker.io/library/alpine@${DIGEST}`, true],
    ['docker.io/library/alpine@sha256:1*', `docker.io/library/alpine@${DIGEST}`, false],
    ['host.example:5000/app:1', 'host.example:5000/app:1', true],
    ['host.example:5000/app', 'host.example:5000/app:2', true],
    ['*/library/alpine:latest', 'docker.io/library/alpine:latest', true],
  ]
  for (const [glob, image, is] of kept) t.equal(pins(glob, image), is, `${glob} and ${image}`)
  t.end()
})

test('what is pinned by digest stays when the index that names it goes', async (t) => {
  const amd64 = image({ layers: [100 * KB], seed: 'amd64' })
  const multi = index({ images: { amd64, arm64: image({ layers: [100 * KB], seed: 'arm64' }) } })
  const { upstream, offer, pullImage, has, within } = await openWarehouse(t, {
    cache: { maxSize: '500000', pin: [`docker.io/library/multi@${amd64.manifest.digest}`] },
  })
  upstream.addImage('library/multi', '1', multi)
  await pullImage('library/multi', multi, '1')
  await pullImage('library/multi', amd64, amd64.manifest.digest)
  for (const name of ['library/one', 'library/two', 'library/three']) {
    await pullImage(name, offer(name, [180 * KB]))
  }
  await within(500_000, multi.manifest)
  t.notOk(has(multi.manifest), 'the index has gone')
  t.ok(has(amd64.manifest))
  for (const blob of amd64.blobs) t.ok(has(blob))
})

test('a pin over a whole repository keeps blobs of it that no manifest here names; what goes has a name', async (t) => {
  const { upstream, offer, pullImage, mirror, has, within } = await openWarehouse(t, {
    cache: { maxSize: '500000', pin: ['docker.io/library/pinned'] },
  })
  const [kept, gone] = [
    image({ layers: [150 * KB], seed: 'kept' }),
    image({ layers: [150 * KB], seed: 'gone' }),
  ]
  for (const [name, { layers }] of [
    ['pinned', kept],
    ['other', gone],
  ] as const) {
    upstream.addBlob(`library/${name}`, layers[0]!)
    const { status } = await pull(`${mirror.url}/v2/library/${name}/blobs/${layers[0]!.digest}`)
    t.equal(status, 200)
    await settled(mirror)
  }
  for (const name of ['library/one', 'library/two', 'library/three']) {
    await pullImage(name, offer(name, [120 * KB]))
  }
  await within(500_000, gone.layers[0]!)
  t.ok(has(kept.layers[0]!))
  upstream.addBlob('library/late', gone.layers[0]!)
  t.equal((await pull(`${mirror.url}/v2/library/late/blobs/${gone.layers[0]!.digest}`)).status, 200)
  await settled(mirror)
  await mirror.close()
  const file = `${mirror.root}/config.json`
  const pin = ['docker.io/library/pinned']
  writeFileSync(file, JSON.stringify({ storage: { root: mirror.root }, cache: { maxSize: '500000', pin } }))
  const edge = recordedEdge()
  t.equal(await evict({ config: file, to: '0' }, edge), 0)
  const lines = edge.printed.slice(0, -1).map((line) => line.split('\t'))
  t.ok(lines.every(([, names]) => names !== ''))
  t.ok(
    lines.some(
      ([what, names]) => what === 'blob' && names === `docker.io/library/late@${gone.layers[0]!.digest}`,
    ),
  )
  t.ok(has(kept.layers[0]!), 'also when all that may go has to')
})
