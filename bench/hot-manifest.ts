/**
 * A manifest that is here, as often as a server can say it: by tag, by digest, by HEAD, each time on a new
 * connection as dockerd does, and beside a download at full speed.
 *
 *     node bench/hot-manifest.ts [--connections 32] [--seconds 3] [--rounds 5]
 */
import { randomBytes } from 'node:crypto'
import { parseArgs } from 'node:util'
import { request } from 'undici'
import { compare, report, type Figures } from './support/compare.ts'
import { ColdSource } from './support/cold-source.ts'
import { startRegistries, type Peer } from './support/peers.ts'
import { pushImage, TYPE } from './support/pushing.ts'
import { wrk } from './support/wrk.ts'

const { values } = parseArgs({
  options: {
    connections: { type: 'string', default: '32' },
    seconds: { type: 'string', default: '3' },
    rounds: { type: 'string', default: '5' },
  },
})
const connections = Number(values.connections)
const seconds = Number(values.seconds)
const NAME = 'bench/hot'
const accept = `Accept: ${TYPE}`

await using closing = new AsyncDisposableStack()
const peers = await startRegistries(['entrepot', 'docker-registry', 'distribution'])
let digest = ''
for (const peer of peers) {
  closing.use(peer)
  digest = await pushImage(peer.url, NAME, 'latest', 'hot')
}

const ways = [
  { way: 'by tag', target: 'latest' },
  { way: 'by digest', target: digest },
  { way: 'HEAD', target: 'latest', method: 'HEAD' as const },
  { way: 'new connections', target: 'latest', headers: ['Connection: close'] },
]
for (const { way, target, method, headers = [] } of ways) {
  const rows = await compare(peers, Number(values.rounds), (peer) =>
    measure(peer, target, { headers: [accept, ...headers], ...(method === undefined ? {} : { method }) }),
  )
  report({ bench: `hot-manifest ${way}`, what: `${values.connections} connections`, rows })
}

// Each fills from an upstream of its own meanwhile; what it fills from must not be what limits it.
await using source = await ColdSource.start()
await using mirrors = new AsyncDisposableStack()
const filling = await startRegistries(['entrepot', 'docker-registry', 'distribution'], source.url)
for (const peer of filling) mirrors.use(peer)
const { digest: image } = await source.image(NAME, 'latest', [1000], 'hot')
for (const { url } of filling) await get(`${url}/v2/${NAME}/manifests/latest`, { accept: TYPE })
const rows = await compare(filling, Number(values.rounds), async (peer) => {
  const leave = new AbortController()
  const load = fillOn(peer, leave.signal)
  const figures = await measure(peer, image, { headers: [accept] })
  leave.abort()
  await load
  return figures
})
report({ bench: 'hot-manifest beside a fill', what: `${values.connections} connections`, rows })

async function measure(
  peer: Peer,
  target: string,
  options: { headers: readonly string[]; method?: 'HEAD' },
): Promise<Figures> {
  const cpu = peer.cpuSeconds()
  const load = await wrk(`${peer.url}/v2/${NAME}/manifests/${target}`, { connections, seconds, ...options })
  if (load.errors > 0) throw new Error(`${peer.name}: ${String(load.errors)} errors`)
  const requests = load.requestsPerSecond * seconds
  return {
    'req/s': load.requestsPerSecond,
    'p50 ms': load.p50Ms,
    'p99 ms': load.p99Ms,
    'CPU ms/req': ((peer.cpuSeconds() - cpu) * 1000) / requests,
    'peak MiB': peer.peakBytes() / 2 ** 20,
  }
}

/** One cold layer after the other, until it is told to leave. */
async function fillOn(peer: Peer, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    const layer = await source.blob(NAME, 64 * 2 ** 20, randomBytes(8).toString('hex'))
    await get(`${peer.url}/v2/${NAME}/blobs/${layer}`, {}, signal).catch(() => undefined)
    await source.forget()
  }
}

async function get(url: string, headers: Record<string, string>, signal?: AbortSignal): Promise<void> {
  const { body } = await request(url, { headers, ...(signal === undefined ? {} : { signal }) })
  await body.dump({ limit: Infinity })
}
