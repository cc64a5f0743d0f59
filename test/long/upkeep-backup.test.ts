/**
 * What was pushed, through a backup and back, on real disks; also while the server goes on.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test } from 'tap'
import { eventually, pull, startMirror } from '../support/app.ts'
import {
  APP,
  ARM,
  bringBack,
  collect,
  contentsOf,
  findings,
  isSame,
  keeperOf,
  LONG,
  MULTI,
  news,
  NOBODY,
  PLAIN,
  save,
  saved,
  serves,
  SIGNATURE,
  toEnd,
} from '../support/backups.ts'
import { alone, blobFile, filesBelow, seedMirrored } from '../support/folder.ts'
import { MEDIA_TYPES } from '../../src/oci/descriptor.ts'
import { content, descriptorOf, image, index, layer, type Content } from '../support/images.ts'
import { seedLocal } from '../support/local.ts'
import { missing, succeed } from '../support/programs.ts'
import { pushImage, pushManifest, send } from '../support/push.ts'

test('all that was pushed comes back in an empty folder', async (t) => {
  const { root, file, other } = await saved(t)
  t.match(await alone(root, (keeper) => save(keeper, file)), [
    { saved: { repositories: 3, tags: 4, manifests: 6 } },
  ])
  const events = await alone(other, (keeper) => bringBack(keeper, file))
  t.same(
    news(events).map(({ name, created, tags, manifests }) => [name, created, tags, manifests]),
    [
      ['team/app', true, 3, 4],
      ['team/emptied', true, 0, 0],
      ['team/long', true, 1, 2],
    ],
  )
  t.same(await findings(other), [])

  const server = await startMirror(t, NOBODY, { root: other })
  const app = `${server.url}/v2/team/app`
  await serves(t, app, APP, '1')
  await serves(t, app, APP, 'latest')
  await serves(t, app, MULTI, 'multi')
  await serves(t, `${server.url}/v2/team/long`, LONG, '9')
  await serves(t, `${server.url}/v2/team/long`, PLAIN, PLAIN.manifest.digest)
  const referrers = await pull(`${app}/referrers/${APP.manifest.digest}`)
  t.match(JSON.parse(referrers.body.toString()), { manifests: [{ digest: SIGNATURE.manifest.digest }] })
  t.equal((await pull(`${server.url}/v2/team/emptied/tags/list`)).status, 200, 'its name is still taken')
})

test('what was deleted, and what is mirrored, is not saved', async (t) => {
  const dir = t.testdir({ root: {} })
  const root = path.join(dir, 'root')
  const file = path.join(dir, 'backup.tar')
  await seedMirrored(root, { registry: 'docker.io', name: 'library/base', tag: '1', image: ARM })
  const server = await startMirror(t, NOBODY, { root })
  const app = `${server.url}/v2/team/app`
  await pushImage(app, MULTI, 'old')
  await pushImage(app, SIGNATURE, 'signed')
  await pushImage(app, PLAIN, 'stays')
  for (const tag of ['old', 'signed']) t.equal((await send(`${app}/manifests/${tag}`, 'DELETE')).status, 202)
  await pushImage(`${server.url}/v2/team/gone`, ARM, '1')
  await server.close()
  await alone(root, async (keeper, signal) => {
    await toEnd(keeper.rm({ name: 'team/gone' }, signal))
    await save(keeper, file)
  })
  const { repositories } = await contentsOf(file)
  t.match(repositories, [
    { name: 'team/app', tags: [{ tag: 'stays' }], manifests: [{ digest: PLAIN.manifest.digest }] },
    { name: 'team/gone', tags: [], manifests: [], blobs: [] },
  ])
  t.type(repositories[1]?.deletedAt, 'number')
  t.same(
    repositories[0]?.manifests.map(({ digest }) => digest),
    [PLAIN.manifest.digest],
  )
})

const CACHE_LAYER = layer({ size: 4000, seed: 'cache' })
const CACHE_CONFIG = content('application/vnd.buildkit.cacheconfig.v0', Buffer.from('{"layers":[]}'))
/** As BuildKit's `type=registry` writes it without `image-manifest=true`: the index names blobs. */
const CACHE = content(
  MEDIA_TYPES.ociIndex,
  Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MEDIA_TYPES.ociIndex,
      manifests: [CACHE_LAYER, CACHE_CONFIG].map(descriptorOf),
    }),
  ),
)

