/** Debian's nginx in front, by the file that we ship: its clients see what they would see from us. */
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { connect as connect2, type ClientHttp2Session } from 'node:http2'
import path from 'node:path'
import { connect as connectTls } from 'node:tls'
import { test, type Test } from 'tap'
import { Agent, request } from 'undici'
import { eventually, settled, simulate, startMirror, type Mirror } from '../support/app.ts'
import { content, image, randomBytesOf } from '../support/images.ts'
import { seedLocal } from '../support/local.ts'
import { digestOf } from '../../src/oci/digest.ts'
import { makeCertificate, writeNginxConfig } from '../support/nginx.ts'
import { freePort, missing, Program, shortDir } from '../support/programs.ts'
import type { UpstreamSimulator } from '../support/upstream.ts'
import { BUSYBOX, copyImage, writeLayout } from './image.ts'

const LAYER = content('application/octet-stream', randomBytesOf(3_000_001, 'nginx'))
const skip = missing('nginx', 'openssl')

interface Answer {
  readonly status: number
  readonly headers: Record<string, unknown>
  readonly body: Buffer
}

type Client = (
  target: string,
  options?: { readonly headers?: Record<string, string>; readonly method?: Method; readonly body?: Buffer },
) => Promise<Answer>

type Method = 'GET' | 'HEAD' | 'POST' | 'PATCH' | 'PUT'

interface Site {
  readonly mirror: Mirror
  readonly upstream: UpstreamSimulator
  /** Straight to us. */
  readonly direct: Client
  readonly first: Client
  readonly second: Client
  readonly port: number
  readonly ca: string
}

/** @param blobs what nginx takes for our `storage.root`; default: what is */
async function open(t: Test, { blobs, ...more }: { blobs?: string; push?: object } = {}): Promise<Site> {
  const folder = shortDir(t)
  const root = path.join(folder, 'data')
  await seedLocal(root, [{ name: 'team/app', blobs: [LAYER] }])
  const upstream = await simulate(t)
  const mirror = await startMirror(t, upstream, {
    root,
    cache: { prefetch: 'off' },
    config: { server: { port: 0, accelRedirect: '/internal-blobs/' }, local: ['team/**'], ...more },
  })
  const tls = makeCertificate(folder)
  const port = await freePort()
  const upstreamPort = Number(new URL(mirror.url).port)
  const nginx = new Program(
    t,
    'nginx',
    writeNginxConfig({ folder, port, upstreamPort, root: blobs ?? root, tls }),
  )
  const ca = readFileSync(tls.cert, 'utf8')
  const agent = new Agent({ connect: { ca }, allowH2: false })
  t.teardown(() => agent.close())
  const url = `https://localhost:${port}`
  const first = byHttp1(url, agent)
  await nginx.ready(async () => (await first('/v2/').catch(() => undefined))?.status === 200)
  const session = connect2(url, { ca })
  t.teardown(() => session.close())
  return { mirror, upstream, direct: byHttp1(mirror.url), first, second: byHttp2(session), port, ca }
}

function byHttp1(origin: string, dispatcher?: Agent): Client {
  return async (target, { headers = {}, method = 'GET', body = null } = {}) => {
    const by = dispatcher === undefined ? {} : { dispatcher }
    const answer = await request(origin + target, { method, headers, body, ...by })
    const bytes = Buffer.from(await answer.body.arrayBuffer())
    return { status: answer.statusCode, headers: answer.headers, body: bytes }
  }
}

function byHttp2(session: ClientHttp2Session): Client {
  return async (target, { headers = {}, method = 'GET', body } = {}) => {
    const stream = session.request({ ...headers, ':path': target, ':method': method })
    stream.end(body)
    const [{ ':status': status, ...rest }] = (await once(stream, 'response')) as [Record<string, unknown>]
    const chunks: Buffer[] = []
    for await (const chunk of stream) chunks.push(chunk as Buffer)
    return { status: Number(status), headers: rest, body: Buffer.concat(chunks) }
  }
}

