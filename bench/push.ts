/**
 * Layers pushed to entrepot and to registries, in turns.
 *
 *     node bench/push.ts [--smoke | --full] [--size 64] [--streams 4] [--rounds 5]     (MiB per layer, layers at once)
 *
 * A layer goes up as dockerd sends it: POST, one PATCH without a length, PUT. After the last 201 the files of all are
 * synced, whatever each had synced by then, and `MB/s`, with that sync, is the figure to compare. `to 201 MB/s` is what
 * a client sees.
 */
import { createHash, randomBytes } from 'node:crypto'
import { open, readdir, rm } from 'node:fs/promises'
import path from 'node:path'
import { Readable } from 'node:stream'
import { Agent, request } from 'undici'
import {
  atLeast,
  compare,
  median,
  ratio,
  report,
  type Figures,
  type Goal,
  type Row,
} from './support/compare.ts'
import { REGISTRIES, startRegistries, type Peer } from './support/peers.ts'
import { sized } from './support/sizes.ts'
import { loopGoal, spending } from './support/spent.ts'

const PIECE = 64 * 1024

const { size, streams, rounds } = sized({
  smoke: { size: 4, streams: 2, rounds: 1 },
  small: { size: 64, streams: 4, rounds: 3 },
  full: { size: 64, streams: 4, rounds: 7 },
})

interface Layer {
  readonly bytes: Buffer
  readonly digest: string
}

await using peers = new AsyncDisposableStack()
const registries = await startRegistries(['entrepot', ...REGISTRIES])
for (const peer of registries) peers.use(peer)
const agent = new Agent({ connections: streams })
peers.defer(() => agent.close())
const buffers = Array.from({ length: streams }, () => randomBytes(size * 2 ** 20))

const rows = await compare(registries, rounds, (peer) => pushAll(peer, newLayers()))
report({
  bench: 'push',
  what: `${String(streams)} layers of ${String(size)} MiB at once, medians of ${String(rounds)} rounds`,
  rows,
  goals: goalsOf(rows),
})

/** No two registries and no two rounds ever get the same bytes. */
function newLayers(): Layer[] {
  return buffers.map((bytes) => {
    randomBytes(32).copy(bytes)
    return { bytes, digest: `sha256:${createHash('sha256').update(bytes).digest('hex')}` }
  })
}

async function pushAll(peer: Peer, layers: readonly Layer[]): Promise<Figures> {
  const bytes = layers.reduce((sum, layer) => sum + layer.bytes.length, 0)
  const began = performance.now()
  const { result, cpuSeconds, figures } = await spending(peer, async () => {
    const times = await Promise.all(layers.map((layer) => push(peer, layer)))
    return { times, ended: performance.now() }
  })
  const asked = performance.now()
  const files = await syncAll(peer.folder)
  const answeredMs = result.ended - began
  // What it took to ask what was spent is nobody's.
  const syncedMs = answeredMs + performance.now() - asked
  // What the next round must not be slowed down by.
  for (const file of files) if (layers.some(({ digest }) => isOf(file, digest))) await rm(file)
  return {
    'MB/s': bytes / syncedMs / 1e3,
    'to 201 MB/s': bytes / answeredMs / 1e3,
    'CPU s/GB': cpuSeconds / (bytes / 1e9),
    'p50 ms': median(result.times),
    'slowest ms': Math.max(...result.times),
    ...figures,
  }
}

function goalsOf(rows: readonly Row[]): Goal[] {
  const ours = rows.find(({ name }) => name === 'entrepot')
  if (ours === undefined) throw new Error('nothing of entrepot was measured')
  const beside = rows
    .filter((row) => row !== ours)
    .map((row) => atLeast(`throughput to the disk, of ${row.name}`, ratio(ours, row, 'MB/s'), 1))
  return [...beside, loopGoal(rows)]
}

/** @returns milliseconds until its 201 */
async function push({ url }: Peer, { bytes, digest }: Layer): Promise<number> {
  const began = performance.now()
  const uploads = `${url}/v2/bench/push/blobs/uploads/`
  const begun = await send('POST', uploads, 202)
  const sent = await send('PATCH', new URL(begun, uploads).href, 202, Readable.from(piecesOf(bytes)))
  const end = new URL(sent, uploads)
  end.searchParams.set('digest', digest)
  await send('PUT', end.href, 201)
  return performance.now() - began
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

/** None names its files as the others do; all have the digest in the path. */
function isOf(file: string, digest: string): boolean {
  return file.includes(digest.slice('sha256:'.length)) && !file.includes('/_layers/')
}
