/** Finished blobs are sent by an nginx in front of us: who is told which file it is, and how long that file stays. */
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import path from 'node:path'
import { test, type Test } from 'tap'
import { Agent, request } from 'undici'
import { evict } from '../../../src/admin/cli/evict.ts'
import { digestOf } from '../../../src/oci/digest.ts'
import { BlobHolds } from '../../../src/storage/locks/blob-holds.ts'
import { InProcessKeyedLocks } from '../../../src/storage/locks/keyed-locks.ts'
import { ExternalReaders } from '../../../src/storage/blobs/external-readers.ts'
import {
  eventually,
  isWhole,
  pull,
  settled,
  simulate,
  startMirror,
  type Mirror,
  type Pulled,
} from '../../support/app.ts'
import { recordedEdge } from '../../support/edge.ts'
import { blobFile } from '../../support/folder.ts'
import { content, image, randomBytesOf, ZERO_BLOB } from '../../support/images.ts'
import { seedLocal } from '../../support/local.ts'
import { shortDir } from '../../support/programs.ts'
import { pushBlob } from '../../support/push.ts'
import { codeOf, messageOf } from '../../support/two-upstreams.ts'
import { KB, openWarehouse } from '../../support/warehouse.ts'
import { replies } from '../../support/http-fakes.ts'

const LAYER = content('application/octet-stream', randomBytesOf(300_000, 'accel'))
const BLOB = content('application/octet-stream', randomBytesOf(100, 'pushed'))
const NOTHING = { url: 'http://127.0.0.1:9' }
const SAYS_SO = { 'x-sendfile-type': 'X-Accel-Redirect' }
const ON = { port: 0, accelRedirect: '/internal-blobs/' }

/** What nginx makes the way to the file of. */
function placeOf(digest: string): string {
  const [algorithm = '', hex = ''] = digest.split(':')
  return `/internal-blobs/${algorithm}/${hex.slice(0, 2)}/${hex}`
}

async function start(
  t: Test,
  server: Record<string, unknown> = ON,
): Promise<Mirror & { readonly blob: string; readonly empty: string }> {
  const root = t.testdir()
  await seedLocal(root, [{ name: 'team/app', blobs: [LAYER, ZERO_BLOB] }])
  const mirror = await startMirror(t, NOTHING, { root, config: { server, local: ['team/**'] } })
  const blobs = `${mirror.url}/v2/team/app/blobs`
  return { ...mirror, blob: `${blobs}/${LAYER.digest}`, empty: `${blobs}/${ZERO_BLOB.digest}` }
}

function told(t: Test, answer: Pulled, what: string): void {
  t.equal(answer.headers['x-accel-redirect'], placeOf(LAYER.digest), what)
  t.same([answer.status, answer.body.length], [200, 0])
}

function bytes(t: Test, answer: Pulled, what: string, expected: Buffer = LAYER.bytes): void {
  t.notOk('x-accel-redirect' in answer.headers, what)
  t.ok(answer.body.equals(expected))
}

async function metric(mirror: Mirror, line: RegExp): Promise<number> {
  const { body } = await pull(`${mirror.url}/metrics`)
  return Number(line.exec(body.toString())?.[1] ?? 0)
}

