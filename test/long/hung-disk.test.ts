/** A real entrepot whose file system is frozen under it: hits go on, writes end, and all is well after the thaw. */
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { eventually, pull, settled, simulate } from '../support/app.ts'
import { image } from '../support/images.ts'
import { missingLoopDisk, mountLoopDisk, type LoopDisk } from '../support/loop-disk.ts'
import { Entrepot } from '../support/process.ts'
import { pushBlob, pushImage, send } from '../support/push.ts'

const hot = image({ layers: [3_000_000, 200_000], seed: 'hot' })
const cold = Array.from({ length: 6 }, (_, index) => image({ layers: [3_000_000], seed: `cold ${index}` }))
const pushed = image({ layers: [100_000], seed: 'pushed' })

async function start(t: Test): Promise<{ server: Entrepot; disk: LoopDisk }> {
  const upstream = await simulate(t)
  upstream.addImage('library/hot', '1', hot)
  for (const [index, it] of cold.entries()) upstream.addImage(`library/cold-${index}`, '1', it)
  const disk = mountLoopDisk()
  t.teardown(() => disk[Symbol.dispose]())
  const server = await Entrepot.start(t, {
    dir: t.testdir(),
    config: {
      storage: { root: join(disk.folder, 'data') },
      cache: { maxSize: '150MiB', minFree: '1MiB', prefetch: 'off', tagTtl: '1h' },
      upstreams: { 'docker.io': { url: upstream.url, default: true } },
    },
  })
  // Before the program is told to stop: what waits for the disk cannot even be killed.
  t.teardown(() => disk.thaw())
  return { server, disk }
}

test('a frozen file system', { skip: missingLoopDisk() }, async (t) => {
  const { server, disk } = await start(t)
  const v2 = `${server.url}/v2`
  const ready = async (): Promise<Record<string, unknown>> =>
    (await (await fetch(`${server.url}/readyz`)).json()) as Record<string, unknown>
  t.equal((await pushImage(`${v2}/team/app`, pushed, '1')).status, 201)
  const pullHot = async (): Promise<void> => {
    t.equal((await pull(`${server.url}/livez`)).status, 200)
    t.equal((await pull(`${v2}/library/hot/manifests/1`)).status, 200)
    for (const { digest, bytes } of hot.blobs) {
      t.ok((await pull(`${v2}/library/hot/blobs/${digest}`)).body.equals(bytes))
    }
    t.equal((await pull(`${v2}/team/app/manifests/1`)).status, 200)
    for (const { digest } of pushed.blobs) t.equal((await pull(`${v2}/team/app/blobs/${digest}`)).status, 200)
  }
  await pullHot()
  await settled(server)
  await pullHot()
  // One of them is in the middle of its body.
  const begun = await send(`${v2}/team/app/blobs/uploads/`, 'POST')
  const location = new URL(String(begun.headers['location']), v2).href
  t.equal((await send(location, 'PATCH', Buffer.alloc(100_000))).status, 202)
  disk.freeze()

  const state = { waiting: true }
  const pushes = Promise.all([
    send(location, 'PATCH', Buffer.alloc(100_000, 1)),
    ...Array.from({ length: 24 }, (_, seed) =>
      pushBlob(`${v2}/team/app`, image({ layers: [300_000], seed }).layers[0]!),
    ),
  ])
  const misses = Promise.all(
    cold.map((it, index) => pull(`${v2}/library/cold-${index}/blobs/${it.layers[0]!.digest}`)),
  )
  const all = Promise.all([pushes, misses]).finally(() => (state.waiting = false))
  while (state.waiting) await pullHot()
  await all
  for (const { status, headers } of await pushes)
    t.match({ status, headers }, { status: 503, headers: { 'retry-after': '30' } })
  for (const [index, { status, cache, body }] of (await misses).entries()) {
    t.match({ status, cache }, { status: 200, cache: 'bypass' })
    t.ok(body.equals(cold[index]!.layers[0]!.bytes))
  }
  t.match(await ready(), {
    status: 'degraded',
    storage: 'hanging',
    storageHangsSince: /Z$/,
    upstreams: [{ state: 'ok' }],
  })
  await pullHot()

  disk.thaw()
  await eventually('it answers again', async () => (await ready())['storage'] !== 'hanging')
  t.equal((await pushImage(`${v2}/team/app`, image({ layers: [300_000], seed: 0 }), '2')).status, 201)
  await pullHot()
  t.equal((await pull(`${v2}/team/app/manifests/2`)).status, 200)
})
