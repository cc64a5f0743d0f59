/** The cache may never make a pull fail: what the disk will not take is streamed through, still verified. */
import { readdir } from 'node:fs/promises'
import path from 'node:path'
import { test, type Test } from 'tap'
import { request } from 'undici'
import { image, type Content } from '../support/images.ts'
import {
  eventually,
  isWhole,
  pull,
  pullSame,
  pullSome,
  settled,
  simulate,
  startMirror,
  type Mirror,
  type MirrorOptions,
} from '../support/app.ts'
import { FaultyFiles, type Operation } from '../support/faulty-files.ts'
import type { UpstreamOptions } from '../support/upstream.ts'

const MiB = 1024 * 1024
/** Longer than storage must have worked to be called well. */
const QUIET = 60_000

async function setUp(
  t: Test,
  layers: number[],
  options: { upstream?: UpstreamOptions; mirror?: MirrorOptions } = {},
) {
  const upstream = await simulate(t, options.upstream ?? {})
  const big = image({ layers })
  upstream.addImage('library/big', '1', big)
  const disk = new FaultyFiles()
  const clock = { now: Date.now() }
  const mirror = await startMirror(t, upstream, {
    cache: { prefetch: 'off' },
    files: disk.files,
    now: () => clock.now,
    ...options.mirror,
  })
  const url = (content: Content): string => `${mirror.url}/v2/library/big/blobs/${content.digest}`
  const tag = `${mirror.url}/v2/library/big/manifests/1`
  return { upstream, mirror, disk, clock, big, layers: big.layers, url, tag }
}

function said(mirror: Mirror, level: string): unknown[] {
  return mirror.lines.filter((line) => line['level'] === level).map((line) => line['msg'])
}

const REFUSES = 'storage refuses writes: pulls are streamed through uncached'
const WORKS = 'storage takes writes again'

async function bypasses(mirror: Mirror): Promise<number> {
  const { body } = await pull(`${mirror.url}/metrics`)
  let sum = 0
  for (const [, value] of body.toString().matchAll(/^entrepot_cache_bypass_total\{.*\} (\d+)$/gm)) {
    sum += Number(value)
  }
  return sum
}

async function storedFiles(mirror: Mirror, folder: string): Promise<string[]> {
  const top = path.join(mirror.root, folder)
  const entries = await readdir(top, { recursive: true, withFileTypes: true }).catch(() => [])
  return entries.filter((entry) => entry.isFile()).map(({ name }) => name)
}

const REFUSALS: [Operation, string][] = [
  ['create', 'ENOSPC'],
  ['create', 'EROFS'],
  ['create', 'EIO'],
  ['write', 'ENOSPC'],
  ['write', 'EIO'],
]

for (const [operation, code] of REFUSALS) {
  test(`a disk that fails to ${operation} with ${code} fails no pull, and is used again when it works`, async (t) => {
    const { mirror, disk, clock, layers, url, tag, big, upstream } = await setUp(t, [2 * MiB, 30_000])
    const [large, small] = layers as [Content, Content]
    disk.failing.set(operation, code)

    const manifest = await pull(tag)
    t.equal(manifest.status, 200)
    t.ok(manifest.body.equals(big.manifest.bytes))
    for (let round = 0; round < 2; round += 1) {
      const pulled = await Promise.all([large, small, large].map((it) => pullSame(url(it), it)))
      t.ok(
        pulled.every(({ status, same }) => status === 200 && same),
        'all the right bytes',
      )
      t.ok(
        pulled.every(({ cache }) => cache === 'bypass' || (operation === 'write' && round === 0)),
        'and it is said',
      )
    }
    t.ok((await pull(tag)).body.equals(big.manifest.bytes))
    const counted = await bypasses(mirror)
    t.ok(counted > 0, `counted ${counted} times`)
    t.same(said(mirror, 'warn'), [REFUSES], 'warned once')
    t.match((await pull(`${mirror.url}/readyz`)).body.toString(), /bypassed/)

    disk.heal()
    clock.now += QUIET
    t.equal((await pullSame(url(large), large)).cache, 'miss')
    await settled(mirror)
    t.equal((await pullSame(url(large), large)).cache, 'hit')
    await upstream.stop()
    t.equal((await pullSame(url(large), large)).cache, 'hit')
    t.same(said(mirror, 'info').filter((it) => it === WORKS).length, 1, 'said once')
    t.same(await storedFiles(mirror, 'ingest'), [], 'no partial stays behind')
    t.same(said(mirror, 'error'), [])
  })
}

const ADOPTIONS: [Operation, string][] = [
  ['rename', 'EIO'],
  ['datasync', 'EIO'],
  ['makeFolder', 'ENOSPC'],
]

