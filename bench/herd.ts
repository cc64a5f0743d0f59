/**
 * Many clients at once on one cold layer, from an upstream at full speed and from a limited one, and on a cold image
 * of twenty layers: from entrepot with and without sendfile, from registries as mirrors, and from nginx as a cache.
 *
 *     node bench/herd.ts [--smoke | --full] [--clients 200] [--layer 256] [--limited 64] [--rate 200]
 *                        [--layers 20] [--each 8] [--rounds 1] [--only layer,limited,image]     (MiB, MB/s)
 */
import { atMost, compare, median, report, type Figures, type Goal, type Row } from './support/compare.ts'
import { ColdSource } from './support/cold-source.ts'
import { Herd, type Pulled } from './support/herd.ts'
import { REGISTRIES, startRegistries, type Peer } from './support/peers.ts'
import { sized } from './support/sizes.ts'
import { loopGoal, spending } from './support/spent.ts'

const MiB = 2 ** 20
const NAME = 'library/herd'

const ALL = 'layer,limited,image'
const options = sized({
  smoke: { clients: 10, layer: 8, limited: 8, rate: 100, layers: 5, each: 2, rounds: 1, only: ALL },
  small: { clients: 40, layer: 64, limited: 32, rate: 100, layers: 20, each: 3, rounds: 1, only: ALL },
  // Mirrors that fetch it for each client take long where upstream is limited.
  full: { clients: 200, layer: 256, limited: 64, rate: 200, layers: 20, each: 8, rounds: 1, only: ALL },
})
const { clients, layer, limited, rate, layers, each, rounds } = options
const only = options.only.split(',')

await using source = await ColdSource.start()
await using herd = new Herd()
await using peers = new AsyncDisposableStack()
const registries = await startRegistries(['entrepot', 'entrepot-pump', ...REGISTRIES, 'nginx'], source.url)
for (const peer of registries) peers.use(peer)

let images = 0
// What runs for the first time is not what runs for hours.
for (const peer of registries) await pullCold(peer, Array<number>(4).fill(4 * MiB), 4)

if (only.includes('layer')) {
  await bench('herd-layer', `one cold layer of ${String(layer)} MiB`, [layer * MiB])
}
if (only.includes('limited')) {
  await source.speed({ inAll: rate * 1e6 })
  const what = `one cold layer of ${String(limited)} MiB, upstream limited to ${String(rate)} MB/s`
  await bench('herd-limited', what, [limited * MiB])
  await source.speed({})
}
if (only.includes('image')) {
  const what = `a cold image of ${String(layers)} layers of ${String(each)} MiB`
  await bench('herd-image', what, Array<number>(layers).fill(each * MiB))
}

async function bench(name: string, what: string, sizes: readonly number[]): Promise<void> {
  const rows = await compare(registries, rounds, (peer) => pullCold(peer, sizes, clients), { warmUp: false })
  report({ bench: name, what: `${String(clients)} clients on ${what}`, rows, goals: goalsOf(rows) })
}

async function pullCold(peer: Peer, sizes: readonly number[], herdSize: number): Promise<Figures> {
  const tag = String(++images)
  await source.forget()
  const image = await source.image(NAME, tag, sizes, `herd ${tag} ${String(process.pid)}`)
  await source.sent()
  const { result, cpuSeconds, figures } = await spending(peer, () =>
    herd.pull({
      url: peer.url,
      clients: herdSize,
      lanes: 3,
      manifest: `/v2/${NAME}/manifests/${tag}`,
      blobs: image.layers.map(({ digest, size }) => ({ path: `/v2/${NAME}/blobs/${digest}`, digest, size })),
    }),
  )
  const bytes = sizes.reduce((sum, size) => sum + size, 0)
  return { ...figuresOf(result, cpuSeconds), upstream: (await source.sent()) / bytes, ...figures }
}

function figuresOf(pulled: readonly Pulled[], cpuSeconds: number): Figures {
  const times = pulled.map(({ doneMs }) => doneMs / 1000).toSorted((one, other) => one - other)
  const [first = NaN] = times
  const last = times.at(-1) ?? NaN
  const bytes = pulled.reduce((sum, it) => sum + it.bytes, 0)
  const middle = median(times)
  return {
    'first s': first,
    'last s': last,
    'last/first': last / first,
    // All pull the same, so a throughput is one by a time: who is slow against the middle, and who is fast.
    'p50/p1': percentile(times, 0.99) / middle,
    'p99/p50': middle / percentile(times, 0.01),
    '1st byte s': Math.max(...pulled.map(({ firstByteMs }) => firstByteMs / 1000)),
    'MB/s': bytes / last / 1e6,
    'CPU s/GB': cpuSeconds / (bytes / 1e9),
  }
}

function percentile(sorted: readonly number[], which: number): number {
  return sorted[Math.min(Math.floor(sorted.length * which), sorted.length - 1)] ?? NaN
}

/** Of what is sent by copying the table tells. */
function goalsOf(rows: readonly Row[]): Goal[] {
  const ours = rows.filter(({ name }) => name === 'entrepot')
  const figure = (name: string): number => ours[0]?.figures[name] ?? NaN
  return [
    atMost('bytes from upstream, of the image', figure('upstream'), 1.02),
    atMost('the last client by the first', figure('last/first'), 1.2),
    atMost('throughput of the middle by that of the slowest hundredth', figure('p50/p1'), 1.5),
    atMost('throughput of the fastest hundredth by that of the middle', figure('p99/p50'), 1.5),
    atMost('MB resident at the peak', (figure('peak MiB') * MiB) / 1e6, 300),
    loopGoal(ours),
  ]
}
