/** The whole program on a disk that loses what was not synced. */
import { copyFileSync, cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test, type Test } from 'tap'
import { request } from 'undici'
import { nodeFiles, type Files } from '../../src/store/files.ts'
import { image, type Content, type Image } from '../support/images.ts'
import { pull, simulate, startMirror, type Mirror, type Pulled } from '../support/app.ts'
import { luckOf, NO_LUCK, ONLY_NAMES, randomOf, type Luck } from '../support/power-loss-luck.ts'
import { PowerLossFiles } from '../support/power-loss.ts'
import type { UpstreamSimulator } from '../support/upstream.ts'

const KiB = 1024
const MiB = 1024 * KiB
/** Small ones, so that much of what is here is vouched for. */
const LIMITS = { saveEvery: 128 * KiB }
const GENERATIONS = 3
/** In this one a reader is far ahead of the rest. */
const FAR = 2
const CUTS = 6

/** Of those who look at what is left: no power goes in their time. */
const UNSYNCED: Files = {
  ...nodeFiles,
  datasync: () => Promise.resolve(),
  syncFolder: () => Promise.resolve(),
}

/** When the power goes, with the database of that moment: it is not written through the recorder. */
interface Cut {
  readonly moment: number
  readonly database: string
}

class World {
  readonly t: Test
  readonly upstream: UpstreamSimulator
  readonly random: () => number
  /** Repository -> the image that its tag `1` names. */
  readonly images = new Map<string, Image>()
  readonly #folder: string
  #folders = 0

  constructor(t: Test, upstream: UpstreamSimulator, random: () => number) {
    this.t = t
    this.upstream = upstream
    this.random = random
    this.#folder = t.testdir()
  }

  addImage(repository: string, layers: readonly number[]): void {
    const added = image({ layers, seed: repository })
    this.images.set(repository, added)
    this.upstream.addImage(repository, '1', added)
  }