for (const [operation, code] of ADOPTIONS) {
  test(`a verified blob that cannot be kept (${operation} ${code}) was served all the same`, async (t) => {
    const { mirror, disk, clock, layers, url } = await setUp(t, [2 * MiB])
    const [layer] = layers as [Content]
    disk.failing.set(operation, code)
    const pulled = await Promise.all([1, 2, 3].map(() => pullSame(url(layer), layer)))
    t.ok(pulled.every(({ same }) => same))
    await settled(mirror)
    t.ok((await pullSame(url(layer), layer)).same)
    t.same(await storedFiles(mirror, 'ingest'), [])
    t.same(await storedFiles(mirror, 'blobs'), [])
    t.same(said(mirror, 'warn'), [REFUSES])
    t.ok((await bypasses(mirror)) > 0)
    disk.heal()
    clock.now += QUIET
    t.equal((await pullSame(url(layer), layer)).cache, 'miss')
    await settled(mirror)
    t.equal((await pullSame(url(layer), layer)).cache, 'hit')
    t.same(said(mirror, 'error'), [])
  })
}

for (const code of ['ENOSPC', 'EIO']) {
  test(`followers early, late and slow get the rest when the disk gives up half-way (${code})`, async (t) => {
    const { upstream, mirror, disk, layers, url } = await setUp(t, [24 * MiB], {
      upstream: { bytesPerSecond: 24 * MiB },
    })
    const [layer] = layers as [Content]
    const early = [pullSame(url(layer), layer), pullSame(url(layer), layer)]
    const slow = await request(url(layer))
    await upstream.log.until((log) => log.bytesSent('blob') > 6 * MiB)
    const late = pullSame(url(layer), layer)
    const part = pull(url(layer), { range: `bytes=${10 * MiB}-${20 * MiB - 1}` })
    const tail = pull(url(layer), { range: `bytes=${4 * MiB}-` })
    await upstream.log.until((log) => log.bytesSent('blob') > 9 * MiB)
    disk.fullWith = code
    disk.room = 1 * MiB
    await eventually('it is refused', async () => (await bypasses(mirror)) > 0)
    upstream.set({ bytesPerSecond: undefined })

    for (const pulled of await Promise.all([...early, late])) {
      t.ok(pulled.status === 200 && pulled.same)
    }
    t.ok((await part).body.equals(layer.bytes.subarray(10 * MiB, 20 * MiB)))
    t.ok((await tail).body.equals(layer.bytes.subarray(4 * MiB)))
    t.ok(Buffer.from(await slow.body.arrayBuffer()).equals(layer.bytes), 'who had not read a byte, too')
    const ranges = upstream.log.of('blob').map(({ headers }) => headers.range ?? 'all')
    t.ok(ranges.filter((it) => it === 'all').length <= 2, `nobody starts again: ${ranges.join(' ')}`)
    await settled(mirror)
    t.same(await storedFiles(mirror, 'ingest'), [])
    t.same(said(mirror, 'warn'), [REFUSES])
    t.same(said(mirror, 'error'), [])
    await eventually('every file is closed', () => disk.opened === 0)
  })
}

test('the space of a given-up fill is free although a slow client still reads', async (t) => {
  const { upstream, mirror, disk, layers, url } = await setUp(t, [24 * MiB], {
    upstream: { bytesPerSecond: 24 * MiB },
  })
  const [layer] = layers as [Content]
  const slow = await request(url(layer), { highWaterMark: 1 })
  await upstream.log.until((log) => log.bytesSent('blob') > 9 * MiB)
  disk.room = 0
  await eventually('it is refused', async () => (await bypasses(mirror)) > 0)
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of slow.body as AsyncIterable<Buffer>) {
    chunks.push(chunk)
    bytes += chunk.length
    // Well into what never was in the file.
    if (bytes > 16 * MiB && bytes - chunk.length <= 16 * MiB) {
      await eventually('the file is closed', () => disk.opened === 0)
    }
  }
  t.ok(Buffer.concat(chunks).equals(layer.bytes))
})

/** A mirror that has found out that its disk takes nothing. */
async function bypassing(t: Test, layers: number[], upstream: UpstreamOptions = {}) {
  const world = await setUp(t, layers, { upstream })
  world.disk.failing.set('create', 'EROFS')
  await pull(world.tag)
  await eventually('it is known', async () => (await bypasses(world.mirror)) > 0)
  return world
}