test("BuildKit's cache, an index of layers, comes back whole", async (t) => {
  const { root, file, other } = await saved(t)
  const cache = { manifest: CACHE, manifests: [CACHE], blobs: [CACHE_LAYER, CACHE_CONFIG] }
  await seedLocal(root, [
    { name: 'team/cache', tags: { main: { ...cache, config: CACHE_CONFIG, layers: [CACHE_LAYER] } } },
  ])
  t.same(await findings(root), [], 'nothing of it is missing')
  t.match(await alone(root, (keeper) => save(keeper, file)), [{ saved: { repositories: 4, tags: 5 } }])
  await alone(other, (keeper) => bringBack(keeper, file))
  const server = await startMirror(t, NOBODY, { root: other })
  const repository = `${server.url}/v2/team/cache`
  t.ok(isSame(await pull(`${repository}/manifests/main`), CACHE))
  for (const blob of [CACHE_LAYER, CACHE_CONFIG]) {
    t.ok(isSame(await pull(`${repository}/blobs/${blob.digest}`), blob), blob.mediaType)
  }
})

test('a size that the index has wrong is saved as the file has it', async (t) => {
  const { root, file, other } = await saved(t)
  const [big] = APP.layers
  const database = new DatabaseSync(path.join(root, 'metadata.sqlite'))
  database.prepare('update blob set size = size + 1 where digest = ?').run(big!.digest)
  database.close()
  t.match(await alone(root, (keeper) => save(keeper, file)), [{ saved: { repositories: 3 } }])
  t.same(
    (await alone(other, (keeper) => bringBack(keeper, file))).filter((it) => !('restored' in it)),
    [],
  )
  const server = await startMirror(t, NOBODY, { root: other })
  await serves(t, `${server.url}/v2/team/app`, APP, '1')
})

test('what an image needs, and its repository has lost, is told', async (t) => {
  const { root, file } = await saved(t)
  const [big] = APP.layers
  const database = new DatabaseSync(path.join(root, 'metadata.sqlite'))
  database.prepare('delete from repository_blob where digest = ?').run(big!.digest)
  database
    .prepare("delete from manifest where repository = 'local/team/long' and digest = ?")
    .run(LONG.manifest.digest)
  database.close()
  t.match(await alone(root, (keeper) => save(keeper, file)), [
    {
      lost: {
        digest: big!.digest,
        why: 'it is not in team/app',
        uses: ['team/app:1', 'team/app:latest', 'team/app:multi'],
      },
    },
    { lost: { digest: LONG.manifest.digest, why: 'it is not in team/long' } },
    { saved: { repositories: 3 } },
  ])
})

test('skopeo finds every image in an unpacked backup', { skip: missing('skopeo', 'tar') }, async (t) => {
  const { dir, file } = await saved(t)
  await succeed('tar', ['-xf', file, '-C', 'layout'], { cwd: dir })
  for (const [name, it] of [
    ['team/app:1', APP],
    ['team/app:multi', MULTI],
    ['team/long:9', LONG],
  ] as const) {
    const raw = await succeed('skopeo', ['inspect', '--raw', `oci:layout:${name}`], { cwd: dir })
    t.equal(raw, it.manifest.bytes.toString(), name)
  }
})

test('a file that cannot be written, or read, is told', async (t) => {
  const { root, file } = await saved(t)
  const nowhere = path.join(path.dirname(file), 'none', 'backup.tar')
  await t.rejects(
    alone(root, (keeper) => save(keeper, nowhere)),
    { name: 'OperatorError', message: /cannot be written/ },
  )
  await t.rejects(
    alone(root, (keeper) => bringBack(keeper, nowhere)),
    { name: 'OperatorError', message: /cannot be read/ },
  )
  await t.rejects(
    alone(root, (keeper) => bringBack(keeper, root)),
    { name: 'OperatorError', message: /it is a folder/ },
  )
})

test('a backup that is broken off leaves the one before as it was', async (t) => {
  const { root, file } = await saved(t)
  const before = readFileSync(file)
  const stopping = new AbortController()
  await t.rejects(
    alone(root, async (keeper) => {
      for await (const event of keeper.backup({ to: file }, stopping.signal)) {
        if ('progress' in event) stopping.abort(new Error('enough'))
      }
    }),
    { message: 'enough' },
  )
  t.same(readFileSync(file), before)
  t.same(
    filesBelow(path.dirname(file)).filter((it) => it.endsWith('.tmp')),
    [],
  )
})

