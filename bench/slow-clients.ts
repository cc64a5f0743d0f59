/**
 * Many slow clients on one cold layer: what they cost in memory.
 *
 *     node bench/slow-clients.ts [--clients 200] [--rate 1] [--size 256]     (MB/s, MiB)
 *
 * One JSON line. The server is a process of its own; its resident set is sampled five times a second.
 */
import { parseArgs } from 'node:util'
import { image } from '../test/support/images.ts'
import { startUpstream } from '../test/support/upstream.ts'
import { pull } from './support/clients.ts'
import { Server } from './support/server.ts'

const { values } = parseArgs({
  options: {
    clients: { type: 'string', default: '200' },
    rate: { type: 'string', default: '1' },
    size: { type: 'string', default: '256' },
  },
})
const clients = Number(values.clients)
const bytesPerSecond = Number(values.rate) * 1e6
const size = Number(values.size) * 1024 * 1024

await using upstream = await startUpstream()
const big = image({ layers: [size] })
upstream.addImage('library/big', '1', big)
await using server = await Server.start(upstream.url)
const [layer] = big.layers
if (layer === undefined) throw new Error('an image has a layer')

const url = `${server.url}/v2/library/big/blobs/${layer.digest}`
const idleBytes = server.residentBytes()
const pulled = await Promise.all(Array.from({ length: clients }, () => pull(url, { bytesPerSecond })))
const whole = pulled.filter(({ status, bytes }) => status === 200 && bytes === size).length
const MiB = (bytes: number): number => Math.round(bytes / 1024 / 1024)
console.log(
  JSON.stringify({
    bench: 'slow-clients',
    clients,
    megabytesPerSecond: Number(values.rate),
    sizeMiB: Number(values.size),
    whole,
    upstreamRatio: Number((upstream.log.bytesSent({ kind: 'blob', ref: layer.digest }) / size).toFixed(3)),
    seconds: Math.round(Math.max(...pulled.map(({ totalMs }) => totalMs)) / 1000),
    residentIdleMiB: MiB(idleBytes),
    residentPeakMiB: MiB(server.peakResidentBytes),
  }),
)
