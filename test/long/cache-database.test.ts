/** The index may be busy, stuck or broken: what it cannot say is asked of upstream, and no pull waits for it. */
import { closeSync, fstatSync, openSync, writeSync } from 'node:fs'
import path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test, type Test } from 'tap'
import { image, randomBytesOf, ZERO_BLOB, type Content } from '../support/images.ts'
import {
  eventually,
  pull,
  pullSame,
  settled,
  simulate,
  startMirror,
  type Mirror,
  type MirrorOptions,
} from '../support/app.ts'
import { pushBlob } from '../support/push.ts'
import { said } from '../support/trouble.ts'

const MiB = 1024 * 1024

async function setUp(t: Test, options: MirrorOptions = {}) {
  const upstream = await simulate(t)
  const images = ['one', 'two', 'three'].map((seed) => image({ layers: [2 * MiB, 20_000], seed }))
  for (const [index, it] of images.entries()) upstream.addImage(`library/app-${index}`, '1', it)
  const mirror = await startMirror(t, upstream, { cache: { prefetch: 'off' }, ...options })
  const v2 = (index: number): string => `${mirror.url}/v2/library/app-${index}`
  const pullImage = async (index: number): Promise<{ right: boolean; cache: (string | undefined)[] }> => {
    const it = images[index]!
    const manifest = await pull(`${v2(index)}/manifests/1`)
    const layers = await Promise.all(
      it.layers.map((layer) => pullSame(`${v2(index)}/blobs/${layer.digest}`, layer)),
    )
    return {
      right:
        manifest.body.equals(it.manifest.bytes) && layers.every(({ status, same }) => status === 200 && same),
      cache: [manifest.cache, ...layers.map(({ cache }) => cache)],
    }
  }
  return { upstream, mirror, images, v2, pullImage }
}

async function metric(mirror: Mirror, name: string): Promise<number> {
  const { body } = await pull(`${mirror.url}/metrics`)
  let sum = 0
  for (const [, value] of body.toString().matchAll(new RegExp(`^${name}(?:\\{.*\\})? (\\d+)$`, 'gm')))
    sum += Number(value)
  return sum
}

/** Another connection that holds the lock for writing, as a backup does. */
function lockDatabase(t: Test, mirror: Mirror): () => void {
  const other = new DatabaseSync(path.join(mirror.root, 'metadata.sqlite'))
  other.exec('begin immediate')
  let held = true
  const free = (): void => {
    if (!held) return
    held = false
    other.exec('rollback')
    other.close()
  }
  t.teardown(free)
  return free
}

test('a database that is busy delays no answer, and a later pull finds everything', async (t) => {
  const { mirror, upstream, images, v2, pullImage } = await setUp(t)
  t.ok((await pullImage(0)).right)
  await settled(mirror)
  const free = lockDatabase(t, mirror)
  const startedAt = performance.now()
  for (let round = 0; round < 2; round += 1) {
    const pulled = await Promise.all([0, 1, 2, 1].map(pullImage))
    t.ok(pulled.every(({ right }) => right))
  }
  t.ok(performance.now() - startedAt < 4_000, 'the writer alone waits for longer')
  t.equal((await pullImage(0)).cache.filter((it) => it === 'hit').length, 3, 'what is known is read')
  t.equal(
    upstream.log.count({ kind: 'manifest', repo: 'library/app-1' }),
    1,
    'asked once, although not remembered',
  )
  t.equal(upstream.log.count({ kind: 'blob', method: 'GET', ref: images[1]!.layers[0]!.digest }), 1)
  free()
  await settled(mirror)
  await eventually('it is remembered', async () => {
    const { body } = await pull(`${v2(1)}/tags/list`)
    return body.length > 0
  })
  await upstream.stop()
  for (const index of [0, 1, 2]) {
    const { right, cache } = await pullImage(index)
    t.ok(right)
    t.same(cache, ['hit', 'hit', 'hit'])
  }
  t.same(said(mirror, 'warn'), [])
  t.same(said(mirror, 'error'), [])
})

