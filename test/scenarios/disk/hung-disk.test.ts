/** A disk that does not answer any more: what is here is served, nothing is kept, and nobody waits for ever. */
import { test, type Test } from 'tap'
import type { DiskTimeouts } from '../../../src/storage/files/hung-disk.ts'
import { eventually, pull } from '../../support/app.ts'
import { FaultyFiles } from '../../support/faulty-files.ts'
import { image } from '../../support/images.ts'
import { pushBlob, pushImage, send } from '../../support/push.ts'
import { stage, type Scene } from '../../support/scene.ts'
import { nodeFiles, type Files } from '../../../src/storage/files/files.ts'

/** While the disk hangs. */
const SOON: DiskTimeouts = { create: 200, change: 300, sync: 300, again: 100, look: 2000 }
/** While it does not: the syncs of a busy machine's disk take their time. */
const IN_TIME: DiskTimeouts = { create: 60_000, change: 60_000, sync: 60_000, again: 100, look: 60_000 }

async function scene(
  t: Test,
): Promise<Scene & { disk: FaultyFiles; hang: () => void; heal: () => void; ready: () => Promise<unknown> }> {
  const disk = new FaultyFiles()
  const diskTimeouts = { ...IN_TIME }
  const it = await stage(t, [200_000, 1000, 3000], { mirror: { files: disk.files, diskTimeouts } })
  t.teardown(() => disk.heal())
  const hang = (): void => {
    Object.assign(diskTimeouts, SOON)
    disk.hang()
  }
  const heal = (): void => {
    disk.heal()
    Object.assign(diskTimeouts, IN_TIME)
  }
  const ready = async (): Promise<unknown> =>
    JSON.parse((await pull(`${it.mirror.url}/readyz`)).body.toString()) as unknown
  return { ...it, disk, hang, heal, ready }
}

test('hits go on, misses go past the disk, pushes end with 503, and /readyz says so', async (t) => {
  const { hang, heal, upstream, mirror, image: cached, layers, get, pullAll, ready } = await scene(t)
  await pullAll()
  const other = image({ layers: [300_000, 2000], seed: 'other' })
  upstream.addImage('library/other', '1', other)
  const pushed = image({ layers: [1000], seed: 'pushed' })
  const team = `${mirror.url}/v2/team/app`
  t.equal((await pushImage(team, pushed, '1')).status, 201)
  hang()

  const pushes = Array.from({ length: 20 }, (_, seed) =>
    pushBlob(team, image({ layers: [5000], seed }).layers[0]!),
  )
  const misses = other.blobs.map((it) => pull(`${mirror.url}/v2/library/other/blobs/${it.digest}`))
  t.equal((await pull(`${mirror.url}/livez`)).status, 200)
  t.equal((await get('manifests/1')).cache, 'hit')
  for (const { digest, bytes } of layers) t.ok((await get(`blobs/${digest}`)).body.equals(bytes))
  t.equal((await pull(`${team}/manifests/1`)).status, 200)
  for (const push of await Promise.all(pushes)) {
    t.match(push, { status: 503, headers: { 'retry-after': '30' } })
    t.match(push.body.toString(), 'the storage of this registry does not answer at the moment')
  }
  for (const [index, miss] of (await Promise.all(misses)).entries()) {
    t.match(miss, { status: 200, cache: 'bypass' })
    t.ok(miss.body.equals(other.blobs[index]!.bytes))
  }
  t.match(await ready(), { status: 'degraded', storage: 'hanging', storageHangsSince: /^20\d\d-.*Z$/ })
  t.match(await ready(), { upstreams: [{ state: 'ok' }] })
  const lines = mirror.lines.filter(({ msg }) => String(msg).startsWith('the disk does not answer'))
  t.match(lines, [{ level: 'error' }])
  t.equal(lines.length, 1)

  heal()
  await eventually('it answers again', async () => !JSON.stringify(await ready()).includes('hanging'))
  t.equal((await pushImage(team, image({ layers: [5000], seed: 0 }), '2')).status, 201)
  t.equal((await get(`manifests/${cached.manifest.digest}`)).status, 200)
})

test('a push whose write may still come later begins anew', async (t) => {
  const { disk, hang, heal, mirror } = await scene(t)
  const blob = image({ layers: [50_000], seed: 'slow' }).layers[0]!
  const team = `${mirror.url}/v2/team/app`
  const begun = await send(`${team}/blobs/uploads/`, 'POST')
  const location = new URL(String(begun.headers['location']), team).href
  t.equal((await send(location, 'PATCH', blob.bytes.subarray(0, 20_000))).status, 202)
  hang()
  t.equal((await send(location, 'PATCH', blob.bytes.subarray(20_000))).status, 503)
  heal()
  await eventually('all that was begun has ended', () => disk.stuck === 0)
  t.equal((await send(location, 'PATCH', blob.bytes.subarray(20_000))).status, 404)
  t.equal((await pushBlob(team, blob)).status, 201)
  t.ok((await pull(`${team}/blobs/${blob.digest}`)).body.equals(blob.bytes))
})

test('a download whose first bytes the disk does not take is no failure of its upstream', async (t) => {
  let hangs = true
  const thawed = Promise.withResolvers<undefined>()
  t.teardown(() => thawed.resolve(undefined))
  const files: Files = {
    ...nodeFiles,
    write: async (...args) => {
      if (hangs) await thawed.promise
      return nodeFiles.write(...args)
    },
  }
  const { layers, get, mirror } = await stage(t, [200_000], { mirror: { files, budgetMs: 1_500 } })
  const layer = layers[0]!
  const late = await get(`blobs/${layer.digest}`)
  t.match(late, { status: 503, headers: { 'retry-after': '30' } })
  t.match(late.body.toString(), 'the storage of this registry does not answer at the moment')
  const ready = (await pull(`${mirror.url}/readyz`)).body.toString()
  t.match(JSON.parse(ready), { upstreams: [{ state: 'ok' }] })
  hangs = false
  thawed.resolve(undefined)
  t.ok((await get(`blobs/${layer.digest}`)).body.equals(layer.bytes))
})
