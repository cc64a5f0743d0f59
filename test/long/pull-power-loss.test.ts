/** The whole program on a disk that loses what was not synced. */
import { cpSync, mkdirSync, rmSync } from 'node:fs'
import path from 'node:path'
import { test, type Test } from 'tap'
import { request } from 'undici'
import { nodeFiles, type Files } from '../../src/storage/files/files.ts'
import { pull, simulate, startMirror, type Mirror, type Pulled } from '../support/app.ts'
import { copyDatabase, lookAtRest, partialsIn } from '../support/at-rest.ts'
import { image, type Content, type Image } from '../support/images.ts'
import { luckOf, NO_LUCK, randomOf, SHORT_FILES, ZEROS, type Luck } from '../support/power-loss-luck.ts'
import { PowerLossFiles } from '../support/power-loss.ts'
import type { UpstreamSimulator } from '../support/upstream.ts'

const KiB = 1024
const MiB = 1024 * KiB

/** Lives in a row, each begun on what the power left of the one before. */
const LIVES = 3
/** Moments of each after which somebody starts on what is left, and further ones of which only that is looked at. */
const STARTS = 2
const LOOKS = 15
/** In this one a reader is far ahead of the rest. */
const FAR_AHEAD = 2

/** Under those who look at what is left: no power goes in their time. */
const UNSYNCED: Files = {
  ...nodeFiles,
  datasync: () => Promise.resolve(),
  syncFolder: () => Promise.resolve(),
}

/** A moment when the power goes, and the database as it was then: that one is not written through the recorder. */
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
  readonly faults: string[] = []
  resumed = 0
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

/** A reader far ahead, when it is worth a run of its own, and one that leaves half-way. */
async function pullHalf(url: string, size: number): Promise<void> {
  const far = size > 9 * MiB ? pull(url, { range: 'bytes=10000000-10300000' }) : undefined
  const { body } = await request(url)
  let received = 0
  for await (const chunk of body) {
    received += (chunk as Buffer).length
    if (received > size / 2) break
  }
  await far
}

/** Pulls through an entrepot on `root`, with the recorder below it, and stops it amidst its last fills. */
async function live(world: World, root: string, files: PowerLossFiles): Promise<{ cuts: Cut[]; end: Cut }> {
  const { t, upstream, images, random } = world
  const cuts: Cut[] = []
  const cut = (): Cut => {
    const database = world.folder()
    copyDatabase(root, database)
    return { moment: files.moment, database }
  }
  files.onEvent = (type) => {
    // A new name is a promise.
    if (random() < ({ rename: 0.8, write: 0.02 }[type as string] ?? 0.15)) cuts.push(cut())
  }
  upstream.log.clear()
  upstream.set({ bytesPerSecond: 40 * MiB })
  const partialLimits = { saveEvery: 128 * KiB }
  const mirror = await startMirror(t, upstream, { root, files, partialLimits })
  const unfinished = [...images.keys()].at(-1)!
  const { layers } = images.get(unfinished)!
  const [slow] = layers
  const hanging = upstream.fault(
    { kind: 'blob', ref: slow!.digest },
    { hang: 'midBody', hangAfterBytes: Math.floor(slow!.bytes.length * 0.8) },
  )
  for (const [repository, { manifest, layers }] of images) {
    const base = `${mirror.url}/v2/${repository}`
    await pull(`${base}/manifests/1`)
    await pull(`${base}/manifests/${manifest.digest}`)
    await Promise.all(
      layers.map(({ digest, bytes }) => {
        const url = `${base}/blobs/${digest}`
        return digest === slow!.digest ? pullHalf(url, bytes.length) : pull(url)
      }),
    )
  }
  await mirror.close()
  hanging.remove()
  upstream.set({ bytesPerSecond: undefined })
  return { cuts: cuts.sort(() => random() - 0.5).slice(0, STARTS + LOOKS), end: cut() }
}

function isWhole({ status, broken, body }: Pulled, { bytes }: Content): boolean {
  return status === 200 && broken === undefined && body.equals(bytes)
}

async function pullImage(world: World, mirror: Mirror, repository: string) {
  const { manifest, blobs } = world.images.get(repository)!
  const base = `${mirror.url}/v2/${repository}`
  return {
    manifests: [await pull(`${base}/manifests/1`), await pull(`${base}/manifests/${manifest.digest}`)],
    blobs: await Promise.all(
      blobs.map(async (blob) => ({ blob, pulled: await pull(`${base}/blobs/${blob.digest}`) })),
    ),
  }
}

/** Who starts on `root` with no upstream gives what was promised, and nothing torn. */
async function examineOffline(world: World, root: string): Promise<string[]> {
  const { links, tags, faults } = lookAtRest(root, world.contents)
  const found = [...faults]
  await using mirror = await startMirror(world.t, world.upstream, {
    root,
    files: UNSYNCED,
    cache: { offline: true, prefetch: 'off' },
  })
  for (const [repository, { manifest }] of world.images) {
    const { manifests, blobs } = await pullImage(world, mirror, repository)
    for (const pulled of manifests) {
      if (pulled.status === 200 && !isWhole(pulled, manifest)) found.push('a torn manifest was served')
    }
    if (tags.has(`docker.io/${repository} 1`) && manifests[0]?.status !== 200) found.push('a tag was lost')
    for (const { blob, pulled } of blobs) {
      if (pulled.status === 200 && !isWhole(pulled, blob)) found.push('a torn blob was served')
      const linked = links.has(`docker.io/${repository} ${blob.digest}`)
      if (linked && pulled.cache !== 'hit') found.push(`a finished blob is ${pulled.status} without upstream`)
    }
  }
  return found
}

