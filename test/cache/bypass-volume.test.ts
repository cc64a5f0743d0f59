/** Real file systems that are full, or read-only. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmdirSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test } from 'tap'
import type { Content } from '../support/images.ts'
import { pull, pullSame, settled } from '../support/app.ts'
import { QUIET, REFUSES, said, setUp, storedFiles, WORKS } from '../support/trouble.ts'

const MiB = 1024 * 1024

const mountable = spawnSync('unshare', ['-m', 'mount', '-t', 'tmpfs', 'tmpfs', '/mnt']).status === 0
const needsMount = mountable ? {} : { skip: 'mount: only root may' }

/** A file system of its own; nothing on it may be open any more when it is disposed. */
function mountTmpfs(size: number): Disposable & { folder: string; remount(option: string): void } {
  const folder = mkdtempSync(path.join(tmpdir(), 'entrepot-'))
  const run = (...command: [string, ...string[]]): void => {
    const { status, stderr } = spawnSync(command[0], command.slice(1))
    if (status !== 0) throw new Error(`${command.join(' ')}: ${String(stderr)}`)
  }
  run('mount', '-t', 'tmpfs', '-o', `size=${size}`, 'entrepot-test', folder)
  return {
    folder,
    remount: (option) => run('mount', '-o', `remount,${option}`, folder),
    [Symbol.dispose]: () => {
      try {
        run('umount', folder)
      } finally {
        spawnSync('umount', ['-l', folder])
        rmdirSync(folder)
      }
    },
  }
}

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
  t.same(await storedFiles(mirror, 'ingest'), [])
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
