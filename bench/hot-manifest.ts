/**
 * A manifest that is here, as often as a server can say it: by tag, by digest, by HEAD, each time on a new
 * connection as dockerd does, and beside a download at full speed.
 *
 *     node bench/hot-manifest.ts [--smoke | --full] [--connections 32] [--seconds 3] [--rounds 5]
 */
import { randomBytes } from 'node:crypto'
import { request } from 'undici'
import { ColdSource } from './support/cold-source.ts'
import {
  atLeast,
  atMost,
  compare,
  ratio,
  report,
  type Figures,
  type Goal,
  type Row,
} from './support/compare.ts'
import { heads } from './support/heads.ts'
import { startRegistries, type Peer } from './support/peers.ts'
import { pushImage, TYPE } from './support/pushing.ts'
import { sized } from './support/sizes.ts'
import { loopGoal, spending } from './support/spent.ts'
import { wrk } from './support/wrk.ts'

const { connections, seconds, rounds } = sized({
  smoke: { connections: 8, seconds: 1, rounds: 1 },
  small: { connections: 32, seconds: 1, rounds: 3 },
  full: { connections: 32, seconds: 3, rounds: 7 },
})
const NAME = 'bench/hot'
const LAYER_BYTES = 64 * 2 ** 20
/** What is ready to be filled when a round begins, for each of its seconds. */
const LAYERS_PER_SECOND = 4
/** This is how much of its requests per second is to be reached tenfold. */
const RIVAL = 'docker-registry'
const accept = `Accept: ${TYPE}`

await using closing = new AsyncDisposableStack()
const peers = await startRegistries(['entrepot', 'docker-registry', 'distribution', 'zot'])
let digest = ''
for (const peer of peers) {
  closing.use(peer)
  digest = await pushImage(peer.url, NAME, 'latest', 'hot')
}

const ways = [
  { way: 'by tag', target: 'latest' },
  { way: 'by digest', target: digest },
  { way: 'by HEAD', target: 'latest', load: heads },
  { way: 'on new connections', target: 'latest', headers: ['Connection: close'] },
]
for (const { way, target, load, headers = [] } of ways) {
  const rows = await compare(peers, rounds, (peer) => measure(peer, target, { headers, load }))
  tell(way, rows)
}

// Each fills from an upstream of its own meanwhile; what it fills from must not be what limits it.
await using source = await ColdSource.start()
await using mirrors = new AsyncDisposableStack()
const filling = await startRegistries(['entrepot', 'docker-registry', 'distribution'], source.url)
for (const peer of filling) mirrors.use(peer)
const { digest: image } = await source.image(NAME, 'latest', [1000], 'hot')
for (const { url } of filling) await get(`${url}/v2/${NAME}/manifests/latest`, { accept: TYPE })
for (const [way, headers] of [
  ['beside a fill', []],
  ['on new connections, beside a fill', ['Connection: close']],
] as const) {
  const rows = await compare(filling, rounds, async (peer) => {
    const layers = []
    for (let at = 0; at < seconds * LAYERS_PER_SECOND; at++) layers.push(await newLayer())
    const leave = new AbortController()
    const fill = fillOn(peer, layers, leave.signal)
    const figures = await measure(peer, image, { headers })
    leave.abort()
    const bytesPerSecond = await fill
    await source.forget()
    return { ...figures, 'MB/s filled': bytesPerSecond / 1e6 }
  })
  tell(way, rows)
}

function tell(way: string, rows: readonly Row[]): void {
  const goals = goalsOf(rows)
  report({ bench: `hot-manifest ${way}`, what: `${String(connections)} connections`, rows, goals })
}

function goalsOf(rows: readonly Row[]): Goal[] {
  const [ours, rival] = ['entrepot', RIVAL].map((name) => rows.find((row) => row.name === name))
  if (ours === undefined) throw new Error('nothing of entrepot was measured')
  return [
    ...(rival === undefined ? [] : [atLeast(`requests/s, of ${RIVAL}`, ratio(ours, rival, 'req/s'), 10)]),
    atMost('ms until the answer, p99', ours.figures['p99 ms'] ?? NaN, 25),
    loopGoal(rows),
  ]
}

async function measure(
  peer: Peer,
  target: string,
  { headers, load = wrk }: { headers: readonly string[]; load?: typeof wrk | undefined },
): Promise<Figures> {
  const { result, cpuSeconds, figures } = await spending(peer, () =>
    load(`${peer.url}/v2/${NAME}/manifests/${target}`, {
      ...{ connections, seconds },
      headers: [accept, ...headers],
    }),
  )
  if (result.errors > 0) throw new Error(`${peer.name}: ${String(result.errors)} errors`)
  return {
    'req/s': result.requestsPerSecond,
    'p50 ms': result.p50Ms,
    'p99 ms': result.p99Ms,
    'CPU ms/req': (cpuSeconds * 1000) / (result.requestsPerSecond * seconds),
    ...figures,
  }
}

function newLayer(): Promise<string> {
  return source.blob(NAME, LAYER_BYTES, randomBytes(8).toString('hex'))
}

/** One cold layer after the other, until it is told to leave. @returns bytes per second */
async function fillOn(peer: Peer, layers: readonly string[], signal: AbortSignal): Promise<number> {
  const began = performance.now()
  const waiting = [...layers]
  let bytes = 0
  const left = (): boolean => signal.aborted
  while (!left()) {
    const layer = waiting.shift() ?? (await newLayer())
    try {
      const { body } = await request(`${peer.url}/v2/${NAME}/blobs/${layer}`, { signal })
      for await (const chunk of body as AsyncIterable<Buffer>) bytes += chunk.length
    } catch (error) {
      if (!left()) throw error
    }
  }
  return bytes / ((performance.now() - began) / 1000)
}

async function get(url: string, headers: Record<string, string>): Promise<void> {
  const { body } = await request(url, { headers })
  await body.dump({ limit: Infinity })
}
