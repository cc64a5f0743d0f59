/**
 * A process of its own: a registry whose manifests are made to weigh, one after the other, without end.
 *
 * `node registry.ts`: prints its URL. `library/annotated` has manifests of 1.2 MB, whose one layer has 95,000
 * annotations; `library/large` has manifests of 4 MiB, in turn of annotations, of layers, and of one long text. A tag is
 * any number. `library/tagged` has 480,000 tags, which come in one page and in no order.
 */
import { createHash } from 'node:crypto'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

const MANIFEST = 'application/vnd.oci.image.manifest.v1+json'
const LAYER = 'application/vnd.oci.image.layer.v1.tar+gzip'
const MOST = 4 * 1024 * 1024

function digestOf(bytes: string | Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}

function descriptor(seed: string, more = ''): string {
  return `{"mediaType":"${LAYER}","digest":"${digestOf(seed)}","size":1000${more}}`
}

function manifest(seed: string, layers: string, more = ''): Buffer {
  const config = descriptor(`config ${seed}`)
  return Buffer.from(
    `{"schemaVersion":2,"mediaType":"${MANIFEST}","config":${config},"layers":[${layers}]${more}}`,
  )
}

function annotations(count: number, length: number): string {
  const all = Array.from({ length: count }, (_, at) => `"k${at}":"${'v'.repeat(length)}"`)
  return `"annotations":{${all.join(',')}}`
}

const SMALL = annotations(95_000, 1)
const LARGE = annotations(95_000, 32)
const LONG = `"annotations":{"long":"${'x'.repeat(MOST - 1000)}"}`

const MANIFESTS: Record<string, (tag: number) => Buffer> = {
  annotated: (tag) => manifest(`annotated ${tag}`, descriptor(`layer ${tag}`, `,${SMALL}`)),
  large: (tag) => {
    const seed = `large ${tag}`
    if (tag % 3 === 0) return manifest(seed, descriptor(seed, `,${LARGE}`))
    if (tag % 3 === 1) return manifest(seed, descriptor(seed), `,${LONG}`)
    const text = `,"x":"${'x'.repeat(200)}"`
    return manifest(
      seed,
      Array.from({ length: 9_900 }, (_, at) => descriptor(`${seed} ${at}`, text)).join(','),
    )
  },
}

const TAGS = JSON.stringify({
  name: 'library/tagged',
  tags: Array.from({ length: 480_000 }, (_, at) => `release-${(at * 7919) % 480_000}`),
})

const server = createServer((request, response) => {
  if (request.url?.startsWith('/v2/library/tagged/tags/list') === true) {
    response.writeHead(200, { 'Content-Type': 'application/json' }).end(TAGS)
    return
  }
  const [, repository = '', tag = ''] =
    /^\/v2\/library\/(\w+)\/manifests\/(\d+)$/.exec(request.url ?? '') ?? []
  const make = MANIFESTS[repository]
  if (make === undefined) {
    response.writeHead(request.url === '/v2/' ? 200 : 404, { 'Content-Type': 'application/json' })
    response.end('{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
    return
  }
  const bytes = make(Number(tag))
  response.writeHead(200, {
    'Content-Type': MANIFEST,
    'Content-Length': bytes.length,
    'Docker-Content-Digest': digestOf(bytes),
  })
  response.end(request.method === 'HEAD' ? undefined : bytes)
})
server.listen(0, '127.0.0.1', () => {
  console.log(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
})
