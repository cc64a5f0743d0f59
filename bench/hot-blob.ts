/**
 * A layer that is here, pulled over several connections: from entrepot with and without sendfile, from registries,
 * from nginx as a plain file, and from nginx that entrepot tells which file it is.
 *
 *     node bench/hot-blob.ts [--smoke | --full] [--layer 256] [--connections 8] [--seconds 4] [--rounds 5]     (MiB)
 */
import { createHash, randomBytes } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { atLeast, atMost, compare, ratioToBest, report, type Goal, type Row } from './support/compare.ts'
import { REGISTRIES, startRegistries, type Peer } from './support/peers.ts'
import { pushBlob } from './support/pushing.ts'
import { sized } from './support/sizes.ts'
import { loopGoal, spending } from './support/spent.ts'
import { wrk } from './support/wrk.ts'

const { layer, connections, seconds, rounds } = sized({
  smoke: { layer: 8, connections: 4, seconds: 1, rounds: 1 },
  small: { layer: 128, connections: 8, seconds: 2, rounds: 3 },
  full: { layer: 256, connections: 8, seconds: 4, rounds: 7 },
})
const bytes = randomBytes(layer * 2 ** 20)
const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`
const target = `/v2/bench/hot/blobs/${digest}`

await using peers = new AsyncDisposableStack()
const registries = await startRegistries([
  'entrepot',
  'entrepot-pump',
  'entrepot-accel',
  'docker-registry',
  'distribution',
  'zot',
  'nginx',
])
for (const peer of registries) {
  peers.use(peer)
  await hold(peer)
}

const rows = await compare(registries, rounds, async (peer) => {
  const { result, cpuSeconds, figures } = await spending(peer, () =>
    wrk(peer.url + target, { connections, seconds, threads: Math.min(connections, availableParallelism()) }),
  )
  if (result.errors > 0) throw new Error(`${peer.name}: ${String(result.errors)} errors`)
  return {
    'MB/s': result.bytes / result.seconds / 1e6,
    'CPU s/GB': cpuSeconds / (result.bytes / 1e9),
    'p50 ms': result.p50Ms,
    'p99 ms': result.p99Ms,
    ...figures,
  }
})
report({
  bench: 'hot-blob',
  what: `${String(layer)} MiB over ${String(connections)} connections, medians of ${String(rounds)} rounds`,
  rows,
  goals: goalsOf(rows),
})

function goalsOf(rows: readonly Row[]): Goal[] {
  const [sendfile, pump, accel, nginx] = ['entrepot', 'entrepot-pump', 'entrepot-accel', 'nginx'].map(
    (name) => rows.find((row) => row.name === name),
  )
  const registries = rows.filter(({ name }) => REGISTRIES.includes(name))
  if (sendfile === undefined || pump === undefined) throw new Error('nothing of entrepot was measured')
  const cpu = (one: Row, others: readonly Row[]): number => ratioToBest(one, others, 'CPU s/GB', 'less')
  return [
    ...(registries.length === 0
      ? []
      : [
          atMost('CPU per GB, of the best registry', cpu(sendfile, registries), 0.3),
          atLeast(
            'throughput, of the best registry',
            ratioToBest(sendfile, registries, 'MB/s', 'more'),
            1.25,
          ),
          atMost('CPU per GB without sendfile, of the best registry', cpu(pump, registries), 0.75),
        ]),
    ...(nginx === undefined ? [] : [atMost("CPU per GB, of nginx's sendfile", cpu(sendfile, [nginx]), 2)]),
    ...(nginx === undefined || accel === undefined
      ? []
      : [atMost('CPU per GB with an nginx in front, of nginx alone', cpu(accel, [nginx]), 1.3)]),
    loopGoal(rows),
  ]
}

async function hold(peer: Peer): Promise<void> {
  if (peer.name !== 'nginx') {
    await pushBlob(peer.url, 'bench/hot', digest, bytes)
    return
  }
  const file = path.join(peer.folder, 'files', target)
  mkdirSync(path.dirname(file), { recursive: true })
  writeFileSync(file, bytes)
}