test('what is being saved is not collected, although it is deleted meanwhile', async (t) => {
  const dir = t.testdir({ root: {}, other: {} })
  const root = path.join(dir, 'root')
  const server = await startMirror(t, NOBODY, { root, config: { push: { gcGrace: '1ms' } } })
  const app = `${server.url}/v2/team/app`
  await pushImage(app, APP, '1')
  await pushImage(app, ARM, '2')
  const keeper = await keeperOf(server.root)
  const pieces: Buffer[] = []
  let deleted = false
  for await (const event of keeper.backup({}, new AbortController().signal)) {
    if ('lost' in event) t.fail(`lost ${event.lost.digest}`)
    if (!('piece' in event)) continue
    pieces.push(Buffer.from(event.piece, 'base64'))
    if (deleted) continue
    deleted = true
    for (const { manifest } of [APP, ARM]) {
      t.equal((await send(`${app}/manifests/${manifest.digest}`, 'DELETE')).status, 202)
    }
    await collect(keeper)
  }
  const all: Content[] = [...APP.blobs, ...ARM.blobs, APP.manifest, ARM.manifest]
  await eventually('what nobody needs any more is collected', async () => {
    await collect(keeper)
    return !all.some(({ digest }) => existsSync(blobFile(server.root, digest)))
  })
  writeFileSync(path.join(dir, 'it.tar'), Buffer.concat(pieces))
  const other = path.join(dir, 'other')
  await alone(other, (it) => bringBack(it, path.join(dir, 'it.tar')))
  const second = await startMirror(t, NOBODY, { root: other })
  await serves(t, `${second.url}/v2/team/app`, APP, '1')
  await serves(t, `${second.url}/v2/team/app`, ARM, '2')
})

test('a backup amid pushes, deletes and collections holds all that it names', async (t) => {
  const dir = t.testdir({ root: {} })
  const root = path.join(dir, 'root')
  const server = await startMirror(t, NOBODY, { root, config: { push: { gcGrace: '50ms' } } })
  const keeper = await keeperOf(server.root)
  const team = `${server.url}/v2/team`
  await pushImage(`${team}/stable`, MULTI, '1')
  let going = true
  const known = new Map<string, Content>()
  const churn = async (name: string): Promise<void> => {
    for (let round = 0; going; round++) {
      const it = image({ seed: `${name} ${round}`, layers: [5000, { size: 2000, seed: 'shared' }] })
      for (const part of [...it.blobs, ...it.manifests]) known.set(part.digest, part)
      await pushImage(`${team}/${name}`, it, `t${round % 3}`)
      if (round % 2 === 1) await send(`${team}/${name}/manifests/t${(round + 1) % 3}`, 'DELETE')
      if (round % 5 === 4) await send(`${team}/${name}/manifests/${it.manifest.digest}`, 'DELETE')
    }
  }
  const sweep = async (): Promise<void> => {
    while (going) await collect(keeper)
  }
  const work = [churn('one'), churn('two'), sweep()]
  const files = [0, 1, 2].map((it) => path.join(dir, `${it}.tar`))
  try {
    await eventually('there is something', () => known.size > 20)
    for (const file of files) {
      t.same(
        (await save(keeper, file)).filter((it) => 'lost' in it),
        [],
      )
    }
  } finally {
    going = false
    await Promise.all(work)
  }
  for (const part of [...MULTI.blobs, ...MULTI.manifests]) known.set(part.digest, part)
  for (const [position, file] of files.entries()) {
    const other = path.join(dir, `root${position}`)
    const events = await alone(other, (it) => bringBack(it, file))
    t.same(
      events.filter((it) => !('restored' in it)),
      [],
    )
    const second = await startMirror(t, NOBODY, { root: other })
    const { repositories } = await contentsOf(file)
    t.equal(repositories.length, 3)
    for (const { name, tags, manifests, blobs } of repositories) {
      const repository = `${second.url}/v2/${name}`
      for (const { tag, digest } of tags) {
        t.ok(isSame(await pull(`${repository}/manifests/${tag}`), known.get(digest)!), `${name}:${tag}`)
      }
      for (const { digest } of manifests) {
        t.ok(isSame(await pull(`${repository}/manifests/${digest}`), known.get(digest)!))
      }
      for (const { digest } of blobs) {
        t.ok(isSame(await pull(`${repository}/blobs/${digest}`), known.get(digest)!))
      }
    }
    await second.close()
    t.same(await findings(other), [])
  }
})

test('a server takes a backup while it serves, and the names are there at once', async (t) => {
  const { dir, file } = await saved(t)
  const server = await startMirror(t, NOBODY, { root: path.join(dir, 'server') })
  await pushManifest(`${server.url}/v2/team/other`, index({ images: { amd64: APP } }).manifest, 'sparse')
  const keeper = await keeperOf(server.root)
  await bringBack(keeper, file)
  await serves(t, `${server.url}/v2/team/app`, MULTI, 'multi')
  await collect(keeper)
  await serves(t, `${server.url}/v2/team/long`, LONG, '9')
})
