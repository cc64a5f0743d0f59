/**
 * Backups that come back into folders in use, and those that are not whole.
 */
import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'tap'
import { pull, startMirror } from '../support/app.ts'
import {
  APP,
  ARM,
  bringBack,
  contentsOf,
  filesIn,
  findings,
  keeperOf,
  LONG,
  news,
  NOBODY,
  PLAIN,
  save,
  saved,
  serves,
  toEnd,
} from '../support/backups.ts'
import { alone, blobFile, filesBelow, inDatabase, seedMirrored } from '../support/folder.ts'
import { seedLocal } from '../support/local.ts'
import { missing, succeed } from '../support/programs.ts'
import { END_OF_ARCHIVE, tarHeader, tarPadding } from '../../src/admin/archive/write-tar.ts'

test('a second time changes nothing', async (t) => {
  const { file, other } = await saved(t)
  await alone(other, (keeper) => bringBack(keeper, file))
  const before = filesBelow(other)
  const events = await alone(other, (keeper) => bringBack(keeper, file))
  for (const it of news(events)) t.match(it, { created: false, tags: 0, manifests: 0, blobs: 0 })
  t.equal(events.length, 3)
  t.same(filesBelow(other), before)
})

test('a backup of what came back is the same', async (t) => {
  const { file, other } = await saved(t)
  await alone(other, (keeper) => bringBack(keeper, file))
  const again = `${file}.again`
  await alone(other, (keeper) => save(keeper, again))
  t.same(await contentsOf(again), await contentsOf(file))
})

test('what was let go of, and only waits for a collection, comes back for good', async (t) => {
  const { root, file } = await saved(t)
  await seedLocal(root, [{ name: 'team/untagged', images: [ARM] }])
  await alone(root, (keeper) => save(keeper, file))
  await seedLocal(root, [{ name: 'team/untagged', tags: { once: ARM } }])
  await alone(root, (keeper, signal) =>
    toEnd(keeper.rm({ name: 'team/untagged', reference: 'once' }, signal)),
  )
  await alone(root, (keeper) => bringBack(keeper, file))
  const again = `${file}.again`
  await alone(root, (keeper) => save(keeper, again))
  t.same(await contentsOf(again), await contentsOf(file))
})

test('a deleted repository comes back as a name that is taken, unless it lives', async (t) => {
  const { root, file, other } = await saved(t)
  await alone(root, async (keeper, signal) => {
    await toEnd(keeper.rm({ name: 'team/long' }, signal))
    await save(keeper, file)
  })
  await seedLocal(other, [{ name: 'team/long', tags: { alive: ARM } }])
  await alone(other, (keeper) => bringBack(keeper, file))
  const empty = `${other}-empty`
  await alone(empty, (keeper) => bringBack(keeper, file))
  const server = await startMirror(t, NOBODY, { root: other })
  await serves(t, `${server.url}/v2/team/long`, ARM, 'alive')
  const second = await startMirror(t, NOBODY, { root: empty })
  const left = await second.app.metadata.repositories.list('local', { limit: 10 })
  t.same(left, ['team/app', 'team/emptied', 'team/long'])
})

test('what was lost before is told, and everything else is saved and comes back', async (t) => {
  const { root, file, other } = await saved(t)
  const [first, second] = APP.layers
  rmSync(blobFile(root, first!.digest))
  truncateSync(blobFile(root, second!.digest), 10)
  const events = await alone(root, (keeper) => save(keeper, file))
  const uses = ['team/app:1', 'team/app:latest', 'team/app:multi']
  t.same(
    events.flatMap((it) => ('lost' in it ? [[it.lost.digest, it.lost.uses]] : [])).sort(),
    [first!.digest, second!.digest].sort().map((digest) => [digest, uses]),
  )
  const back = await alone(other, (keeper) => bringBack(keeper, file))
  t.match(
    back.filter((it) => 'left' in it),
    [{ left: { name: 'team/app', manifest: APP.manifest.digest, tags: ['1', 'latest'] } }],
  )
  const server = await startMirror(t, NOBODY, { root: other })
  t.equal((await pull(`${server.url}/v2/team/app/manifests/1`)).status, 404)
  await serves(t, `${server.url}/v2/team/app`, ARM, ARM.manifest.digest)
  await serves(t, `${server.url}/v2/team/long`, LONG, '9')
})

test('a backup that is not whole changes nothing', async (t) => {
  const { file, other } = await saved(t)
  await alone(other, () => Promise.resolve())
  const before = filesBelow(other)
  const whole = readFileSync(file)
  const refused = async (bytes: Buffer, what: string): Promise<void> => {
    writeFileSync(file, bytes)
    await t.rejects(
      alone(other, (keeper) => bringBack(keeper, file)),
      { name: 'OperatorError', message: /damaged, cut off, or no backup of ours: .*; nothing was restored/ },
      what,
    )
  }
  for (const share of [0, 0.01, 0.3, 0.7, 0.99]) {
    await refused(whole.subarray(0, Math.floor((whole.length - 1024) * share)), `cut at ${share}`)
  }
  const layer = APP.layers[0]!
  const flipped = Buffer.from(whole)
  flipped[whole.indexOf(layer.bytes.subarray(0, 64)) + 100_000]! ^= 1
  await refused(flipped, 'a flipped bit')
  const renamed = Buffer.from(whole)
  renamed.write('"version":9', whole.indexOf('"version":1'))
  await refused(renamed, 'another version')
  t.same(
    filesBelow(other).filter((it) => !/sqlite|lock/.test(it)),
    before.filter((it) => !/sqlite|lock/.test(it)),
  )
  const server = await startMirror(t, NOBODY, { root: other })
  t.same(await server.app.metadata.repositories.list('local', { limit: 10 }), [])
})