test('a database that stays locked: answered, said once, counted, and blobs are cached all the same', async (t) => {
  const clock = { now: Date.now() }
  const { mirror, upstream, images, v2, pullImage } = await setUp(t, { now: () => clock.now })
  const free = lockDatabase(t, mirror)
  t.ok((await pullImage(0)).right)
  t.ok((await pullImage(1)).right)
  await eventually('a write was given up', async () => {
    return (await metric(mirror, 'entrepot_metadata_write_failures_total')) >= 2
  })
  await settled(mirror)
  const { right } = await pullImage(2)
  t.ok(right)
  const layer = images[0]!.layers[0]!
  const again = await pullSame(`${v2(0)}/blobs/${layer.digest}`, layer)
  t.equal(again.cache, 'hit', 'the disk has it, and upstream was asked whether it may be read')
  t.equal(upstream.log.count({ kind: 'blob', method: 'GET', ref: layer.digest }), 1)
  t.equal(said(mirror, 'warn').length, 1, said(mirror, 'warn').join())
  free()
  clock.now += 60_000
  await eventually('it is remembered again', async () => {
    await pullImage(0)
    await settled(mirror)
    return said(mirror, 'info').some((it) => it === 'the index takes writes again')
  })
  await upstream.stop()
  const { right: still } = await pullImage(0)
  t.ok(still)
  t.same(said(mirror, 'error'), [])
})

for (const damage of ['garbage', 'dropped tables'] as const) {
  test(`a database that becomes unreadable (${damage}) fails no pull`, async (t) => {
    const { mirror, upstream, pullImage, images, v2 } = await setUp(t)
    t.ok((await pullImage(0)).right)
    await settled(mirror)
    const file = path.join(mirror.root, 'metadata.sqlite')
    if (damage === 'garbage') spoil(file)
    else dropTables(file)
    for (const index of [0, 1, 2, 0, 1]) {
      const { right } = await pullImage(index)
      t.ok(right, `image ${index}`)
    }
    const [layer] = images[1]!.layers as [Content]
    t.equal((await pull(`${v2(1)}/blobs/${layer.digest}`, {}, 'HEAD')).status, 200)
    t.equal((await pull(`${v2(1)}/manifests/1`, {}, 'HEAD')).status, 200)
    t.equal((await pull(`${v2(1)}/tags/list`)).status, 200)
    t.ok((await metric(mirror, 'entrepot_cache_bypass_total')) > 0)
    await settled(mirror)
    t.ok(said(mirror, 'warn').length <= 2, said(mirror, 'warn').join())
    t.same(said(mirror, 'error'), [])
    // Nobody knows whether a push could begin there: what is known is that upstream cannot say.
    await upstream.stop()
    for (const what of [`blobs/${ZERO_BLOB.digest}`, 'manifests/2']) {
      t.equal((await pull(`${v2(2)}/${what}`, {}, 'HEAD')).status, 503, what)
    }
  })
}

test('a local name is never asked of upstream, not even when the index is unreadable', async (t) => {
  const { mirror, upstream } = await setUp(t)
  const create = async (running: Mirror, name: string): Promise<void> => {
    t.equal((await pushBlob(`${running.url}/v2/${name}`, ZERO_BLOB)).status, 201)
  }
  await create(mirror, 'team/before')
  await mirror.close()
  const next = await startMirror(t, upstream, { root: mirror.root })
  await create(next, 'team/since')
  dropTables(path.join(mirror.root, 'metadata.sqlite'))
  for (const name of ['team/before', 'team/since']) {
    t.ok((await pull(`${next.url}/v2/${name}/manifests/1`)).status >= 400)
    t.equal(
      upstream.log.count(({ url }) => url.includes(name)),
      0,
    )
  }
  await pull(`${next.url}/v2/team/other/manifests/1`)
  t.ok(upstream.log.count(({ url }) => url.includes('team/other')) > 0, 'other names are')
})

function dropTables(file: string): void {
  const other = new DatabaseSync(file)
  const tables = other.prepare("select name from sqlite_schema where type = 'table'").all()
  other.exec('pragma foreign_keys = off')
  for (const { name } of tables)
    if (!String(name).startsWith('sqlite_')) other.exec(`drop table ${String(name)}`)
  other.close()
}

function spoil(file: string): void {
  for (const name of [file, `${file}-wal`]) {
    const descriptor = openSync(name, 'r+')
    writeSync(descriptor, randomBytesOf(fstatSync(descriptor).size, 'spoilt'), 0, undefined, 0)
    closeSync(descriptor)
  }
}
