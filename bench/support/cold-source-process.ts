/**
 * The process of {@link ColdSource}. Orders come one at a time.
 */
import { createHash, createCipheriv } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { SourceOrder, SourceSpeed } from './cold-source.ts'

const MANIFEST = 'application/vnd.oci.image.manifest.v1+json'
const SLICE = 256 * 1024
/** What a line that was idle so long may catch up on: as a router's queue does, which no busy processor holds up. */
const BURST_MS = 20

const blobs = new Map<string, Buffer>()
/** By `name:tag` and by digest. */
const manifests = new Map<string, Buffer>()
let speed: SourceSpeed = {}
let sent = 0
/** When the next byte may leave, of all responses together. */
let freeAt = 0

const server = createServer((request, response) => {
  answer(request, response).catch(() => response.destroy())
})
server.listen(0, '127.0.0.1', () => {
  const { port } = server.address() as AddressInfo
  process.send?.({ url: `http://127.0.0.1:${String(port)}` })
})
process.on('message', (order: SourceOrder) => process.send?.(obey(order)))
process.on('disconnect', () => process.exit(0))

function obey(order: SourceOrder): object {
  switch (order.order) {
    case 'image': {
      const layers = order.layers.map((size, at) => keep(random(size, `${order.seed} ${String(at)}`)))
      const config = keep(
        Buffer.from(JSON.stringify({ architecture: 'amd64', os: 'linux', seed: order.seed })),
      )
      const manifest = Buffer.from(
        JSON.stringify({
          schemaVersion: 2,
          mediaType: MANIFEST,
          config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...config },
          layers: layers.map((it) => ({ mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', ...it })),
        }),
      )
      const digest = digestOf(manifest)
      manifests.set(`${order.name}:${order.tag}`, manifest)
      manifests.set(`${order.name}:${digest}`, manifest)
      return { digest, layers }
    }
    case 'blob':
      return keep(random(order.size, order.seed))
    case 'forget':
      blobs.clear()
      return {}
    case 'speed':
      speed = order.speed
      return {}
    case 'sent': {
      const bytes = sent
      sent = 0
      return { bytes }
    }
  }
}

function keep(bytes: Buffer): { digest: string; size: number } {
  const digest = digestOf(bytes)
  blobs.set(digest, bytes)
  return { digest, size: bytes.length }
}

function digestOf(bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}

/** Gigabytes per second, and no compressor gains anything on it. */
function random(size: number, seed: string): Buffer {
  const key = createHash('sha256').update(seed).digest()
  return createCipheriv('aes-256-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(size))
}

async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { pathname } = new URL(request.url ?? '', 'http://source')
  const [, name = '', kind, reference = ''] = /^\/v2\/(.+)\/(manifests|blobs)\/([^/]+)$/.exec(pathname) ?? []
  const bytes = kind === 'manifests' ? manifests.get(`${name}:${reference}`) : blobs.get(reference)
  if (bytes === undefined) {
    const code = kind === 'manifests' ? 'MANIFEST_UNKNOWN' : 'BLOB_UNKNOWN'
    response.writeHead(pathname === '/v2/' ? 200 : 404, { 'content-type': 'application/json' })
    response.end(pathname === '/v2/' ? '{}' : JSON.stringify({ errors: [{ code, message: 'not here' }] }))
    return
  }
  const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') ?? []
  const start = Number(from ?? 0)
  const end = to === undefined || to === '' ? bytes.length : Number(to) + 1
  const part = bytes.subarray(start, end)
  response.writeHead(from === undefined ? 200 : 206, {
    'content-type': kind === 'manifests' ? MANIFEST : 'application/octet-stream',
    'content-length': part.length,
    'docker-content-digest': kind === 'manifests' ? digestOf(bytes) : reference,
    ...(from === undefined
      ? {}
      : { 'content-range': `bytes ${from}-${String(end - 1)}/${String(bytes.length)}` }),
  })
  if (request.method === 'HEAD') response.end()
  else if (kind === 'manifests') response.end(part)
  else await pump(part, response)
}

async function pump(part: Buffer, response: ServerResponse): Promise<void> {
  const began = performance.now()
  const { perConnection, inAll } = speed
  const slice = perConnection === undefined && inAll === undefined ? SLICE : 64 * 1024
  for (let at = 0; at < part.length && !response.destroyed; at += slice) {
    const piece = part.subarray(at, at + slice)
    const now = performance.now()
    let due = perConnection === undefined ? now : began + (at / perConnection) * 1000
    if (inAll !== undefined) {
      freeAt = Math.max(freeAt, now - BURST_MS) + (piece.length / inAll) * 1000
      due = Math.max(due, freeAt)
    }
    // A timer is no finer than that; what is missed is made up for.
    if (due - now > 2) await sleep(due - now)
    sent += piece.length
    if (!response.write(piece)) await drained(response)
  }
  response.end()
}

/** Or closed. */
function drained(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      response.off('drain', done).off('close', done)
      resolve()
    }
    response.on('drain', done).on('close', done)
  })
}