test('with an nginx in front', async (t) => {
  const mirror = await start(t)

  await t.test(
    'what is here is named to nginx, with all that it is to say, and counts as pulled and not as sent',
    async (t) => {
      const direct = await pull(mirror.blob)
      bytes(t, direct, 'a program on the same machine, which no nginx is')
      const answer = await pull(mirror.blob, { ...SAYS_SO, 'x-request-id': 'one' })
      told(t, answer, 'the way to the file')
      t.equal(answer.headers['content-length'], '0')
      for (const name of ['content-type', 'etag', 'docker-content-digest', 'x-cache'])
        t.equal(answer.headers[name], direct.headers[name], name)
      t.ok(
        path.join(mirror.root, 'blobs', placeOf(LAYER.digest).slice(16)) ===
          blobFile(mirror.root, LAYER.digest),
      )
      const lines = (): unknown[] => mirror.lines.filter(({ reqId }) => reqId === 'one')
      await eventually('it is in the log', () => lines().length > 0)
      t.match(lines(), [{ accel: true, bytes: 0, status: 200, cache: 'local', digest: LAYER.digest }])
      t.equal(
        await metric(mirror, /entrepot_pulls_total\{upstream="local",kind="blob",cache="local"\} (\d+)/),
        2,
      )
      t.equal(
        await metric(mirror, /entrepot_served_bytes_total\{kind="blob",cache="local"\} (\d+)/),
        LAYER.bytes.length,
      )
    },
  )

  await t.test('who may not read it is not told where it is', async (t) => {
    for (const [name, status] of [
      ['team/other', 404],
      ['library/app', 503],
    ] as const) {
      const answer = await pull(`${mirror.url}/v2/${name}/blobs/${LAYER.digest}`, SAYS_SO)
      t.equal(answer.status, status)
      t.notOk('x-accel-redirect' in answer.headers)
    }
  })

  await t.test('what nginx would answer in another way comes from us', async (t) => {
    const get = (headers: Record<string, string>): Promise<Pulled> =>
      pull(mirror.blob, { ...SAYS_SO, ...headers })
    const tag = `"${LAYER.digest}"`
    for (const range of ['bytes=0-', 'bytes=5-9', 'bytes=-7', 'bytes=299999-400000'])
      told(t, await get({ range }), range)
    told(t, await get({ range: 'bytes=5-9', 'if-range': tag }), 'the tag that it has')
    told(t, await get({ 'if-none-match': '"another"' }), 'not the one that the client has')

    const unchanged = await get({ 'if-none-match': tag })
    t.equal(unchanged.status, 304)
    t.notOk('x-accel-redirect' in unchanged.headers)
    const beyond = await get({ range: 'bytes=300000-' })
    t.same([beyond.status, beyond.headers['content-range']], [416, 'bytes */300000'])
    t.equal(codeOf(beyond), 'RANGE_INVALID')
    const parts = await get({ range: 'bytes=0-1,5-6' })
    t.equal(parts.status, 206)
    t.match(parts.headers['content-type'], /^multipart\/byteranges/)
    t.ok(parts.body.includes(LAYER.bytes.subarray(5, 7)))
    for (const headers of [
      { range: 'bytes=nonsense' },
      { range: 'bytes=0-200000,0-200000' },
      { range: 'bytes=5-9', 'if-range': 'Sat, 21 Nov 2026 10:00:00 GMT' },
      { range: 'bytes=5-9', 'if-range': '"another"' },
      { 'if-modified-since': 'Sat, 21 Nov 2099 10:00:00 GMT' },
      { 'if-unmodified-since': 'Sat, 21 Nov 1999 10:00:00 GMT' },
      { 'if-match': '"another"' },
    ] as Record<string, string>[]) {
      const answer = await get(headers)
      bytes(t, answer, JSON.stringify(headers))
      t.equal(answer.status, 200)
    }
    bytes(t, await get({ range: 'bytes=,5-9' }), 'one range, oddly written', LAYER.bytes.subarray(5, 10))
    bytes(
      t,
      await get({ range: 'bytes=5-9', 'if-range': LAYER.digest }),
      'a tag, oddly written',
      LAYER.bytes.subarray(5, 10),
    )
    const empty = await pull(mirror.empty, SAYS_SO)
    t.same([empty.status, empty.headers['content-length']], [200, '0'])
    t.notOk('x-accel-redirect' in empty.headers)
    const head = await pull(mirror.blob, SAYS_SO, 'HEAD')
    t.equal(head.headers['content-length'], String(LAYER.bytes.length))
    t.notOk('x-accel-redirect' in head.headers)
  })

  await t.test('old and impatient connections: HTTP/1.0, and requests that come at once', async (t) => {
    const { pathname, port } = new URL(mirror.blob)
    const socket = connect(Number(port), '127.0.0.1')
    t.teardown(() => socket.destroy())
    const text: string[] = []
    socket.setEncoding('latin1').on('data', (some: string) => text.push(some))
    const get = (target: string, ...more: string[]): string =>
      [`GET ${target} HTTP/1.1`, 'Host: x', ...more, '', ''].join('\r\n')
    const ours = 'X-Sendfile-Type: X-Accel-Redirect'
    socket.write(
      get(pathname, ours) +
        get('/v2/') +
        get(pathname, 'Range: bytes=0-99') +
        get(pathname, ours, 'Connection: close'),
    )
    await once(socket, 'close')
    const answers = replies(text.join(''))
    t.same(
      answers.map(({ status, body, head }) => [
        status,
        body.length,
        /x-accel-redirect: (\S+)/i.exec(head)?.[1],
      ]),
      [
        [200, 0, placeOf(LAYER.digest)],
        [200, 2, undefined],
        [206, 100, undefined],
        [200, 0, placeOf(LAYER.digest)],
      ],
    )

    const old = connect(Number(port), '127.0.0.1')
    let answer = ''
    old.setEncoding('latin1').on('data', (some: string) => (answer += some))
    old.write(`GET ${pathname} HTTP/1.0\r\nHost: x\r\n${ours}\r\n\r\n`)
    await once(old, 'close')
    t.same(
      replies(answer).map(({ body, head }) => [body.length, head.includes(placeOf(LAYER.digest))]),
      [[0, true]],
    )
  })

  await t.test(
    'whoever comes from this machine may be anybody: nothing is pushed for that reason',
    async (t) => {
      for (const name of ['mine/app', 'team/app']) {
        const refused = await pushBlob(`${mirror.url}/v2/${name}`, BLOB)
        t.same([refused.status, codeOf(refused)], [403, 'DENIED'])
        t.match(messageOf(refused), /not open to the network/)
      }
    },
  )
})

