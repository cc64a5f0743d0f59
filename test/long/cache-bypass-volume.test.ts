/** Real file systems that are full, or read-only. */
import { symlinkSync } from 'node:fs'
import path from 'node:path'
import { test } from 'tap'
import type { Content } from '../support/images.ts'
import { eventually, pull, pullSame, settled } from '../support/app.ts'
import { mountTmpfs, needsMount } from '../support/tmpfs.ts'
import { QUIET, REFUSES, said, setUp, storedFiles, WORKS } from '../support/trouble.ts'

const MiB = 1024 * 1024

test('blobs larger than the disk, several at once, on a real one', needsMount, async (t) => {
  using volume = mountTmpfs(12 * MiB)
  const world = await setUp(t, [20 * MiB, 9 * MiB, 8 * MiB, 30_000], {
    upstream: { bytesPerSecond: 60 * MiB },
    mirror: { root: volume.folder },
  })
  await using mirror = world.mirror
  const { clock, layers, url, tag, big } = world
  for (let round = 0; round < 3; round += 1) {
    const pulled = await Promise.all(
      [...layers, ...layers].map(async (layer) => [layer, await pullSame(url(layer), layer)] as const),
    )
    for (const [layer, { status, same }] of pulled) {
      t.ok(status === 200 && same, `${layer.bytes.length} bytes, round ${round}`)
    }
    t.ok((await pull(tag)).body.equals(big.manifest.bytes))
    await settled(mirror)
    clock.now += 5_001
  }
  // A manifest is written down behind its answer.
  await eventually('nothing stays behind', async () => (await storedFiles(mirror, 'ingest')).length === 0)
  t.same(said(mirror, 'warn'), [REFUSES])
  t.same(said(mirror, 'error'), [])

  clock.now += QUIET
  const small = layers[3]!
  await pull(url(small))
  await settled(mirror)
  t.equal((await pull(url(small))).cache, 'hit')
})

test('a folder that becomes read-only under the server, and writable again', needsMount, async (t) => {
  using volume = mountTmpfs(64 * MiB)
  const databases = t.testdir()
  // What is open for writing keeps a file system from being made read-only; the databases always are.
  for (const name of ['metadata.sqlite', 'lock.sqlite']) {
    symlinkSync(path.join(databases, name), path.join(volume.folder, name))
  }
  const world = await setUp(t, [3 * MiB, 2 * MiB, 30_000], { mirror: { root: volume.folder } })
  await using mirror = world.mirror
  const { clock, layers, url, tag, big } = world
  const [before, after, small] = layers as [Content, Content, Content]
  t.equal((await pullSame(url(before), before)).cache, 'miss')
  await settled(mirror)

  volume.remount('ro')
  t.ok((await pull(tag)).body.equals(big.manifest.bytes))
  t.equal((await pullSame(url(before), before)).cache, 'hit')
  for (const layer of [after, small, after]) {
    const pulled = await pullSame(url(layer), layer)
    t.ok(pulled.same)
    t.equal(pulled.cache, 'bypass')
  }
  t.same(said(mirror, 'warn'), [REFUSES])

  volume.remount('rw')
  clock.now += QUIET
  t.equal((await pullSame(url(after), after)).cache, 'miss')
  await settled(mirror)
  t.equal((await pullSame(url(after), after)).cache, 'hit')
  t.equal(said(mirror, 'info').filter((it) => it === WORKS).length, 1)
  t.same(await storedFiles(mirror, 'ingest'), [])
  t.same(said(mirror, 'error'), [])
})
