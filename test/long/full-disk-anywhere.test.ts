/** A disk that is full for one operation, whichever it is: never a wrong byte, and nothing acknowledged that is not here. */
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { test, type Test } from 'tap'
import type { DiskSpace } from '../../src/cache/eviction/disk-space.ts'
import { digestOf } from '../../src/oci/digest.ts'
import { eventually, pull, pullSame, settled, simulate, startMirror, type Mirror } from '../support/app.ts'
import { FaultyFiles } from '../support/faulty-files.ts'
import { image, type Image } from '../support/images.ts'
import { pushImage } from '../support/push.ts'
import { said, storedFiles } from '../support/trouble.ts'

/** Longer than what is held in memory until it is verified. */
const LAYER = 100_000

/** Somebody who can, or cannot, make room. */
function room(can: boolean): DiskSpace & { asked: number } {
  return {
    asked: 0,
    reserve: () => Promise.resolve({ as: 'keep', [Symbol.dispose]: () => undefined }),
    reclaim() {
      this.asked += 1
      return Promise.resolve(can)
    },
    changed: () => undefined,
  }
}

async function setUp(t: Test, can: boolean | 'really') {
  const disk = new FaultyFiles()
  const maker = can === 'really' ? undefined : room(can)
  const upstream = await simulate(t)
  const mirror = await startMirror(t, upstream, {
    files: disk.files,
    ...(maker === undefined ? {} : { diskSpace: maker }),
    cache: { prefetch: 'off' },
    config: { local: ['team/**'], push: { anonymous: true } },
  })
  return { disk, asked: () => maker?.asked ?? 0, upstream, mirror }
}

/** Every file has the name of its bytes. */
async function allRight(mirror: Mirror): Promise<boolean> {
  return (await storedFiles(mirror, 'blobs')).every((hex) => {
    const file = path.join(mirror.root, 'blobs', 'sha256', hex.slice(0, 2), hex)
    return digestOf(readFileSync(file)) === `sha256:${hex}`
  })
}

for (const can of [true, false]) {
  const room = can ? 'room can be made' : 'no room can be made'

  test(`a pull, where ${room}, is right whatever operation finds the disk full`, async (t) => {
    const { disk, asked, upstream, mirror } = await setUp(t, can)
    let places = 0
    for (; disk.untilFull === Infinity; places += 1) {
      const it = image({ layers: [LAYER], seed: `pull ${places}` })
      upstream.addImage('library/any', String(places), it)
      disk.untilFull = places
      const manifest = await pull(`${mirror.url}/v2/library/any/manifests/${places}`)
      t.ok(manifest.status === 200 && manifest.body.equals(it.manifest.bytes))
      for (const blob of it.blobs) {
        const pulled = await pullSame(`${mirror.url}/v2/library/any/blobs/${blob.digest}`, blob)
        t.ok(pulled.status === 200 && pulled.same, `after ${places} operations`)
      }
      await settled(mirror)
    }
    t.ok(places > 12, `${places} places`)
    t.ok(asked() > places / 2)
    await eventually('nothing stays behind', async () => (await storedFiles(mirror, 'ingest')).length === 0)
    t.ok(await allRight(mirror))
    t.same(said(mirror, 'error'), [])
  })

  test(`a push, where ${room}, succeeds, or is told 507 and succeeds later`, async (t) => {
    const { disk, asked, mirror } = await setUp(t, can)
    const repository = `${mirror.url}/v2/team/any`
    const acknowledged: [string, Image][] = []
    let places = 0
    let refused = 0
    for (; disk.untilFull === Infinity; places += 1) {
      const it = image({ layers: [LAYER, 1000], seed: `push ${places}` })
      disk.untilFull = places
      const first = await pushImage(repository, it, String(places))
      if (first.status !== 201) {
        t.equal(first.status, 507, first.body.toString())
        refused += 1
        const full = disk.untilFull
        disk.untilFull = Infinity
        t.equal((await pushImage(repository, it, String(places))).status, 201)
        disk.untilFull = full
      }
      acknowledged.push([String(places), it])
    }
    t.ok(places > 20, `${places} places`)
    t.ok(asked() > places / 2)
    t.ok(can ? refused < places / 3 : refused > places / 2, `${refused} were refused`)
    for (const [tag, it] of acknowledged) {
      t.ok((await pull(`${repository}/manifests/${tag}`)).body.equals(it.manifest.bytes))
      for (const blob of it.blobs) t.ok((await pullSame(`${repository}/blobs/${blob.digest}`, blob)).same)
    }
    t.ok(await allRight(mirror))
    t.same(said(mirror, 'error'), [])
  })
}

test('what is just being pushed is not what goes for it, though it was mirrored, and nobody waits for himself', async (t) => {
  const { disk, upstream, mirror } = await setUp(t, 'really')
  const repository = `${mirror.url}/v2/team/any`
  // Pulled last, so that it would go after what is pushed.
  const other = image({ layers: [2 * LAYER], seed: 'other' })
  let places = 0
  let refused = 0
  for (; disk.untilFull === Infinity; places += 1) {
    const it = image({ layers: [LAYER], seed: `both ${places}` })
    for (const [name, one] of [
      ['both', it],
      ['other', other],
    ] as const) {
      upstream.addImage(`library/${name}`, String(places), one)
      await pull(`${mirror.url}/v2/library/${name}/manifests/${places}`)
      for (const { digest } of one.blobs) await pull(`${mirror.url}/v2/library/${name}/blobs/${digest}`)
    }
    await settled(mirror)
    disk.untilFull = places
    const { status } = await pushImage(repository, it, String(places))
    if (status !== 201) {
      t.equal(status, 507)
      refused += 1
      const full = disk.untilFull
      disk.untilFull = Infinity
      t.equal((await pushImage(repository, it, String(places))).status, 201)
      disk.untilFull = full
    }
    t.ok((await pull(`${repository}/manifests/${places}`)).body.equals(it.manifest.bytes))
    for (const blob of it.blobs) t.ok((await pullSame(`${repository}/blobs/${blob.digest}`, blob)).same)
  }
  t.ok(places > 15, `${places} places`)
  t.ok(refused < places / 2, `${refused} were refused`)
  t.ok(await allRight(mirror))
  t.same(said(mirror, 'error'), [])
})