test('only an nginx at its address, that says so, is told', async (t) => {
  const mirror = await start(t, { ...ON, host: '::', accelFrom: ['127.0.0.2', '10.0.0.0/8'] })
  const from = async (localAddress: string, headers: Record<string, string>): Promise<Pulled> => {
    const dispatcher = new Agent({ localAddress })
    try {
      const { statusCode: status, ...rest } = await request(mirror.blob.replace('[::]', '127.0.0.1'), {
        ...{ headers, dispatcher },
      })
      const body = Buffer.from(await rest.body.arrayBuffer())
      return { status, headers: rest.headers, body, broken: undefined, cache: undefined }
    } finally {
      await dispatcher.close()
    }
  }
  bytes(t, await from('127.0.0.1', SAYS_SO), 'another address')
  const forwarded = { 'x-forwarded-for': '127.0.0.2', 'x-real-ip': '127.0.0.2', forwarded: 'for=127.0.0.2' }
  bytes(t, await from('127.0.0.1', { ...SAYS_SO, ...forwarded }), 'an address that it only claims')
  bytes(t, await from('127.0.0.2', {}), 'it does not say so')
  bytes(t, await from('127.0.0.2', { 'x-sendfile-type': 'X-Sendfile' }), 'it says something else')
  bytes(
    t,
    await from('127.0.0.2', { 'x-accel-redirect': '/internal-blobs/../../etc/passwd' }),
    'it asks for more',
  )
  told(t, await from('127.0.0.2', SAYS_SO), 'its own address, which arrives as ::ffff:127.0.0.2')
})

test('nobody is told where nothing was configured, and who is on this machine may push', async (t) => {
  const mirror = await start(t, { port: 0 })
  bytes(t, await pull(mirror.blob, SAYS_SO), 'as ever')
  t.equal((await pushBlob(`${mirror.url}/v2/mine/app`, BLOB)).status, 201)
})

test('behind an nginx names of `local` are pushed, where anybody may', async (t) => {
  const config = { server: ON, local: ['team/**'], push: { anonymous: true } }
  const mirror = await startMirror(t, NOTHING, { config })
  t.equal((await pushBlob(`${mirror.url}/v2/team/app`, BLOB)).status, 201)
  const elsewhere = await pushBlob(`${mirror.url}/v2/mine/app`, BLOB)
  t.equal(elsewhere.status, 403)
  t.match(messageOf(elsewhere), /open to the network, where only names of `local`/)
})