/** What tells a client about the blob. */
const TOLD = [
  ...['content-type', 'content-length', 'content-range', 'accept-ranges', 'etag', 'last-modified'],
  ...['docker-content-digest', 'docker-distribution-api-version', 'x-cache', 'x-request-id', 'oci-namespace'],
  ...['content-encoding', 'content-disposition', 'cache-control', 'expires'],
]

/** All of it, in short. */
function seen({ status, headers, body }: Answer): unknown {
  const boundary = /boundary=(\w+)/.exec(String(headers['content-type']))?.[1] ?? ''
  const plain = (text: string): string => (boundary === '' ? text : text.replaceAll(boundary, 'BOUNDARY'))
  return {
    status,
    headers: Object.fromEntries(TOLD.map((name) => [name, plain(String(headers[name]))])),
    length: body.length,
    body: body.length < 1000 ? plain(body.toString('latin1')) : digestOf(body),
  }
}

const TAG = `"${LAYER.digest}"`
const BLOB = `/v2/team/app/blobs/${LAYER.digest}`

/** A request is in the log when it is over, which its client may know before us. */
async function sentByNginx(t: Test, mirror: Mirror, times: number): Promise<void> {
  const count = (): number => mirror.lines.filter(({ accel }) => accel === true).length
  await eventually(`nginx has sent ${times} times`, () => count() >= times)
  t.equal(count(), times)
}

/** Of each: the request, and whether nginx sends the bytes. */
const REQUESTS: readonly (readonly [headers: Record<string, string>, accel: boolean, method?: Method])[] = [
  [{}, true],
  [{}, false, 'HEAD'],
  [{ range: 'bytes=0-' }, true],
  [{ range: 'bytes=0-0' }, true],
  [{ range: 'bytes=1-2500000' }, true],
  [{ range: 'bytes=2999999-' }, true],
  [{ range: 'bytes=-17' }, true],
  [{ range: 'bytes=-99999999' }, true],
  [{ range: 'bytes=2999990-99999999' }, true],
  [{ range: 'bytes=3000001-' }, false],
  [{ range: 'bytes=-0' }, false],
  [{ range: 'bytes=7-3' }, false],
  [{ range: 'bytes=x-y' }, false],
  [{ range: 'lines=1-2' }, false],
  [{ range: 'bytes=0-9,100-109' }, false],
  [{ range: 'bytes=0-9,100-109' }, false, 'HEAD'],
  [{ range: 'bytes=5-9', 'if-range': TAG }, true],
  [{ range: 'bytes=5-9', 'if-range': '"another"' }, false],
  [{ range: 'bytes=5-9', 'if-range': 'Sat, 21 Nov 2026 10:00:00 GMT' }, false],
  [{ 'if-none-match': TAG }, false],
  [{ 'if-none-match': `W/${TAG}` }, false],
  [{ 'if-none-match': TAG }, false, 'HEAD'],
  [{ 'if-none-match': '"another", "third"' }, true],
  [{ 'if-none-match': '"another"', range: 'bytes=5-9' }, true],
  [{ 'if-match': '"another"' }, false],
  [{ 'if-modified-since': 'Sat, 21 Nov 2099 10:00:00 GMT' }, false],
  [{ 'if-unmodified-since': 'Sat, 21 Nov 1999 10:00:00 GMT' }, false],
  [{ 'accept-encoding': 'gzip, br' }, true],
  [{ 'x-accel-redirect': '/internal-blobs/../../../../etc/passwd' }, true],
  [{ 'x-sendfile-type': 'X-Sendfile', 'x-accel-mapping': '/=/etc/' }, true],
]