for (const size of [4 * MiB, 30_000]) {
  test(`wrong bytes never arrive whole in bypass (${size} bytes)`, async (t) => {
    const { upstream, mirror, layers, url, clock } = await bypassing(t, [size])
    const [layer] = layers as [Content]
    const rule = upstream.fault({ kind: 'blob', ref: layer.digest }, { corrupt: 'tail' })
    for (let round = 0; round < 2; round += 1) {
      const pulled = await pull(url(layer))
      t.notOk(isWhole(pulled, layer))
      t.ok(pulled.body.length <= Math.max(size - 65_536, 1000), `${pulled.body.length} bytes`)
      t.ok(pulled.broken !== undefined || pulled.status === 502)
      if (size < 65_536 || round > 0) {
        t.equal(pulled.status, 502, 'no head before it is verified')
        t.match(JSON.parse(pulled.body.toString()), { errors: [{}] })
      }
    }
    t.match(
      (await pull(`${mirror.url}/metrics`)).body.toString(),
      /entrepot_integrity_failures_total\{.*\} 2/,
    )
    rule.remove()
    clock.now += 10_001
    t.ok((await pullSame(url(layer), layer)).same)
    t.same(said(mirror, 'error'), [])
  })

  test(`a tail that is wrong once is fetched again, also in bypass (${size} bytes)`, async (t) => {
    const { upstream, layers, url } = await bypassing(t, [size])
    const [layer] = layers as [Content]
    upstream.fault({ kind: 'blob', method: 'GET', times: 1 }, { corrupt: 'tail' })
    t.ok((await pullSame(url(layer), layer)).same)
  })
}

test('a byte that was wrong once and given out breaks the transfer off, in bypass as well', async (t) => {
  const { upstream, mirror, layers, url } = await bypassing(t, [4 * MiB])
  const [layer] = layers as [Content]
  upstream.fault({ kind: 'blob', method: 'GET', times: 1 }, { corrupt: 1000 })
  const pulled = await pull(url(layer))
  t.ok(pulled.broken)
  t.ok(pulled.body.length < layer.bytes.length)
  t.ok((await pullSame(url(layer), layer)).same)
  t.same(said(mirror, 'error'), [])
})

for (const how of ['rst', 'fin', 'cleanChunkEnd'] as const) {
  test(`a cut in bypass (${how}) is continued with Range`, async (t) => {
    const { upstream, layers, url, mirror } = await bypassing(t, [6 * MiB])
    const [layer] = layers as [Content]
    upstream.fault({ kind: 'blob', method: 'GET', times: 2 }, { dropAfterBytes: 2 * MiB, how })
    t.ok((await pullSame(url(layer), layer)).same)
    const ranges = upstream.log.of({ kind: 'blob', method: 'GET' }).map(({ headers }) => headers.range)
    t.equal(ranges.length, 3)
    t.match(ranges[1], /^bytes=[1-9]\d+-/)
    t.match(ranges[2], /^bytes=[1-9]\d+-/)
    t.same(said(mirror, 'error'), [])
  })
}

test('an upstream that refuses for a moment in the middle of a bypass is asked again', async (t) => {
  const { upstream, layers, url, mirror } = await bypassing(t, [6 * MiB])
  const [layer] = layers as [Content]
  upstream.fault({ kind: 'blob', method: 'GET', nth: 1 }, { dropAfterBytes: 2 * MiB })
  upstream.fault({ kind: 'blob', method: 'GET', nth: 2 }, { status: 500 })
  upstream.fault({ kind: 'blob', method: 'GET', nth: 3 }, { status: 429, retryAfter: 1 })
  upstream.fault({ kind: 'blob', method: 'GET', nth: 4 }, { ignoreRange: true })
  t.ok((await pullSame(url(layer), layer)).same)
  t.same(said(mirror, 'error'), [])
})

test('an upstream that refuses just when the disk gives up is asked again', async (t) => {
  const { upstream, mirror, disk, layers, url } = await setUp(t, [16 * MiB], {
    upstream: { bytesPerSecond: 24 * MiB },
  })
  const [layer] = layers as [Content]
  upstream.fault({ kind: 'blob', nth: 2 }, { status: 500 })
  const pulled = pullSame(url(layer), layer)
  await upstream.log.until((log) => log.bytesSent('blob') > 4 * MiB)
  disk.room = 0
  t.ok((await pulled).same)
  t.same(said(mirror, 'error'), [])
})

test('an upstream that stops for good in the middle of a bypass breaks the transfer off, as a warning', async (t) => {
  const { upstream, layers, url, mirror } = await bypassing(t, [2 * MiB])
  const [layer] = layers as [Content]
  upstream.fault({ kind: 'blob', method: 'GET', nth: 1 }, { dropAfterBytes: 1 * MiB, how: 'fin' })
  upstream.fault({ kind: 'blob', when: ({ headers }) => headers.range !== undefined }, { status: 403 })
  const pulled = await pull(url(layer))
  t.equal(pulled.status, 200)
  t.ok(pulled.broken)
  t.same(said(mirror, 'error'), [])
  t.match(said(mirror, 'warn'), [REFUSES, 'broken off'])
})

