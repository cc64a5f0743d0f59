/**
 * What years of images cost: the start, and a hot manifest, beside those of an empty folder, in turns.
 *
 *     node bench/start.ts [--smoke | --full] [--blobs 200000] [--tags 20000] [--rounds 5] [--seconds 2] [--root FOLDER]
 *
 * `--root` is a folder that `bench/generate.ts` has filled, and is used as it is; without it one is made and goes
 * again. A start counts until the first answer to a client. The manifest is one and the same on both sides, asked
 * for by tag; what varies is only what else is there. A machine that does other things as well slows down either side:
 * processor time per request tells more than requests per second.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { Agent, request } from 'undici'
import { image } from '../test/support/images.ts'
import { startUpstream } from '../test/support/upstream.ts'
import {
  atMost,
  compare,
  median,
  ratio,
  report,
  type Figures,
  type Goal,
  type Row,
} from './support/compare.ts'
import { Server } from './support/server.ts'
import { sized } from './support/sizes.ts'
import { loopGoal, spending } from './support/spent.ts'
import { fillWarehouse } from './support/warehouse.ts'

const { blobs, tags, rounds, seconds, root } = sized({
  smoke: { blobs: 1000, tags: 100, rounds: 1, seconds: 0.5, root: '' },
  small: { blobs: 20_000, tags: 2000, rounds: 3, seconds: 2, root: '' },
  full: { blobs: 200_000, tags: 20_000, rounds: 5, seconds: 3, root: '' },
})
/** What is promised: a start on years of images, and the most that they may make of a hot manifest. */
const START_TARGET_MS = 1_000
const RATIO_TARGET = 1.5
const CONNECTIONS = 8
const HOT = 'library/hot/manifests/1'
/** Nobody asks upstream of a tag again, nothing is read that is not asked for, and nothing has to go. */
const CACHE = { tagTtl: '30d', maxSize: '100000GiB', minFree: '1MiB', scrubInterval: '3650d' }

interface Side {
  readonly name: 'entrepot empty' | 'entrepot full'
  readonly root?: string
}

await using closing = new AsyncDisposableStack()
const upstream = closing.use(await startUpstream())
const hot = image({ seed: 'hot' })
upstream.addImage('library/hot', '1', hot)
const agent = new Agent({ connections: CONNECTIONS })
closing.defer(() => agent.close())

const sides: readonly Side[] = [
  { name: 'entrepot empty' },
  { name: 'entrepot full', root: root === '' ? await fill() : root },
]
const rows = await compare(sides, rounds, startAndAsk)
report({
  bench: 'start',
  what: `with ${String(blobs)} blobs and ${String(tags)} tags, medians of ${String(rounds)} rounds`,
  rows,
  goals: goalsOf(rows),
})

async function fill(): Promise<string> {
  const made = mkdtempSync(path.join(tmpdir(), 'entrepot-full-'))
  closing.defer(() => rmSync(made, { recursive: true, force: true }))
  const shape = { repositories: Math.ceil(tags / 5), pushed: Math.ceil(tags / 500) }
  const filled = await fillWarehouse({ root: made, blobs, tags, ...shape, layers: 'sparse' })
  console.log(`${String(filled.blobs)} blobs and ${String(tags)} tags made in ${filled.seconds.toFixed(0)} s`)
  return made
}

async function startAndAsk({ name, root: filled }: Side): Promise<Figures> {
  const began = performance.now()
  await using server = await Server.start(upstream.url, {
    cache: CACHE,
    ...(filled === undefined ? {} : { root: filled }),
  })
  await ask(`${server.url}/v2/`)
  const answerMs = performance.now() - began
  const startCpu = server.cpuSeconds()
  // Cached, written down, and compiled.
  for (let count = 0; count < 500; count++) await ask(`${server.url}/v2/${HOT}`, hot.manifest.bytes)
  const { result, cpuSeconds, figures } = await spending(
    {
      ...{ name, url: server.url },
      ...{ cpuSeconds: () => server.cpuSeconds(), peakBytes: () => server.peakResidentBytes },
    },
    () => askOn(server),
  )
  const times = result.toSorted((one, other) => one - other)
  return {
    'line ms': server.readyMs,
    'answer ms': answerMs,
    'start CPU ms': startCpu * 1000,
    'req/s': times.length / seconds,
    'p50 ms': median(times),
    'p99 ms': times[Math.floor(times.length * 0.99)] ?? NaN,
    'CPU ms/req': (cpuSeconds * 1000) / times.length,
    ...figures,
  }
}

/** As many requests as there are connections, for so long. @returns how long each took */
async function askOn(server: Server): Promise<number[]> {
  const times: number[] = []
  const began = performance.now()
  const worker = async (): Promise<void> => {
    while (performance.now() - began < seconds * 1000) {
      const asked = performance.now()
      await ask(`${server.url}/v2/${HOT}`, hot.manifest.bytes)
      times.push(performance.now() - asked)
    }
  }
  await Promise.all(Array.from({ length: CONNECTIONS }, worker))
  return times
}

function goalsOf(rows: readonly Row[]): Goal[] {
  const [empty, full] = rows
  if (empty === undefined || full === undefined) throw new Error('nothing was measured')
  return [
    atMost(
      `ms to the first answer with ${String(blobs)} blobs`,
      full.figures['answer ms'] ?? NaN,
      START_TARGET_MS,
    ),
    atMost('time of a hot manifest, of that beside nothing', ratio(full, empty, 'p50 ms'), RATIO_TARGET),
    atMost('CPU of a hot manifest, of that beside nothing', ratio(full, empty, 'CPU ms/req'), RATIO_TARGET),
    loopGoal(rows),
  ]
}

async function ask(url: string, expected?: Buffer): Promise<void> {
  const { statusCode, body } = await request(url, { dispatcher: agent })
  const bytes = Buffer.from(await body.arrayBuffer())
  if (statusCode !== 200) throw new Error(`${url}: ${String(statusCode)} ${bytes.toString()}`)
  if (expected?.equals(bytes) === false) throw new Error(`${url}: wrong bytes`)
}