test('a client of nginx cannot tell who sends', { skip }, async (t) => {
  const { mirror, direct, first, second } = await open(t)
  for (const [number, [headers, accel, method = 'GET']] of REQUESTS.entries()) {
    const what = `${method} ${JSON.stringify(headers)}`
    const id = `request-${number}`
    const asked = { headers: { ...headers, 'x-request-id': id }, method }
    const expected = seen(await direct(BLOB, asked))
    t.same(seen(await first(BLOB, asked)), expected, `${what} by HTTP/1.1`)
    t.same(seen(await second(BLOB, asked)), expected, `${what} by HTTP/2`)
    const lines = (): Record<string, unknown>[] => mirror.lines.filter(({ reqId }) => reqId === id)
    await eventually('all three are in the log', () => lines().length === 3)
    const by = accel ? true : undefined
    t.same(
      lines().map((line) => line['accel']),
      [undefined, by, by],
      `${what}: ${accel ? 'nginx sends it' : 'we send it'}`,
    )
  }
})

test('nobody from outside gets at a file by its place', { skip }, async (t) => {
  const { first, second, port, ca, mirror } = await open(t)
  const place = BLOB.replace(/.*sha256:(..)(.*)/, 'sha256/$1/$1$2')
  const raw = async (target: string): Promise<string> => {
    const socket = connectTls({ port, host: 'localhost', ca })
    let text = ''
    socket.setEncoding('latin1').on('data', (some: string) => (text += some))
    socket.write(`GET ${target} HTTP/1.0\r\nHost: mirror.example\r\n\r\n`)
    await once(socket, 'close')
    return text
  }
  for (const target of [
    `/internal-blobs/${place}`,
    `//internal-blobs/${place}`,
    `/v2/../internal-blobs/${place}`,
    `/v2/%2e%2e/internal-blobs/${place}`,
    `/%69nternal-blobs/${place}`,
    `/internal-blobs/../metadata.sqlite`,
    `/internal-blobs/%2e%2e/metadata.sqlite`,
    `/internal-blobs../metadata.sqlite`,
    `/@bytes`,
    `/v2/team/app/blobs/../../../../internal-blobs/${place}`,
    `/v2/team/app/blobs/sha256:../../../../metadata.sqlite`,
    `/v2/team/app/blobs/sha256:${'.'.repeat(64)}`,
  ]) {
    const text = await raw(target)
    t.match(text, /^HTTP\/1\.1 4\d\d /, target)
    t.notOk(text.includes('SQLite format') || text.length > 2_000, target)
    for (const client of [first, second]) t.match(String((await client(target)).status), /^4/, target)
  }
  t.match(await raw(BLOB), /^HTTP\/1\.1 200 OK\r\n/, 'a client of another age gets what it asks for')
  await sentByNginx(t, mirror, 1)
})

test('what is fetched, and what is pushed, goes through as it comes', { skip }, async (t) => {
  const { mirror, upstream, first, second } = await open(t, { push: { anonymous: true } })
  const app = image({ layers: [5_000_000], seed: 'behind nginx' })
  const layer = app.layers[0]!
  upstream.addImage('library/app', '1', app)
  const cold = `/v2/library/app/blobs/${layer.digest}`
  const manifest = await second('/v2/library/app/manifests/1')
  t.ok(manifest.body.equals(app.manifest.bytes))
  const misses = await Promise.all([first(cold), second(cold), first(cold)])
  for (const { body } of misses) t.ok(body.equals(layer.bytes))
  const came = misses.map(({ headers }) => headers['x-cache'])
  t.ok(came.includes('miss'), came.join())
  // Who was late found all of it here.
  const late = came.filter((it) => it === 'hit').length
  await settled(mirror)
  for (const client of [first, second]) {
    const hot = await client(cold)
    t.same([hot.headers['x-cache'], hot.body.equals(layer.bytes)], ['hit', true])
  }
  await sentByNginx(t, mirror, late + 2)

  const own = content('application/octet-stream', randomBytesOf(7_000_000, 'pushed through nginx'))
  for (const [client, name] of [
    [first, 'one'],
    [second, 'two'],
  ] as const) {
    const begun = await client(`/v2/team/${name}/blobs/uploads/`, { method: 'POST' })
    t.equal(begun.status, 202)
    const location = (answer: Answer): string => {
      const { pathname, search } = new URL(String(answer.headers['location']), 'https://localhost')
      return pathname + search
    }
    const half = await client(location(begun), { method: 'PATCH', body: own.bytes.subarray(0, 4_000_000) })
    t.equal(half.status, 202)
    const end = `${location(half)}${location(half).includes('?') ? '&' : '?'}digest=${own.digest}`
    const done = await client(end, { method: 'PUT', body: own.bytes.subarray(4_000_000) })
    t.equal(done.status, 201)
    const back = await client(`/v2/team/${name}/blobs/${own.digest}`)
    t.same([back.headers['x-cache'], back.body.equals(own.bytes)], ['local', true])
  }
  await sentByNginx(t, mirror, late + 4)
})

