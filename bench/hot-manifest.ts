/**
 * A manifest that is here, as often as a server can say it: by tag, by digest, by HEAD, each time on a new
 * connection as dockerd does, and beside a download at full speed.
 *
 *     node bench/hot-manifest.ts [--smoke | --full] [--connections 32] [--seconds 3] [--rounds 5]
 */
import { randomBytes } from 'node:crypto'
import { request } from 'undici'
import { compare, report, type Figures } from './support/compare.ts'
import { ColdSource } from './support/cold-source.ts'
import { startRegistries, type Peer } from './support/peers.ts'
import { pushImage, TYPE } from './support/pushing.ts'
import { sized } from './support/sizes.ts'
import { spending } from './support/spent.ts'
import { wrk } from './support/wrk.ts'

const { connections, seconds, rounds } = sized({
  smoke: { connections: 8, seconds: 1, rounds: 1 },
  small: { connections: 32, seconds: 1, rounds: 3 },
  full: { connections: 32, seconds: 3, rounds: 7 },
})
const NAME = 'bench/hot'
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
  { way: 'HEAD', target: 'latest', method: 'HEAD' as const },
  { way: 'new connections', target: 'latest', headers: ['Connection: close'] },
]
for (const { way, target, method, headers = [] } of ways) {
  const rows = await compare(peers, rounds, (peer) =>
    measure(peer, target, { headers: [accept, ...headers], ...(method === undefined ? {} : { method }) }),
  )
  report({ bench: `hot-manifest ${way}`, what: `${String(connections)} connections`, rows })
}

// Each fills from an upstream of its own meanwhile; what it fills from must not be what limits it.
await using source = await ColdSource.start()
await using mirrors = new AsyncDisposableStack()
const filling = await startRegistries(['entrepot', 'docker-registry', 'distribution'], source.url)
for (const peer of filling) mirrors.use(peer)
const { digest: image } = await source.image(NAME, 'latest', [1000], 'hot')
for (const { url } of filling) await get(`${url}/v2/${NAME}/manifests/latest`, { accept: TYPE })
const rows = await compare(filling, rounds, async (peer) => {
  const leave = new AbortController()
  const load = fillOn(peer, leave.signal)
  const figures = await measure(peer, image, { headers: [accept] })
  leave.abort()
  await load
  return figures
})
report({ bench: 'hot-manifest beside a fill', what: `${String(connections)} connections`, rows })

async function measure(
  peer: Peer,
  target: string,
  options: { headers: readonly string[]; method?: 'HEAD' },
): Promise<Figures> {
  const { result, cpuSeconds, figures } = await spending(peer, () =>
    wrk(`${peer.url}/v2/${NAME}/manifests/${target}`, { connections, seconds, ...options }),
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