/** With upstream everything arrives, and costs no more than what is not here. */
async function examineOnline(world: World, root: string): Promise<string[]> {
  const { t, upstream, images } = world
  const { blobs: there, prefixes, faults } = lookAtRest(root, world.contents)
  const found = [...faults]
  upstream.log.clear()
  await using mirror = await startMirror(t, upstream, { root, files: UNSYNCED, cache: { prefetch: 'off' } })
  for (const [repository, { manifest }] of images) {
    const { manifests, blobs } = await pullImage(world, mirror, repository)
    if (!manifests.every((pulled) => isWhole(pulled, manifest))) found.push('a manifest did not arrive')
    for (const { blob, pulled } of blobs) {
      if (!isWhole(pulled, blob)) found.push(`a blob did not arrive: ${pulled.status}`)
      const [asked] = upstream.log.of({ kind: 'blob', method: 'GET', ref: blob.digest })
      if (there.has(blob.digest)) {
        if (pulled.cache !== 'hit' || asked) found.push(`a blob that is here was a ${pulled.cache}`)
        continue
      }
      const from = Number(/^bytes=(\d+)-/.exec(asked?.headers.range ?? '')?.[1] ?? 0)
      const prefix = prefixes.get(blob.digest) ?? 0
      // Of a blob that is here to its end upstream is asked for the last byte: does it still give it?
      if (from !== Math.min(prefix, blob.bytes.length - 1))
        found.push(`of ${prefix} bytes it went on at ${from}`)
      if (prefix > 0) world.resumed += 1
    }
  }
  await mirror.close()
  return [...found, ...partialsIn(root).map((name) => `left behind: ${name}`)]
}

test('whenever the power goes: nothing torn, nothing lost that was finished, half ones go on', async (t) => {
  const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
  t.comment(`SEED=${seed}`)
  t.setTimeout(600_000)
  const world = new World(t, await simulate(t), randomOf(seed))
  const { random } = world
  world.addImage('library/whole', [900 * KiB, 40 * KiB, 10])
  let root = world.folder()
  for (let life = 0; life < LIVES; life++) {
    world.addImage(`library/half-${life}`, [life === FAR_AHEAD ? 10 * MiB : 3 * MiB, 1500 * KiB])
    const files = new PowerLossFiles(root)
    const { cuts, end } = await live(world, root, files)
    const leave = (cut: Cut, luck: Luck): string => {
      const folder = world.folder()
      files.leave(folder, cut.moment, luck)
      // A database that is behind the files, as from a backup: nothing of that is wrong either.
      const behind = random() < 0.3 ? cuts.find(({ moment }) => moment < cut.moment) : undefined
      copyDatabase((behind ?? cut).database, folder)
      return folder
    }
    const lucks = (): Record<string, Luck> => ({
      NO_LUCK,
      SHORT_FILES,
      ZEROS,
      some: luckOf(random() * 2 ** 31),
    })

    for (const cut of cuts.slice(STARTS)) {
      for (const [name, luck] of Object.entries(lucks())) {
        const folder = leave(cut, luck)
        const { faults } = lookAtRest(folder, world.contents)
        t.strictSame(faults, [], `at rest: life ${life}, moment ${cut.moment} of ${end.moment}, ${name}`)
        rmSync(folder, { recursive: true })
      }
    }
    for (const cut of [...cuts.slice(0, STARTS), end]) {
      for (const [name, luck] of Object.entries(lucks())) {
        // When all was closed in order little is left to luck.
        if (cut === end && name !== 'NO_LUCK') continue
        const folder = leave(cut, luck)
        const copy = world.folder()
        cpSync(folder, copy, { recursive: true })
        const { resumed } = world
        const faults = [...(await examineOffline(world, copy)), ...(await examineOnline(world, folder))]
        if (cut === end && world.resumed === resumed) faults.push('what was kept at the end did not go on')
        t.strictSame(faults, [], `started: life ${life}, moment ${cut.moment} of ${end.moment}, ${name}`)
        for (const it of [folder, copy]) rmSync(it, { recursive: true })
      }
    }
    root = leave(cuts[0]!, luckOf(random() * 2 ** 31))
  }
  t.ok(world.resumed > 0, `${world.resumed} fills went on`)
})

test('a disk that calls synced what is not is found out by these looks', async (t) => {
  class LyingFiles extends PowerLossFiles {
    override datasync(): Promise<void> {
      return Promise.resolve()
    }
  }
  const world = new World(t, await simulate(t), randomOf(1))
  world.addImage('library/whole', [900 * KiB, 40 * KiB, 10])
  world.addImage('library/half', [3 * MiB])
  const root = world.folder()
  const files = new LyingFiles(root)
  const { end } = await live(world, root, files)
  const folder = world.folder()
  files.leave(folder, end.moment, NO_LUCK)
  copyDatabase(end.database, folder)
  const { faults } = lookAtRest(folder, world.contents)
  t.match(faults, [/torn blob/])
  t.ok(faults.some((fault) => /vouches|cannot be read/.test(fault)))
})
