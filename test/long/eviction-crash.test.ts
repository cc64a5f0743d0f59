/** A real entrepot over its budget, killed again and again in the midst of fills and evictions. */
import { existsSync, readdirSync, statSync } from 'node:fs'
import path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'tap'
import { eventually, pull, simulate } from '../support/app.ts'
import { image, type Image } from '../support/images.ts'
import { randomOf } from '../support/power-loss-luck.ts'
import { Entrepot } from '../support/process.ts'
import { pushImage } from '../support/push.ts'

const KiB = 1024
const MiB = 1024 * KiB
const BUDGET = 12 * MiB
const KILLS = 4

/** What upstreams answered beside content: it counts in the budget, and is in the index itself. */
function inIndex(root: string): number {
  const database = new DatabaseSync(path.join(root, 'metadata.sqlite'), { readOnly: true })
  try {
    const row = database.prepare('select coalesce(sum(weight), 0) as weight from upstream_answer').get()
    return Number(row?.['weight'])
  } finally {
    database.close()
  }
}

/** As `du --apparent-size` counts: blobs, and what there is of downloads. */
function onDisk(root: string): number {
  const sizes = ['blobs', 'ingest'].flatMap((folder) => {
    const full = path.join(root, folder)
    if (!existsSync(full)) return []
    return (
      readdirSync(full, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile() && !/^upload-|\.json/.test(entry.name))
        // It may go while we look.
        .map(
          (entry) => statSync(path.join(entry.parentPath, entry.name), { throwIfNoEntry: false })?.size ?? 0,
        )
    )
  })
  return sizes.reduce((sum, size) => sum + size, 0)
}

async function pullImage(url: string, name: string, { blobs }: Image): Promise<void> {
  const get = async (what: string): Promise<unknown> =>
    pull(`${url}/v2/library/${name}/${what}`).catch(() => undefined)
  await get('manifests/1')
  await Promise.all(blobs.map(({ digest }) => get(`blobs/${digest}`)))
}

test('killed wherever it is, it reckons with what is on the disk', async (t) => {
  const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
  t.comment(`SEED=${seed}`)
  t.setTimeout(600_000)
  const random = randomOf(seed)
  const upstream = await simulate(t, { bytesPerSecond: 20 * MiB })
  const dir = t.testdir()
  const root = path.join(dir, 'data')
  const config = {
    cache: { maxSize: String(BUDGET), minFree: '0' },
    upstreams: { 'docker.io': { url: upstream.url, default: true } },
  }
  const own = image({ layers: [300 * KiB, 200 * KiB], seed: 'own' })
  const names: string[] = []
  const images = new Map<string, Image>()
  const agrees = async (entrepot: Entrepot): Promise<void> => {
    let last: unknown
    await eventually('what is reckoned is what is there', async () => {
      const reckoned = await entrepot.metric('entrepot_cache_bytes')
      const pushed = await entrepot.metric('entrepot_pushed_bytes')
      const evicted = await entrepot.metric('entrepot_fills_in_flight')
      const there = onDisk(root) + inIndex(root)
      last = { reckoned, pushed, there, evicted }
      return evicted === 0 && reckoned + pushed === there
    }).catch((error: unknown) => t.fail(String(error), { last }))
  }

  let evictions = 0
  for (let life = 0; life < KILLS; life++) {
    const entrepot = await Entrepot.start(t, { dir, config })
    await agrees(entrepot)
    if (life === 0) await pushImage(`${entrepot.url}/v2/team/own`, own, '1')
    for (let at = 0; at < 6; at++) {
      const name = `image-${life}-${at}`
      // Six of them are more than the budget.
      const layers = [(2 + random()) * MiB, random() * 300 * KiB, random() * KiB].map(Math.ceil)
      images.set(name, image({ layers, seed: `${seed}/${name}` }))
      names.push(name)
      upstream.addImage(`library/${name}`, '1', images.get(name)!)
    }
    const pulls = names.slice(-8).map((name) => pullImage(entrepot.url, name, images.get(name)!))
    // Every other life ends at or soon after an eviction, the others wherever they are.
    const evicts = life % 2 === 0
    if (evicts) await entrepot.logged('evicted')
    await sleep(random() * (evicts ? 150 : 500))
    evictions += entrepot.log.filter(({ msg }) => msg === 'evicted').length
    entrepot.program.kill('SIGKILL')
    await entrepot.program.exited
    await Promise.all(pulls)
  }
  t.ok(evictions >= KILLS / 2, `${evictions} evictions`)

  const entrepot = await Entrepot.start(t, { dir, config })
  await agrees(entrepot)
  const name = names.at(-1)!
  await pullImage(entrepot.url, name, images.get(name)!)
  await agrees(entrepot)
  // What is in use does not go, and is looked for again when it may be so no more.
  await eventually('it keeps to its budget', async () => {
    return (await entrepot.metric('entrepot_cache_bytes')) <= BUDGET
  })
  for (const { digest, bytes } of own.blobs) {
    const pulled = await pull(`${entrepot.url}/v2/team/own/blobs/${digest}`)
    t.ok(pulled.body.equals(bytes), 'what was pushed is all there')
  }
  for (const [name, it] of [...images].slice(0, 6)) {
    const base = `${entrepot.url}/v2/library/${name}`
    for (const { digest, bytes } of it.blobs) {
      await pull(`${base}/manifests/1`)
      t.ok((await pull(`${base}/blobs/${digest}`)).body.equals(bytes), 'whatever has gone is pulled again')
    }
  }
  await agrees(entrepot)
  await entrepot.program.stop()
})
