/**
 * A layer that is here, pulled over several connections: from entrepot with and without sendfile, from registries,
 * and from nginx as a plain file.
 *
 *     node bench/hot-blob.ts [--size 256] [--connections 8] [--seconds 4] [--rounds 5]     (MiB)
 */
import { createHash, randomBytes } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { compare, report } from './support/compare.ts'
import { startRegistries, type Peer } from './support/peers.ts'
import { pushBlob } from './support/pushing.ts'
import { wrk } from './support/wrk.ts'

const { values } = parseArgs({
  options: {
    size: { type: 'string', default: '256' },
    connections: { type: 'string', default: '8' },
    seconds: { type: 'string', default: '4' },
    rounds: { type: 'string', default: '5' },
  },
})
const bytes = randomBytes(Number(values.size) * 2 ** 20)
const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`
const target = `/v2/bench/hot/blobs/${digest}`

await using peers = new AsyncDisposableStack()
const registries = await startRegistries([
  'entrepot',
  'entrepot-pump',
  'docker-registry',
  'distribution',
  'nginx',
])
for (const peer of registries) {
  peers.use(peer)
  await hold(peer)
}

const rows = await compare(registries, Number(values.rounds), async (peer) => {
  const cpu = peer.cpuSeconds()
  const load = await wrk(peer.url + target, {
    connections: Number(values.connections),
    seconds: Number(values.seconds),
  })
  if (load.errors > 0) throw new Error(`${peer.name}: ${String(load.errors)} errors`)
  return {
    'MB/s': load.bytes / load.seconds / 1e6,
    'CPU s/GB': (peer.cpuSeconds() - cpu) / (load.bytes / 1e9),
    'peak MiB': peer.peakBytes() / 2 ** 20,
  }
})
report({
  bench: 'hot-blob',
  what: `${values.size} MiB over ${values.connections} connections, medians of ${values.rounds} rounds`,
  rows,
})

async function hold(peer: Peer): Promise<void> {
  if (peer.name !== 'nginx') {
    await pushBlob(peer.url, 'bench/hot', digest, bytes)
    return
  }
  const file = path.join(peer.folder, 'files', target)
  mkdirSync(path.dirname(file), { recursive: true })
  writeFileSync(file, bytes)
}