test('a miss and those who join it get bytes, whatever upstream says; a hit is named', async (t) => {
  const upstream = await simulate(t)
  const app = image({ layers: [400 * KB], seed: 'miss' })
  const layer = app.layers[0]!
  upstream.addImage('library/app', '1', app)
  upstream.fault(
    { kind: 'blob' },
    { headers: { 'x-accel-redirect': '/internal-blobs/etc', 'x-sendfile': '/etc/passwd' }, ttfbMs: 50 },
  )
  const mirror = await startMirror(t, upstream, { cache: { prefetch: 'off' }, config: { server: ON } })
  const url = `${mirror.url}/v2/library/app/blobs/${layer.digest}`
  await pull(`${mirror.url}/v2/library/app/manifests/1`, SAYS_SO)
  const both = await Promise.all([pull(url, SAYS_SO), pull(url, SAYS_SO)])
  // Should the second be so late that it is a hit, it says nothing about this.
  const cold = both.filter(({ cache }) => cache !== 'hit')
  for (const answer of cold) {
    t.ok(isWhole(answer, layer))
    t.notOk('x-accel-redirect' in answer.headers || 'x-sendfile' in answer.headers)
  }
  t.ok(cold.some(({ cache }) => cache === 'miss'))
  await settled(mirror)
  const hot = await pull(url, SAYS_SO)
  t.same([hot.cache, hot.headers['x-accel-redirect']], ['hit', placeOf(layer.digest)])
  // Where somebody has brought it about that the file is not what the index says.
  writeFileSync(blobFile(mirror.root, layer.digest), 'short')
  t.ok(isWhole(await pull(url, SAYS_SO), layer), 'it is fetched again')
})

test('what was named stays for a minute, and others go in its place', async (t) => {
  const root = path.join(shortDir(t), 'data')
  const { mirror, clock, offer, pullImage, here, has } = await openWarehouse(t, {
    root,
    config: { server: ON },
  })
  const named = offer('library/named', [90 * KB])
  const other = offer('library/other', [80 * KB])
  await pullImage('library/named', named)
  await pullImage('library/other', other)
  const layer = named.layers[0]!
  const url = `${mirror.url}/v2/library/named/blobs/${layer.digest}`
  t.equal((await pull(url, SAYS_SO)).headers['x-accel-redirect'], placeOf(layer.digest))
  const file = path.join(root, '../config.yaml')
  writeFileSync(file, JSON.stringify({ storage: { root } }))
  const evictAll = (): Promise<number> => evict({ config: file, to: '0' }, recordedEdge())

  clock.now += 59_000
  t.equal(await evictAll(), 0)
  t.same([has(layer), here(other)], [true, 'none'], 'room is made at once, elsewhere')
  t.equal((await pull(url, SAYS_SO)).cache, 'hit')
  clock.now += 59_000
  await evictAll()
  t.ok(has(layer), 'from the last time on')
  clock.now += 1_000
  await evictAll()
  t.equal(here(named), 'none')
  const { mirrored } = await mirror.app.metadata.eviction.stored()
  t.equal(
    [...mirrored.values()].reduce((sum, it) => sum + it, 0),
    0,
    'and the account says the same',
  )
})

test('a store that keeps no files of this machine names none', async (t) => {
  const digest = digestOf(Buffer.from('one'))
  const holds = new BlobHolds(() => 0)
  const store = { stat: () => Promise.resolve({ digest, size: 3 }) }
  const files = new ExternalReaders({ locks: new InProcessKeyedLocks(), holds, store })
  t.equal(await files.tell(digest, 3), undefined)
  t.notOk(holds.has(digest))
})

test('what may be on its way out, or has gone, is not named', async (t) => {
  const now = { is: 0 }
  const holds = new BlobHolds(() => now.is)
  const locks = new InProcessKeyedLocks()
  const [one, two] = [digestOf(Buffer.from('one')), digestOf(Buffer.from('two'))]
  let there = 3
  const files = new ExternalReaders({
    ...{ locks, holds },
    store: {
      localName: (digest) => placeOf(digest).slice('/internal-blobs/'.length),
      stat: (digest) => {
        if (there < 0) return Promise.reject(new Error('EIO'))
        return Promise.resolve(there === 0 ? undefined : { digest, size: there })
      },
    },
  })
  const lock = await locks.exclusive(`blob ${one}`, AbortSignal.timeout(1_000))
  t.equal(await files.tell(one, 3), undefined, 'somebody may be taking it away')
  lock[Symbol.dispose]()
  t.equal(await files.tell(one, 3), placeOf(one).slice('/internal-blobs/'.length))
  for (there of [0, 2, -1]) t.equal(await files.tell(one, 3), undefined)
  there = 3
  now.is = 30_000
  await files.tell(two, 3)
  now.is = 60_000
  t.same([holds.has(one), holds.has(two)], [false, true])
  now.is = 90_000
  t.notOk(holds.has(two))
  const held = holds.hold(two)
  await files.tell(one, 3)
  t.ok(holds.has(two), 'a reader of ours holds it however long ago it was named')
  held[Symbol.dispose]()
  t.notOk(holds.has(two))
})
