/**
 * `npm run demo`: what entrepot does, in a minute, without a network and without root.
 *
 * A simulated Docker Hub gives 30 MB/s per connection; twenty clients pull one image at the same moment, then
 * once more with that Docker Hub switched off.
 */
import { image, type Image } from '../test/support/images.ts'
import { startUpstream } from '../test/support/upstream.ts'
import { pull, type PullResult } from './support/clients.ts'
import { Server } from './support/server.ts'

const CLIENTS = 20
const RATE = 30e6
const MB = 1e6
const LAYERS = [60 * MB, 45 * MB, 30 * MB, 15 * MB, 6 * MB, 2 * MB]
/** As a Docker daemon does. */
const AT_ONCE = 3

const app = image({ layers: LAYERS, seed: 'demo' })
await using hub = await startUpstream({ token: {}, cdn: {}, bytesPerSecond: RATE })
hub.addImage('library/app', 'latest', app)
await using server = await Server.start(hub.url)

const imageBytes = app.blobs.reduce((sum, { bytes }) => sum + bytes.length, app.manifest.bytes.length)
console.log(`"Docker Hub": ${hub.url}, ${String(RATE / MB)} MB/s per connection, tokens and a CDN`)
console.log(`entrepot:     ${server.url}`)
console.log(`image:        library/app:latest, ${String(LAYERS.length)} layers, ${inMB(imageBytes)}`)
console.log(`clients:      ${String(CLIENTS)}, each ${String(AT_ONCE)} layers at a time, all at once\n`)

await round('cold, twenty at once')
await hub.stop()
await round('Docker Hub switched off')

async function round(title: string): Promise<void> {
  const before = received()
  const began = performance.now()
  const pulls = (await Promise.all(Array.from({ length: CLIENTS }, () => pullImage(app)))).flat()
  const seconds = (performance.now() - began) / 1000
  const wrong = pulls.filter(({ right }) => right !== true).length
  const served = pulls.reduce((sum, { bytes }) => sum + bytes, 0)
  const fetched = received() - before
  const words = ['miss', 'join', 'hit', 'stale'].map(
    (word) => `${String(pulls.filter(({ cache }) => cache === word).length)} ${word}`,
  )
  console.log(`${title}:`)
  console.log(`  ${seconds.toFixed(1)} s for all of them, ${inMB(served / seconds)}/s`)
  console.log(`  ${inMB(fetched)} from upstream, ${inMB(served)} to the clients`)
  console.log(
    `  every byte that crossed the wire was served ${fetched === 0 ? '- none did' : `${(served / fetched).toFixed(1)} times`}`,
  )
  console.log(`  ${words.join(', ')}; ${wrong === 0 ? 'every answer right' : `${String(wrong)} WRONG`}\n`)
  if (wrong > 0) process.exitCode = 1
}

/** Everything a daemon asks for: the tag, then config and layers by digest. */
async function pullImage({ manifest, blobs }: Image): Promise<PullResult[]> {
  const base = `${server.url}/v2/library/app`
  const done = [await pull(`${base}/manifests/latest`, { expected: manifest.bytes })]
  const waiting = [...blobs]
  const worker = async (): Promise<void> => {
    for (let blob = waiting.shift(); blob !== undefined; blob = waiting.shift()) {
      done.push(await pull(`${base}/blobs/${blob.digest}`, { expected: blob.bytes }))
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, worker))
  return done
}

/** Handed to sockets by registry and CDN, bodies only. */
function received(): number {
  return hub.log.bytesSent(({ kind, status }) => ['manifest', 'blob', 'cdn'].includes(kind) && status < 300)
}

function inMB(bytes: number): string {
  return `${(bytes / MB).toFixed(bytes < 10 * MB ? 1 : 0)} MB`
}