test('a backup of which a file was taken out is not whole', async (t) => {
  const { file, other } = await saved(t)
  const parts: Buffer[] = []
  for (const [name, bytes] of await filesIn(file)) {
    if (name.endsWith(APP.config.digest.slice(7))) continue
    parts.push(tarHeader(name, bytes.length, new Date()), bytes, tarPadding(bytes.length))
  }
  writeFileSync(file, Buffer.concat([...parts, END_OF_ARCHIVE]))
  await t.rejects(
    alone(other, (keeper) => bringBack(keeper, file)),
    { message: new RegExp(`lacks ${APP.config.digest}`) },
  )
})

test('a layout that was unpacked and packed again comes back', { skip: missing('tar') }, async (t) => {
  const { dir, file, other } = await saved(t)
  await succeed('tar', ['-xf', file, '-C', 'layout'], { cwd: dir })
  await succeed('tar', ['-cf', file, '-C', 'layout', '.'], { cwd: dir })
  await alone(other, (keeper) => bringBack(keeper, file))
  t.same(await findings(other), [])
})

test('a tag that names something else stays, unless it is to be overwritten', async (t) => {
  const { file, other } = await saved(t)
  await seedLocal(other, [{ name: 'team/app', tags: { 1: ARM, mine: PLAIN } }])
  const events = await alone(other, (keeper) => bringBack(keeper, file))
  const expected = { name: 'team/app', tag: '1', here: ARM.manifest.digest, saved: APP.manifest.digest }
  t.match(
    events.filter((it) => 'kept' in it),
    [{ kept: expected }],
  )
  t.match(news(events)[0], { name: 'team/app', created: false, tags: 2 })
  const tagged = async (): Promise<unknown> => {
    const server = await startMirror(t, NOBODY, { root: other })
    const heads = await Promise.all(
      ['1', 'mine', 'latest'].map((tag) => pull(`${server.url}/v2/team/app/manifests/${tag}`, {}, 'HEAD')),
    )
    await server.close()
    return heads.map(({ headers }) => headers['docker-content-digest'])
  }
  t.same(
    await tagged(),
    [ARM, PLAIN, APP].map(({ manifest }) => manifest.digest),
  )

  const fixed = await alone(other, (keeper) => bringBack(keeper, file, true), { push: { immutable: ['1'] } })
  t.match(
    fixed.filter((it) => 'kept' in it),
    [{ kept: { ...expected, why: /push\.immutable/ } }],
  )
  await alone(other, (keeper) => bringBack(keeper, file, true))
  t.same(
    await tagged(),
    [APP, PLAIN, APP].map(({ manifest }) => manifest.digest),
  )
})

test('what was damaged is healed by a backup', async (t) => {
  const { root, file } = await saved(t)
  const [layer] = APP.layers
  const path = blobFile(root, layer!.digest)
  const bytes = readFileSync(path)
  bytes[7]! ^= 1
  writeFileSync(path, bytes)
  rmSync(blobFile(root, LONG.manifest.digest))
  await alone(root, (keeper) => bringBack(keeper, file))
  t.match(await findings(root), [{ kind: 'quarantine', wrong: false }])
  t.same(readFileSync(path), layer!.bytes)
})

test('what no push could take comes back only when a person says so', async (t) => {
  const { dir, root, file, other } = await saved(t)
  await seedLocal(root, [{ name: 'library/nginx', tags: { 1: PLAIN } }])
  await alone(root, (keeper) => save(keeper, file))
  // There it was pulled from Docker Hub before anybody pushed it.
  await seedMirrored(other, { registry: 'docker.io', name: 'team/long', tag: '9', image: ARM })
  const server = path.join(dir, 'server')
  const running = await startMirror(t, NOBODY, { root: server })
  const keepers = [
    { to: other, restore: (allow: boolean) => alone(other, (it) => bringBack(it, file, false, allow)) },
    {
      to: server,
      restore: async (allow: boolean) => bringBack(await keeperOf(server), file, false, allow),
    },
  ]
  for (const { to, restore } of keepers) {
    await t.rejects(restore(false), {
      name: 'OperatorError',
      message: /push\.deny \(library\/\*\*\) reserves library\/nginx.*--allow-denied.*nothing was restored/,
    })
    if (to === other) {
      await t.rejects(restore(false), { message: /team\/long was pulled from docker\.io through here/ })
    }
    t.match(news(await restore(true)), { length: 4 })
  }
  await serves(t, `${running.url}/v2/library/nginx`, PLAIN, '1')
  // What is local already hides nothing more.
  t.match(await alone(other, (keeper) => bringBack(keeper, file, false, false), { push: { deny: [] } }), {
    length: 4,
  })
})

test('rows that were lost come back', async (t) => {
  const { root, file } = await saved(t)
  inDatabase(root, 'delete from tag', 'delete from repository_blob', 'delete from manifest')
  await alone(root, (keeper) => bringBack(keeper, file))
  t.same(await findings(root), [])
})

test('names that the configuration would hide are refused before anything is there', async (t) => {
  const { file, other } = await saved(t)
  const upstreams = { upstreams: { team: { url: 'http://127.0.0.1:9' } } }
  await t.rejects(
    alone(other, (keeper) => bringBack(keeper, file), upstreams),
    { name: 'OperatorError', message: /would hide team\/app, .*nothing was restored/ },
  )
  t.notOk(filesBelow(other).some((it) => it.startsWith('blobs/')))
})