  folder(): string {
    const folder = path.join(this.#folder, String(this.#folders++))
    mkdirSync(folder)
    return folder
  }

  get contents(): Map<string, Content> {
    const all = [...this.images.values()].flatMap(({ manifest, blobs }) => [manifest, ...blobs])
    return new Map(all.map((content) => [content.digest, content]))
  }
}

function copyDatabase(from: string, to: string): void {
  // Nothing is lost between the two unless a checkpoint is made, and so few writes cause none.
  for (const name of ['metadata.sqlite', 'metadata.sqlite-wal']) {
    if (existsSync(path.join(from, name))) copyFileSync(path.join(from, name), path.join(to, name))
  }
}

/** Pulls through an entrepot on `root`, with the recorder below it, and stops it amidst its last fills. */
async function live(world: World, root: string): Promise<{ files: PowerLossFiles; cuts: Cut[] }> {
  const { t, upstream, images, random } = world
  const files = new PowerLossFiles(root)
  const cuts: Cut[] = []
  files.onEvent = (type) => {
    if (random() > (type === 'write' ? 0.02 : 0.2)) return
    const database = world.folder()
    copyDatabase(root, database)
    cuts.push({ moment: files.moment, database })
  }
  upstream.log.clear()
  const mirror = await startMirror(t, upstream, { root, files, partialLimits: LIMITS })
  const unfinished = [...images.values()].at(-1)!
  const leaving = new AbortController()
  for (const [repository, { manifest, layers }] of images) {
    const base = `${mirror.url}/v2/${repository}`
    await pull(`${base}/manifests/1`)
    await pull(`${base}/manifests/${manifest.digest}`)
    const pulls = layers.map(async ({ digest, bytes }) => {
      const url = `${base}/blobs/${digest}`
      if (manifest !== unfinished.manifest) return pull(url)
      const far = bytes.length > 9 * MiB ? { range: 'bytes=9000000-' } : {}
      const { body } = await request(url, { headers: far, signal: leaving.signal })
      return body.dump()
    })
    if (manifest !== unfinished.manifest) await Promise.all(pulls)
    else void Promise.allSettled(pulls)
  }
  const size = unfinished.layers.reduce((sum, { bytes }) => sum + bytes.length, 0)
  await upstream.log.until((log) => {
    const sent = unfinished.layers.map(({ digest }) => log.bytesSent({ kind: 'blob', ref: digest }))
    return sent.reduce((sum, it) => sum + it, 0) > size * 0.7
  })
  leaving.abort()
  await mirror.close()
  return { files, cuts: cuts.sort(() => random() - 0.5).slice(0, CUTS) }
}

/** What the database says is here. */
function promised(root: string): { digests: Set<string>; links: Set<string>; tags: Set<string> } {
  const database = new DatabaseSync(path.join(root, 'metadata.sqlite'))
  try {
    const column = (sql: string): Set<string> =>
      new Set(
        database
          .prepare(sql)
          .all()
          .map((row) => String(Object.values(row)[0])),
      )
    return {
      digests: column(
        'select digest from blob union select digest from blob_source union select digest from manifest',
      ),
      links: column("select repository || ' ' || digest from repository_blob"),
      tags: column('select repository from tag where deleted_at is null'),
    }
  } finally {
    database.close()
  }
}

/** Of each partial file, the bytes from 0 that its sidecar vouches for. */
function vouched(root: string, world: World): Map<string, number> {
  const { t, contents } = world
  const prefixes = new Map<string, number>()
  const folder = path.join(root, 'ingest')
  const names = existsSync(folder) ? readdirSync(folder) : []
  for (const name of names.filter((it) => it.endsWith('.json'))) {
    const part = path.join(folder, name.replace(/json$/, 'part'))
    if (!existsSync(part)) continue
    const { digest, extents } = JSON.parse(readFileSync(path.join(folder, name), 'utf8')) as {
      digest: string
      extents: [number, number][]
    }
    const { bytes } = contents.get(digest)!
    const there = readFileSync(part)
    for (const [start, end] of extents) {
      if (!there.subarray(start, end).equals(bytes.subarray(start, end))) {
        t.fail(`bytes ${start}-${end} are vouched for and are not there`, { name, size: there.length })
      }
    }
    const [first] = extents
    const prefix = first?.[0] === 0 ? first[1] : 0
    prefixes.set(digest, Math.max(prefix, prefixes.get(digest) ?? 0))
  }
  return prefixes
}

/** The blobs that are there, each of them whole. */
function blobsAtRest(root: string, { t, contents }: World): Set<string> {
  const found = new Set<string>()
  const top = path.join(root, 'blobs')
  for (const entry of existsSync(top) ? readdirSync(top, { recursive: true, withFileTypes: true }) : []) {
    if (!entry.isFile()) continue
    const { bytes } = contents.get(`sha256:${entry.name}`)!
    if (!readFileSync(path.join(entry.parentPath, entry.name)).equals(bytes))
      t.fail('a torn blob lies under its name', { name: entry.name })
    found.add(`sha256:${entry.name}`)
  }
  return found
}

function isWhole({ broken, body }: Pulled, { bytes }: Content): boolean {
  return broken === undefined && body.equals(bytes)
}

async function pullImage(world: World, mirror: Mirror, repository: string) {
  const { manifest, blobs } = world.images.get(repository)!
  const base = `${mirror.url}/v2/${repository}`
  return {
    byTag: await pull(`${base}/manifests/1`),
    byDigest: await pull(`${base}/manifests/${manifest.digest}`),
    blobs: await Promise.all(
      blobs.map(async (blob) => ({ blob, pulled: await pull(`${base}/blobs/${blob.digest}`) })),
    ),
  }
}

/** Whoever starts on `root` with no upstream gives what was promised, and nothing torn. */
async function withoutUpstream(world: World, root: string): Promise<void> {
  const { t, upstream, images } = world
  const { links, tags, digests } = promised(root)
  const there = blobsAtRest(root, world)
  for (const digest of digests)
    if (!there.has(digest)) t.fail('the database is ahead of the disk', { digest })
  await using mirror = await startMirror(t, upstream, {
    root,
    files: UNSYNCED,
    cache: { offline: true, prefetch: 'off' },
  })
  for (const [repository, { manifest }] of images) {
    const { byTag, byDigest, blobs } = await pullImage(world, mirror, repository)
    for (const pulled of [byTag, byDigest]) {
      if (pulled.status === 200 && !isWhole(pulled, manifest)) t.fail('a torn manifest was served')
    }
    if (tags.has(`docker.io/${repository}`) && byTag.status !== 200) t.fail('a tag was lost', { repository })
    for (const { blob, pulled } of blobs) {
      if (pulled.status === 200 && !isWhole(pulled, blob)) t.fail('a torn blob was served')
      const linked = links.has(`docker.io/${repository} ${blob.digest}`)
      if (linked && pulled.cache !== 'hit') t.fail('a finished blob is no hit', { status: pulled.status })
    }
  }
}

/** With upstream everything arrives, and costs what is not here. @returns how many went on from somewhere */
async function withUpstream(world: World, root: string): Promise<number> {
  const { t, upstream, images } = world
  const there = blobsAtRest(root, world)
  const prefixes = vouched(root, world)
  let resumed = 0
  upstream.log.clear()
  await using mirror = await startMirror(t, upstream, { root, files: UNSYNCED, cache: { prefetch: 'off' } })
  for (const repository of images.keys()) {
    const { byTag, byDigest, blobs } = await pullImage(world, mirror, repository)
    const { manifest } = images.get(repository)!
    if (!isWhole(byTag, manifest) || !isWhole(byDigest, manifest)) t.fail('a manifest did not arrive')
    for (const { blob, pulled } of blobs) {
      if (pulled.status !== 200 || !isWhole(pulled, blob)) t.fail('a blob did not arrive')
      const [asked] = upstream.log.of({ kind: 'blob', method: 'GET', ref: blob.digest })
      if (there.has(blob.digest)) {
        if (pulled.cache !== 'hit' || asked) t.fail('what is here was fetched', { cache: pulled.cache })
        continue
      }
      const from = Number(/^bytes=(\d+)-/.exec(asked?.headers.range ?? '')?.[1] ?? 0)
      const prefix = prefixes.get(blob.digest) ?? 0
      if (from !== Math.min(prefix, blob.bytes.length - 1)) t.fail('it went on elsewhere', { from, prefix })
      if (prefix > 0) resumed += 1
    }
  }
  await mirror.close()
  t.strictSame(readdirSync(path.join(root, 'ingest')), [], 'nothing is left half-way')
  return resumed
}

test('whenever the power goes: nothing torn, nothing lost that was finished, half ones go on', async (t) => {
  const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
  t.comment(`SEED=${seed}`)
  t.setTimeout(100_000)
  const world = new World(t, await simulate(t, { bytesPerSecond: 40 * MiB }), randomOf(seed))
  const { random } = world
  world.addImage('library/one', [900 * KiB, 40 * KiB, 10])
  let root = world.folder()
  let states = 0
  let resumed = 0
  for (let generation = 0; generation < GENERATIONS; generation++) {
    world.addImage(`library/half-${generation}`, [generation === FAR ? 10 * MiB : 3 * MiB, 1500 * KiB])
    world.upstream.set({ bytesPerSecond: 40 * MiB })
    const { files, cuts } = await live(world, root)
    world.upstream.set({ bytesPerSecond: undefined })
    const left = (to: string, cut: Cut, luck: Luck): void => {
      files.leave(to, cut.moment, luck)
      // A database that is behind the files is what a backup would give: nothing of it is wrong either.
      const { database } = cuts.findLast(({ moment }) => moment <= cut.moment && random() < 0.7) ?? cut
      copyDatabase(database, to)
    }
    for (const cut of cuts) {
      for (const luck of [NO_LUCK, ONLY_NAMES, luckOf(random() * 2 ** 31)]) {
        const folder = world.folder()
        left(folder, cut, luck)
        const copy = world.folder()
        cpSync(folder, copy, { recursive: true })
        await withoutUpstream(world, copy)
        resumed += await withUpstream(world, folder)
        for (const it of [folder, copy]) rmSync(it, { recursive: true })
        states += 1
      }
    }
    root = world.folder()
    left(root, cuts[0]!, luckOf(random() * 2 ** 31))
  }
  t.comment(`${states} states, ${resumed} fills went on`)
  t.ok(resumed > 0)
})
