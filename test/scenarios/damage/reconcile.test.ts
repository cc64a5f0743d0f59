/** After a crash the index and the disk agree again, and nothing is lost by it. */
import { existsSync, mkdirSync, rmSync, truncateSync, utimesSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { test } from 'tap'
import { eventually, pull, simulate, startMirror } from '../../support/app.ts'
import { alone, blobFile, inDatabase, seedMirrored } from '../../support/folder.ts'
import { image, layer, type Content } from '../../support/images.ts'
import { seedLocal } from '../../support/local.ts'
import { blobBytes, cacheBytes } from '../../support/warehouse.ts'

const DAY = 86_400_000

const app = image({ layers: [3000, 4000, 5000], seed: 'app' })
const gone = image({ layers: [700], seed: 'gone' })
const own = image({ layers: [600, 500], seed: 'own' })
const [whole, torn, vanished] = app.layers as [Content, Content, Content]

test('what a crash left is counted, and what it took is fetched again', async (t) => {
  const root = t.testdir()
  await seedMirrored(root, { registry: 'docker.io', name: 'library/app', tag: '1', image: app }, Date.now())
  await seedMirrored(root, { registry: 'docker.io', name: 'library/gone', tag: '1', image: gone }, Date.now())
  await seedLocal(root, [{ name: 'team/own', tags: { '1': own } }])
  const file = (it: Content): string => blobFile(root, it.digest)
  truncateSync(file(torn), 100)
  rmSync(file(vanished))
  rmSync(file(gone.manifest))
  rmSync(file(own.layers[0]!))
  const stray = layer({ size: 2000, seed: 'stray' })
  const ancient = layer({ size: 1000, seed: 'ancient' })
  for (const it of [stray, ancient]) {
    mkdirSync(dirname(file(it)), { recursive: true })
    writeFileSync(file(it), it.bytes)
  }
  utimesSync(file(ancient), 1000, 1000)

  const upstream = await simulate(t)
  upstream.addImage('library/app', '1', app)
  upstream.addImage('library/gone', '1', gone)
  const mirror = await startMirror(t, upstream, { root, cache: { prefetch: 'off', minFree: '0' } })
  await eventually('both agree', () =>
    mirror.lines.some(({ msg }) => msg === 'the index and the disk agree again'),
  )
  t.match(
    mirror.lines.filter(({ msg }) => msg === 'the index and the disk agree again'),
    [{ found: 1, lost: 3 }],
  )
  t.match(
    mirror.lines.filter(({ msg }) => String(msg).startsWith('files are older than the index')),
    [{ level: 'warn', files: 1 }],
    'what was kept is told',
  )
  const { metadata } = mirror.app
  const { mirrored, pushed } = await metadata.eviction.stored()
  t.same([...mirrored.keys()].sort(), ['', 'docker.io'])
  t.equal(mirrored.get(''), 2000, 'what nobody knows counts as well')
  const pushedBytes = [...own.manifests, ...own.blobs].reduce((sum, { bytes }) => sum + bytes.length, 0)
  t.equal(pushed, pushedBytes, 'what was pushed is left to others, whatever has become of it')
  const counted = blobBytes(root) - 1000 - (pushedBytes - 600)
  t.equal(
    [...mirrored.values()].reduce((sum, bytes) => sum + bytes, 0),
    counted,
  )
  await eventually('the metric says so too', async () => (await cacheBytes(mirror.url)) === counted)
  t.equal(
    await metadata.blobs.size(ancient.digest),
    undefined,
    'what is older than the index may have been pushed',
  )

  for (const [it, cache] of [
    [whole, 'hit'],
    [torn, 'miss'],
    [vanished, 'miss'],
  ] as const) {
    const pulled = await pull(`${mirror.url}/v2/library/app/blobs/${it.digest}`)
    t.ok(pulled.body.equals(it.bytes))
    t.equal(pulled.cache, cache)
  }
  const pulled = await pull(`${mirror.url}/v2/library/gone/manifests/1`)
  t.match([pulled.status, pulled.cache], [200, 'miss'])
})

test('what a crash left is kept for the grace period, counted from when it was found', async (t) => {
  const root = t.testdir()
  await seedMirrored(root, { registry: 'docker.io', name: 'library/app', tag: '1', image: app }, Date.now())
  const stray = layer({ size: 2000, seed: 'stray' })
  const file = blobFile(root, stray.digest)
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, stray.bytes)
  const collected = (): Promise<string[]> =>
    alone(root, async (keeper, signal) => {
      const digests: string[] = []
      for await (const { digest } of keeper.gc({ dryRun: false }, signal)) digests.push(digest)
      return digests
    })

  // Long after it was written: what counts is when it is found.
  const clock = { now: Date.now() + 10 * DAY }
  const upstream = await simulate(t)
  const mirror = await startMirror(t, upstream, { root, now: () => clock.now, cache: { minFree: '0' } })
  await eventually('it is found', async () => (await mirror.app.metadata.blobs.size(stray.digest)) === 2000)
  const { pulledAt } = (await mirror.app.metadata.eviction.mirrored(stray.digest))!
  t.equal(pulledAt, clock.now, 'it is evicted as what was pulled when it was found')
  await mirror.close()
  t.same(await collected(), [], 'and not collected')
  inDatabase(root, `update blob set stored_at = ${String(Date.now() - DAY)} where digest = '${stray.digest}'`)
  t.same(await collected(), [stray.digest])
  t.notOk(existsSync(file))

  writeFileSync(file, stray.bytes)
  t.same(await collected(), [], 'a collection that finds it first does not free it either')
  t.ok(existsSync(file))
})