test('a push that only its way makes local is refused', { skip }, async (t) => {
  const { first } = await open(t)
  // Whoever may set headers must not be able to look like a program on this machine.
  for (const headers of [{}, { host: 'localhost' }] as Record<string, string>[]) {
    const refused = await first('/v2/mine/app/blobs/uploads/', { method: 'POST', headers })
    t.equal(refused.status, 403)
    t.match(refused.body.toString(), /not open to the network/)
  }
})

test('a client that left goes on where it was', { skip }, async (t) => {
  const { port, ca, first } = await open(t)
  const socket = connectTls({ port, host: 'localhost', ca })
  socket.write(`GET ${BLOB} HTTP/1.1\r\nHost: mirror.example\r\n\r\n`)
  const chunks: Buffer[] = []
  for await (const chunk of socket as AsyncIterable<Buffer>) {
    chunks.push(chunk)
    if (Buffer.concat(chunks).length > 1_000_000) break
  }
  const all = Buffer.concat(chunks)
  const begun = all.subarray(all.indexOf('\r\n\r\n') + 4)
  const tag = /^etag: (.*)$/im.exec(all.toString('latin1', 0, 2_000))?.[1]?.trim()
  t.equal(tag, TAG)
  const headers = { range: `bytes=${begun.length}-`, 'if-range': TAG }
  const rest = await first(BLOB, { headers })
  t.equal(rest.status, 206)
  t.ok(Buffer.concat([begun, rest.body]).equals(LAYER.bytes))
})

test('a file that nginx cannot open comes from us', { skip }, async (t) => {
  const { direct, first, second, mirror } = await open(t, { blobs: t.testdir() })
  const same = { 'x-request-id': 'same' }
  for (const [headers, ignored] of [
    [{}, {}],
    [{ range: 'bytes=5-9' }, {}],
    [{}, { 'x-forwarded-for': '::1', 'x-sendfile-type': 'X-Accel-Redirect' }],
  ] as [Record<string, string>, Record<string, string>][]) {
    const expected = seen(await direct(BLOB, { headers: { ...same, ...headers } }))
    for (const client of [first, second]) {
      const answer = await client(BLOB, { headers: { ...same, ...headers, ...ignored } })
      // Of a part it is said twice: nginx has kept what was said with the name of the file.
      answer.headers['accept-ranges'] = 'bytes'
      t.same(seen(answer), expected)
    }
  }
  await sentByNginx(t, mirror, 6)
})

test(
  'skopeo takes an image there and home again, by HTTPS',
  { skip: skip || missing('skopeo', 'busybox', 'tar') },
  async (t) => {
    const { mirror, port } = await open(t, { push: { anonymous: true } })
    const dir = shortDir(t)
    await writeLayout(path.join(dir, 'layout'), [BUSYBOX, { 'bin/tar': { file: '/bin/tar' } }])
    const there = `docker://localhost:${port}/team/tool:1`
    for (const [from, to] of [
      [`oci:${dir}/layout:1`, there],
      [there, `oci:${dir}/home:1`],
    ] as const) {
      const { code, stderr } = await copyImage(from, to)
      t.equal(code, 0, stderr)
    }
    const blobs = (layout: string): string[] => readdirSync(path.join(dir, layout, 'blobs/sha256')).toSorted()
    t.same(blobs('home'), blobs('layout'))
    // The config and two layers.
    await sentByNginx(t, mirror, 3)
  },
)