test('an upstream that gives a byte at a time is given up', async (t) => {
  const { upstream, layers, url } = await bypassing(t, [2 * MiB])
  const [layer] = layers as [Content]
  upstream.fault({ kind: 'blob' }, { dropAfterBytes: 10 })
  const pulled = await pull(url(layer))
  t.ok(pulled.broken !== undefined || pulled.status >= 500)
  t.ok(upstream.log.count('blob') < 12)
})

test('what upstream does not have is 404 in bypass, and what it cannot say is 503', async (t) => {
  const { upstream, layers, url, mirror } = await bypassing(t, [2 * MiB, 1000])
  const [layer, other] = layers as [Content, Content]
  upstream.deleteBlob('library/big', layer.digest)
  const absent = await pull(url(layer))
  t.equal(absent.status, 404)
  t.match(JSON.parse(absent.body.toString()), { errors: [{ code: 'BLOB_UNKNOWN' }] })
  const rule = upstream.fault({ kind: 'blob' }, { status: 500 })
  t.equal((await pull(url(other))).status, 503)
  rule.remove()
  await upstream.stop()
  const gone = await pull(url(other))
  t.equal(gone.status, 503)
  t.ok(gone.headers['retry-after'])
  t.same(said(mirror, 'error'), [])
})

test('HEAD, parts and several parts are answered in bypass', async (t) => {
  const { layers, url, mirror, upstream } = await bypassing(t, [3 * MiB])
  const [layer] = layers as [Content]
  const head = await pull(url(layer), {}, 'HEAD')
  t.equal(head.status, 200)
  t.equal(head.headers['content-length'], String(layer.bytes.length))
  const whole = await pull(url(layer))
  t.equal(whole.headers['content-length'], String(layer.bytes.length))
  const part = await pull(url(layer), { range: 'bytes=1000-1999999' })
  t.equal(part.status, 206)
  t.equal(part.cache, 'bypass')
  t.ok(part.body.equals(layer.bytes.subarray(1000, 2_000_000)))
  const suffix = await pull(url(layer), { range: 'bytes=-70000' })
  t.ok(suffix.body.equals(layer.bytes.subarray(-70_000)))
  const several = await pull(url(layer), { range: 'bytes=5-9,1000000-1000099' })
  t.equal(several.status, 206)
  t.ok(several.body.includes(layer.bytes.subarray(5, 10)))
  t.ok(several.body.includes(layer.bytes.subarray(1_000_000, 1_000_100)))
  t.equal((await pull(url(layer), { range: `bytes=${3 * MiB}-` })).status, 416)
  const asked = upstream.log.bytesSent({ kind: 'blob', method: 'GET' })
  t.ok(asked < 3 * MiB * 2.5, 'parts cost what they are')
  t.same(said(mirror, 'error'), [])
})

test('a client that leaves a bypass closes its transfer, whatever that is just doing', async (t) => {
  const { upstream, layers, url, mirror } = await bypassing(t, [32 * MiB, 20_000])
  const [layer, small] = layers as [Content, Content]
  await pullSome(url(layer), 1 * MiB)
  await upstream.log.until((log) => log.inFlight('blob') === 0)
  t.ok(upstream.log.bytesSent('blob') < 32 * MiB, 'in the middle')

  upstream.fault({ kind: 'blob', method: 'GET' }, { hang: 'headers' })
  const leaving = new AbortController()
  const gone = t.rejects(request(url(small), { signal: leaving.signal }))
  await upstream.log.until((log) => log.inFlight('blob') === 1)
  leaving.abort()
  await gone
  await upstream.log.until((log) => log.inFlight('blob') === 0)
  upstream.rules.clear()
  t.ok((await pullSame(url(small), small)).same)
  t.same(said(mirror, 'error'), [])
})

test('a blob whose length nobody knows comes whole in bypass, and not at all when it is wrong', async (t) => {
  const { upstream, layers, url } = await bypassing(t, [3 * MiB])
  const [layer] = layers as [Content]
  upstream.fault({ kind: 'blob' }, { noContentLength: true })
  t.ok((await pullSame(url(layer), layer)).same)
  upstream.fault({ kind: 'blob' }, { noContentLength: true, corrupt: 'tail' })
  const wrong = await pull(url(layer))
  t.ok(wrong.broken !== undefined || wrong.status === 502)
})

test('a wrong first try and a disk that gives up on the second give nobody a wrong file', async (t) => {
  const { upstream, disk, layers, url, mirror } = await setUp(t, [8 * MiB])
  const [layer] = layers as [Content]
  upstream.fault({ kind: 'blob', nth: 1 }, { corrupt: 'tail' })
  disk.room = 12 * MiB
  const pulled = await Promise.all([pullSame(url(layer), layer), pullSame(url(layer), layer)])
  t.ok(
    pulled.every(({ same }) => same),
    'what was given out of the first try was right',
  )
  t.same(said(mirror, 'error'), [])
})
