/**
 * What nobody here has yet: one large layer, and an image pulled three layers at a time, from an upstream that gives
 * each connection little, one that gives all together some, and one that gives what it can. Straight from upstream,
 * through entrepot (also with one connection to each layer), through registries as mirrors, and through nginx as a cache.
 *
 *     node bench/cold.ts [--smoke | --full] [--layer 160] [--layers 6] [--each 48] [--connection 20] [--all 150]
 *                        [--warmUps 1] [--rounds 2]
 *                        [--only layer,image,limited,unlimited] [--without docker-registry,nginx]
 *                                                                                                    (MiB, MB/s)
 */
import { readdirSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { request } from 'undici'
import { atLeast, atMost, compare, report, type Figures, type Goal, type Row } from './support/compare.ts'
import { ColdSource, type SourceSpeed } from './support/cold-source.ts'
import { Herd } from './support/herd.ts'
import { startRegistries, type Peer } from './support/peers.ts'
import { sized, without } from './support/sizes.ts'
import { isOurs, spending } from './support/spent.ts'

const MiB = 2 ** 20
const NAME = 'library/cold'
const TYPE = 'application/vnd.oci.image.manifest.v1+json'

const only = 'layer,image,limited,unlimited'
const options = sized({
  smoke: { layer: 40, layers: 3, each: 8, connection: 100, all: 300, warmUps: 0, rounds: 1, only },
  small: { layer: 160, layers: 6, each: 24, connection: 20, all: 150, warmUps: 1, rounds: 2, only },
  full: { layer: 160, layers: 6, each: 48, connection: 20, all: 150, warmUps: 2, rounds: 5, only },
})
const { layer, layers, each, connection, all, warmUps, rounds } = options
const parts = options.only.split(',')

await using source = await ColdSource.start()
await using client = new Herd()
await using peers = new AsyncDisposableStack()
const names = ['entrepot', 'entrepot-whole', 'docker-registry', 'distribution', 'nginx']
const registries = await startRegistries(
  names.filter((name) => !without.includes(name)),
  source.url,
)
for (const peer of registries) peers.use(peer)
/** Nobody in between: what the client and upstream cost is in every row. */
const direct: Peer = {
  ...{ name: 'direct', url: source.url, folder: '', pid: undefined },
  cpuSeconds: () => NaN,
  peakBytes: () => NaN,
  [Symbol.asyncDispose]: () => Promise.resolve(),
}
const candidates = [direct, ...registries]

let images = 0
// What runs for the first time is not what runs for hours.
for (const peer of candidates) {
  await pullCold(peer, [4 * MiB], { lanes: 1, check: true })
  for (let warm = 0; warm < warmUps; warm++) await pullCold(peer, [layer * MiB], { lanes: 1 })
}

const eachConnection = `${String(connection)} MB/s a connection`
if (parts.includes('layer')) {
  const rows = await bench([layer * MiB], 1, { perConnection: connection * 1e6 })
  report({
    bench: 'cold-layer',
    what: `one layer of ${String(layer)} MiB, ${eachConnection}`,
    rows,
    goals: quicker(rows, 3),
  })
}
if (parts.includes('image')) {
  const sizes = Array<number>(layers).fill(each * MiB)
  const rows = await bench(sizes, 3, { perConnection: connection * 1e6 })
  const what = `${String(layers)} layers of ${String(each)} MiB, three at a time, ${eachConnection}`
  report({ bench: 'cold-image', what, rows, goals: quicker(rows, 1.5) })
}
if (parts.includes('limited')) {
  const rows = await bench([layer * MiB], 1, { inAll: all * 1e6 })
  const what = `one layer of ${String(layer)} MiB, ${String(all)} MB/s in all`
  report({ bench: 'cold-limited', what, rows, goals: asQuick(rows) })
}
if (parts.includes('unlimited')) {
  const rows = await bench([layer * MiB], 1, {})
  const what = `one layer of ${String(layer)} MiB, as fast as upstream can`
  report({ bench: 'cold-unlimited', what, rows, goals: [loop(rows)] })
}

async function bench(sizes: readonly number[], lanes: number, speed: SourceSpeed): Promise<Row[]> {
  await source.speed(speed)
  return await compare(candidates, rounds, (peer) => pullCold(peer, sizes, { lanes }), { warmUp: false })
}

/** @param check the digests, which costs the client as much as some servers */
async function pullCold(
  peer: Peer,
  sizes: readonly number[],
  { lanes, check = false }: { readonly lanes: number; readonly check?: boolean },
): Promise<Figures> {
  const tag = String(++images)
  await source.forget()
  const image = await source.image(NAME, tag, sizes, `cold ${tag} ${String(process.pid)}`)
  const manifest = `/v2/${NAME}/manifests/${image.digest}`
  // It is known by now: what is measured is blobs.
  const known = await request(peer.url + manifest, { headers: { accept: TYPE } })
  await known.body.dump()
  await source.sent()
  const bytes = sizes.reduce((sum, size) => sum + size, 0)
  const { result, cpuSeconds, figures } = await spending(peer, async () => {
    const [pulled] = await client.pull({
      ...{ url: peer.url, clients: 1, lanes, manifest },
      blobs: image.layers.map(({ digest, size }) => ({
        ...{ path: `/v2/${NAME}/blobs/${digest}`, size },
        ...(check ? { digest } : {}),
      })),
    })
    return { pulled, sent: await settled(peer) }
  })
  return {
    'MB/s': bytes / (result.pulled?.doneMs ?? NaN) / 1e3,
    '1st byte ms': result.pulled?.firstByteMs ?? NaN,
    'CPU s/GB': cpuSeconds / (bytes / 1e9),
    upstream: result.sent / bytes,
    ...figures,
  }
}

/**
 * The client has all of it; what a peer still fetches or syncs is part of the price, and must not be the next one's.
 *
 * @returns bytes from upstream
 */
async function settled(peer: Peer): Promise<number> {
  let sent = await source.sent()
  if (peer === direct) return sent
  for (let more = 1; more > 0; sent += more) {
    await sleep(200)
    more = await source.sent()
  }
  // Its metrics would say so too, but whoever reads them begins the account of its event loop anew.
  const partial = path.join(peer.folder, 'data/ingest')
  while (isOurs(peer) && readdirSync(partial).length > 0) await sleep(50)
  return sent
}

function figure(rows: readonly Row[], name: string, which: string): number {
  return rows.find((row) => row.name === name)?.figures[which] ?? NaN
}

function speedup(rows: readonly Row[]): number {
  return figure(rows, 'entrepot', 'MB/s') / figure(rows, 'direct', 'MB/s')
}

function loop(rows: readonly Row[]): Goal {
  return atMost('p99 of the event loop, ms', figure(rows, 'entrepot', 'loop p99 ms'), 20)
}

function quicker(rows: readonly Row[], times: number): Goal[] {
  return [
    atLeast('throughput by that of going direct', speedup(rows), times),
    atMost('bytes from upstream, of what was pulled', figure(rows, 'entrepot', 'upstream'), 1.02),
    loop(rows),
  ]
}

function asQuick(rows: readonly Row[]): Goal[] {
  const later = figure(rows, 'entrepot', '1st byte ms') - figure(rows, 'direct', '1st byte ms')
  return [
    atLeast('throughput by that of going direct', speedup(rows), 0.95),
    atMost('ms until the first byte, less those of going direct', later, 10),
    loop(rows),
  ]
}
