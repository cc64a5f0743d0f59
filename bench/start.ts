/**
 * What years of images cost: the start, and a hot manifest, beside those of an empty folder, in turns.
 *
 *     node bench/start.ts [--blobs 200000] [--tags 20000] [--rounds 5] [--seconds 2] [--root FOLDER]
 *
 * `--root` is a folder that `bench/generate.ts` has filled, and is used as it is; without it one is made and goes
 * again. A start counts until the first answer to a client. The manifest is one and the same on both sides, asked
 * for by tag; what varies is only what else is there. A machine that does other things as well slows down either side:
 * processor time per request tells more than requests per second.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { Agent, request } from 'undici'
import { image } from '../test/support/images.ts'
import { startUpstream } from '../test/support/upstream.ts'
import { median } from './support/compare.ts'
import { Server } from './support/server.ts'
import { fillWarehouse } from './support/warehouse.ts'

const { values } = parseArgs({
  options: {
    blobs: { type: 'string', default: '200000' },
    tags: { type: 'string', default: '20000' },
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '2' },
    root: { type: 'string' },
  },
})
const rounds = Number(values.rounds)
const SLICE_MS = Number(values.seconds) * 1000
/** What is promised: a start on years of images, and the most that they may make of a hot manifest. */
const START_TARGET_MS = 1_000
const RATIO_TARGET = 1.5
const CONNECTIONS = 8
const HOT = 'library/hot/manifests/1'
/** Nobody asks upstream of a tag again, nothing is read that is not asked for, and nothing has to go. */
const CACHE = { tagTtl: '30d', maxSize: '100000GiB', minFree: '1MiB', scrubInterval: '3650d' }

interface Side {
  readonly name: 'empty' | 'full'
  readonly root: string | undefined
  readonly starts: { readyMs: number; answerMs: number; cpu: number }[]
  readonly slices: { perSecond: number; cpuMs: number; medianMs: number; p99Ms: number }[]
}

await using closing = new AsyncDisposableStack()
const upstream = closing.use(await startUpstream())
const hot = image({ seed: 'hot' })
upstream.addImage('library/hot', '1', hot)
const agent = new Agent({ connections: CONNECTIONS })
closing.defer(() => agent.close())

const sides: Side[] = [
  { name: 'empty', root: undefined, starts: [], slices: [] },
  { name: 'full', root: values.root ?? (await fill()), starts: [], slices: [] },
]
// One that does not count: the cache of stripped types, and the pages of the index.
for (let round = 0; round <= rounds; round++) {
  const servers: { side: Side; server: Server }[] = []
  await using running = new AsyncDisposableStack()
  for (const side of round % 2 === 0 ? sides : sides.toReversed()) {
    const began = performance.now()
    const server = await Server.start(upstream.url, {
      cache: CACHE,
      ...(side.root === undefined ? {} : { root: side.root }),
    })
    running.use(server)
    await ask(`${server.url}/v2/`)
    const start = { readyMs: server.readyMs, answerMs: performance.now() - began, cpu: server.cpuSeconds() }
    if (round > 0) side.starts.push(start)
    // Cached, written down, and compiled.
    for (let count = 0; count < 500; count++) await ask(`${server.url}/v2/${HOT}`, hot.manifest.bytes)
    servers.push({ side, server })
  }
  for (const { side, server } of servers) {
    const slice = await measure(server)
    if (round > 0) side.slices.push(slice)
  }
}
report()

async function fill(): Promise<string> {
  const root = mkdtempSync(path.join(tmpdir(), 'entrepot-full-'))
  closing.defer(() => rmSync(root, { recursive: true, force: true }))
  const options = { blobs: Number(values.blobs), tags: Number(values.tags) }
  const shape = { repositories: Math.ceil(options.tags / 5), pushed: Math.ceil(options.tags / 500) }
  const made = await fillWarehouse({ root, ...options, ...shape, layers: 'sparse' })
  console.log(`${String(made.blobs)} blobs and ${values.tags} tags made in ${made.seconds.toFixed(0)} s\n`)
  return root
}

async function ask(url: string, expected?: Buffer): Promise<void> {
  const { statusCode, body } = await request(url, { dispatcher: agent })
  const bytes = Buffer.from(await body.arrayBuffer())
  if (statusCode !== 200) throw new Error(`${url}: ${String(statusCode)} ${bytes.toString()}`)
  if (expected?.equals(bytes) === false) throw new Error(`${url}: wrong bytes`)
}

/** As many requests as there are connections, for so long. */
async function measure(server: Server): Promise<Side['slices'][number]> {
  const times: number[] = []
  const cpu = server.cpuSeconds()
  const began = performance.now()
  const worker = async (): Promise<void> => {
    while (performance.now() - began < SLICE_MS) {
      const asked = performance.now()
      await ask(`${server.url}/v2/${HOT}`, hot.manifest.bytes)
      times.push(performance.now() - asked)
    }
  }
  await Promise.all(Array.from({ length: CONNECTIONS }, worker))
  const seconds = (performance.now() - began) / 1000
  times.sort((one, other) => one - other)
  return {
    perSecond: times.length / seconds,
    cpuMs: ((server.cpuSeconds() - cpu) * 1000) / times.length,
    medianMs: median(times),
    p99Ms: times[Math.floor(times.length * 0.99)] ?? NaN,
  }
}

function report(): void {
  const lines = sides.map(({ name, starts, slices }) => ({
    name,
    readyMs: rounded(median(starts.map(({ readyMs }) => readyMs)), 0),
    answerMs: rounded(median(starts.map(({ answerMs }) => answerMs)), 0),
    startCpuMs: rounded(median(starts.map(({ cpu }) => cpu * 1000)), 0),
    perSecond: rounded(median(slices.map(({ perSecond }) => perSecond)), 0),
    medianMs: rounded(median(slices.map(({ medianMs }) => medianMs)), 2),
    p99Ms: rounded(median(slices.map(({ p99Ms }) => p99Ms)), 2),
    cpuMs: rounded(median(slices.map(({ cpuMs }) => cpuMs)), 3),
  }))
  const headings = ['start line', 'first answer', 'CPU', 'manifests/s', 'median ms', 'p99 ms', 'CPU ms each']
  console.log(`medians of ${String(rounds)} rounds`.padEnd(24) + headings.join('  '))
  for (const { name, ...figures } of lines) {
    const cells = Object.values(figures).map((it, at) => String(it).padStart(headings[at]?.length ?? 0))
    console.log(name.padEnd(24) + cells.join('  '))
  }
  const [empty, full] = lines
  // Of each round, not of the medians: what slows down a round slows down both.
  const ratio = (pick: (slice: Side['slices'][number]) => number): number => {
    const [fewer = [], more = []] = sides.map(({ slices }) => slices.map(pick))
    return rounded(median(more.map((it, at) => it / (fewer[at] ?? NaN))), 2)
  }
  const ratios = {
    rate: ratio(({ perSecond }) => 1 / perSecond),
    latency: ratio(({ medianMs }) => medianMs),
    cpu: ratio(({ cpuMs }) => cpuMs),
  }
  console.log(
    `\nfull : empty, a hot manifest takes ${String(ratios.latency)} times as long and ${String(ratios.cpu)} times the ` +
      `processor time (target ${String(RATIO_TARGET)}); the full start takes ${String(full?.answerMs)} ms ` +
      `(target ${String(START_TARGET_MS)})`,
  )
  console.log(JSON.stringify({ bench: 'start', rounds, ratios, empty, full }))
}

function rounded(value: number, digits: number): number {
  return Number(value.toFixed(digits))
}
