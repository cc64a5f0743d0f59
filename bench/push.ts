/**
 * Pushes to entrepot and to Debian's `docker-registry`, in turns, in one run.
 *
 *     node bench/push.ts [--size 64] [--streams 4] [--rounds 5]     (MiB per layer, layers at once)
 *
 * A layer goes up as dockerd sends it: POST, one PATCH without a length, PUT. entrepot answers 201 when the layer is
 * on the disk, docker-registry when it is in the page cache: so after the last 201 the files of either are synced,
 * and the time with that sync is the one to compare. Ratios of one run tell more than its figures.
 */
import { createHash, randomBytes } from 'node:crypto'
import { open, readdir, rm } from 'node:fs/promises'
import { cpus } from 'node:os'
import path from 'node:path'
import { Readable } from 'node:stream'
import { parseArgs } from 'node:util'
import { Agent, request } from 'undici'
import { DockerRegistry } from './support/docker-registry.ts'
import { median } from './support/compare.ts'
import { cpuSeconds, residentBytes } from './support/measured.ts'
import { Server } from './support/server.ts'

const MiB = 1024 * 1024
const PIECE = 64 * 1024

const { values } = parseArgs({
  options: {
    size: { type: 'string', default: '64' },
    streams: { type: 'string', default: '4' },
    rounds: { type: 'string', default: '5' },
  },
})
const size = Number(values.size) * MiB
const streams = Number(values.streams)
const rounds = Number(values.rounds)

interface Layer {
  readonly bytes: Buffer
  readonly digest: string
}

interface Registry {
  readonly name: string
  readonly url: string
  readonly pid: number | undefined
  readonly folder: string
  readonly results: Round[]
}

interface Round {
  /** To the last 201. */
  readonly seconds: number
  /** And until all of it is on the disk. */
  readonly syncedSeconds: number
  /** Of the server's process, to the last 201. */
  readonly cpu: number
}

await using entrepot = await Server.start('http://127.0.0.1:9')
await using docker = await DockerRegistry.start()
const agent = new Agent({ connections: streams })
const registries: Registry[] = [
  { name: 'entrepot', url: entrepot.url, pid: entrepot.pid, folder: entrepot.folder, results: [] },
  { name: 'docker-registry', url: docker.url, pid: docker.pid, folder: docker.folder, results: [] },
]
const buffers = Array.from({ length: streams }, () => randomBytes(size))

// One that does not count: connections, threads, compiled code.
for (let round = 0; round <= rounds; round++) {
  const order = round % 2 === 0 ? registries : registries.toReversed()
  for (const registry of order) {
    const result = await pushAll(registry, newLayers())
    if (round > 0) registry.results.push(result)
  }
}
await agent.close()
report()

/** No two registries and no two rounds ever get the same bytes. */
function newLayers(): Layer[] {
  return buffers.map((bytes) => {
    randomBytes(32).copy(bytes)
    return { bytes, digest: `sha256:${createHash('sha256').update(bytes).digest('hex')}` }
  })
}

async function pushAll(registry: Registry, layers: readonly Layer[]): Promise<Round> {
  const cpu = cpuSeconds(registry.pid)
  const began = performance.now()
  await Promise.all(layers.map((layer) => push(registry, layer)))
  const pushed = performance.now()
  const used = cpuSeconds(registry.pid) - cpu
  const files = await syncAll(registry.folder)
  const synced = performance.now()
  // What the next round must not be slowed down by.
  for (const file of files) if (layers.some(({ digest }) => isOf(file, digest))) await rm(file)
  return { seconds: (pushed - began) / 1000, syncedSeconds: (synced - began) / 1000, cpu: used }
}

async function push(registry: Registry, { bytes, digest }: Layer): Promise<void> {
  const uploads = `${registry.url}/v2/bench/push/blobs/uploads/`
  const begun = await send('POST', uploads, 202)
  const sent = await send('PATCH', new URL(begun, uploads).href, 202, Readable.from(piecesOf(bytes)))
  const end = new URL(sent, uploads)
  end.searchParams.set('digest', digest)
  await send('PUT', end.href, 201)
}

/** @returns `Location` */
async function send(
  method: 'POST' | 'PATCH' | 'PUT',
  url: string,
  expected: number,
  body: Readable | null = null,
): Promise<string> {
  const headers = body === null ? {} : { 'content-type': 'application/octet-stream' }
  const answer = await request(url, { method, body, headers, dispatcher: agent, headersTimeout: 300_000 })
  const text = await answer.body.text()
  if (answer.statusCode !== expected) {
    throw new Error(`${method} ${url}: ${String(answer.statusCode)} ${text}`)
  }
  return String(answer.headers['location'])
}

function* piecesOf(bytes: Buffer): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at += PIECE) yield bytes.subarray(at, at + PIECE)
}

/** @returns the files */
async function syncAll(folder: string): Promise<string[]> {
  const files: string[] = []
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const file = path.join(entry.parentPath, entry.name)
    if (!entry.isFile() && !entry.isDirectory()) continue
    const handle = await open(file, 'r')
    try {
      await handle.sync()
    } finally {
      await handle.close()
    }
    if (entry.isFile()) files.push(file)
  }
  return files
}

/** Neither names its files in the same way; both have the digest in the path. */
function isOf(file: string, digest: string): boolean {
  return file.includes(digest.slice('sha256:'.length)) && !file.includes('/_layers/')
}

function report(): void {
  const bytes = size * streams
  const [processor] = cpus()
  console.log(
    `${String(streams)} layers of ${values.size} MiB at once, medians of ${String(rounds)} rounds; ` +
      `${String(cpus().length)} cores, ${processor?.model ?? 'of some kind'}\n`,
  )
  console.log(`${'MB/s'.padEnd(18)} synced  answered  CPU s/GB  peak MiB`)
  const lines = registries.map(({ name, pid, results }) => {
    const line = {
      name,
      syncedMBs: Math.round(bytes / 1e6 / median(results.map(({ syncedSeconds }) => syncedSeconds))),
      answeredMBs: Math.round(bytes / 1e6 / median(results.map(({ seconds }) => seconds))),
      cpuSecondsPerGB: Number((median(results.map(({ cpu }) => cpu)) / (bytes / 1e9)).toFixed(2)),
      peakMiB: Math.round(residentBytes(pid, 'peak') / MiB),
    }
    const columns = [line.syncedMBs, line.answeredMBs, line.cpuSecondsPerGB, line.peakMiB]
    console.log(
      `${name.padEnd(18)} ${columns.map((it, at) => String(it).padStart([6, 9, 9, 9][at] ?? 0)).join(' ')}`,
    )
    return line
  })
  // Of each round, not of the medians: what slows down a round slows down both.
  const ratio = (pick: (round: Round) => number): number => {
    const [ours, theirs] = registries.map(({ results }) => results.map(pick))
    return Number(median((theirs ?? []).map((it, at) => it / (ours?.[at] ?? NaN))).toFixed(2))
  }
  const ratios = { synced: ratio((it) => it.syncedSeconds), answered: ratio((it) => it.seconds) }
  console.log(
    `\nentrepot is ${String(ratios.synced)} times as fast with the bytes on the disk, ${String(ratios.answered)} times ` +
      `until the answer (docker-registry answers before it has synced anything)`,
  )
  console.log(
    JSON.stringify({
      bench: 'push',
      sizeMiB: Number(values.size),
      streams,
      rounds,
      ratios,
      registries: lines,
    }),
  )
}
