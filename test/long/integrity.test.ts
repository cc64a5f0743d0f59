/** A bad byte never arrives whole, and a stumbling upstream is not the client's problem. */
import { readdir } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'tap'
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
} from '../support/app.ts'

const MiB = 1024 * 1024
/** A paused body's queue, and what fits into one read. */
const LOST_BY_A_CUT = 3 * MiB

async function setUp(
  t: Parameters<typeof simulate>[0],
  size: number,
  options: { upstream?: Parameters<typeof simulate>[1]; mirror?: Parameters<typeof startMirror>[2] } = {},
) {
  const upstream = await simulate(t, options.upstream ?? {})
  const big = image({ layers: [size] })
  upstream.addImage('library/big', '1', big)
  const mirror = await startMirror(t, upstream, options.mirror)
  const layer = big.layers[0]!
  return { upstream, mirror, layer, url: `${mirror.url}/v2/library/big/blobs/${layer.digest}` }
}

function metric(text: Buffer, name: string): number {
  const line = text
    .toString()
    .split('\n')
    .find((it) => it.startsWith(name))
  return Number(line?.split(' ').at(-1) ?? 0)
}

async function storedFiles(root: string, folder: string): Promise<string[]> {
  const entries = await readdir(path.join(root, folder), { recursive: true, withFileTypes: true }).catch(
    () => [],
  )
  return entries.filter((entry) => entry.isFile()).map(({ name }) => name)
}

test('a tail that is wrong once is fetched again and no client notices', async (t) => {
  const { upstream, mirror, layer, url } = await setUp(t, 4 * MiB)
  upstream.fault({ kind: 'blob', ref: layer.digest, times: 1 }, { corrupt: 'tail' })
  const pulled = await Promise.all(Array.from({ length: 20 }, () => pullSame(url, layer)))
  t.ok(pulled.every(({ same, broken }) => same && !broken))
  t.equal(upstream.log.count({ kind: 'blob', ref: layer.digest }), 2)
  await settled(mirror)
  t.equal((await pullSame(url, layer)).cache, 'hit')
  const metrics = (await pull(`${mirror.url}/metrics`)).body
  t.equal(metric(metrics, 'entrepot_integrity_failures_total'), 1)
})

test('a client that was sent a wrong byte is broken off; one that comes later gets the right bytes', async (t) => {
  const { upstream, layer, url } = await setUp(t, 4 * MiB, { upstream: { bytesPerSecond: 16 * MiB } })
  upstream.fault({ kind: 'blob', ref: layer.digest, times: 1 }, { corrupt: 100_000 })
  const pulled = await pullSame(url, layer)
  t.notOk(pulled.same)
  t.ok(pulled.broken, 'the socket was destroyed short of the length')
  t.ok(pulled.bytes < layer.bytes.length)
  t.ok((await pullSame(url, layer)).same)
})

for (const size of [4 * MiB, 30_000]) {
  test(`always wrong bytes never arrive whole, and healing heals (${size} bytes)`, async (t) => {
    let now = Date.now()
    const { upstream, mirror, layer, url } = await setUp(t, size, { mirror: { now: () => now } })
    const rule = upstream.fault({ kind: 'blob', ref: layer.digest }, { corrupt: 'tail' })
    for (let round = 0; round < 2; round += 1) {
      const pulled = await Promise.all(Array.from({ length: 5 }, () => pull(url)))
      t.notOk(pulled.some((it) => isWhole(it, layer)))
      t.ok(pulled.every(({ status, broken }) => status === 502 || broken !== undefined))
      if (size < 65_536)
        t.ok(
          pulled.every(({ status }) => status === 502),
          'not even a head',
        )
    }
    t.equal(upstream.log.count({ kind: 'blob', ref: layer.digest }), 2, 'then the digest is left alone')
    t.same(await storedFiles(mirror.root, 'blobs'), [], 'the cache got nothing')
    await settled(mirror)
    t.same(await storedFiles(mirror.root, 'ingest'), [])

    rule.remove()
    const refused = await pull(url)
    t.equal(refused.status, 502)
    t.ok(Number(refused.headers['retry-after']) <= 10)
    now += 10_001
    t.ok((await pullSame(url, layer)).same)
  })
}

test('a client that resumes does not get the last bytes of a wrong blob either', async (t) => {
  const { upstream, layer, url } = await setUp(t, 4 * MiB)
  upstream.fault({ kind: 'blob', ref: layer.digest }, { corrupt: 'tail' })
  const resumed = await pull(url, { range: `bytes=${1 * MiB}-` })
  t.ok(resumed.body.length <= 3 * MiB - 65_536)
  t.ok(resumed.status === 502 || resumed.broken !== undefined)
})

test('three cuts of a 128 MiB layer are continued, and hardly a byte is fetched twice', async (t) => {
  const { upstream, mirror, layer, url } = await setUp(t, 128 * MiB, {
    mirror: { upstream: { segments: { parallel: 1 } } },
  })
  upstream.fault({ kind: 'blob', ref: layer.digest, times: 3 }, { dropAfterBytes: 30 * MiB, how: 'rst' })
  const pulled = await Promise.all([pullSame(url, layer), pullSame(url, layer)])
  t.ok(pulled.every(({ same }) => same))
  const requests = upstream.log.of({ kind: 'blob', ref: layer.digest })
  t.equal(requests.length, 4)
  t.ok(requests.slice(1).every(({ headers }) => /^bytes=[1-9]\d*-/.test(headers.range ?? '')))
  const metrics = (await pull(`${mirror.url}/metrics`)).body
  const received = metric(metrics, 'entrepot_upstream_bytes_total')
  t.ok(received < 1.05 * 128 * MiB, `received ${received}`)
})

const CUTS = ['rst', 'fin', 'cleanChunkEnd', 'shortContentLength'] as const
for (const how of CUTS) {
  test(`a body that ends early (${how}) is continued when its length is known from the manifest`, async (t) => {
    const { upstream, mirror, layer, url } = await setUp(t, 3 * MiB)
    await pull(`${mirror.url}/v2/library/big/manifests/1`)
    upstream.fault({ kind: 'blob', ref: layer.digest, times: 2 }, { dropAfterBytes: 1 * MiB, how })
    const pulled = await pullSame(url, layer)
    if (how === 'shortContentLength') {
      // A length that is not the descriptor's is an error before any head.
      t.equal(pulled.status, 502)
      return
    }
    t.ok(pulled.same)
  })
}

test('a body that ends cleanly but early, its length unknown, is not believed', async (t) => {
  const { upstream, layer, url } = await setUp(t, 3 * MiB)
  upstream.fault(
    { kind: 'blob', ref: layer.digest, times: 1 },
    { dropAfterBytes: 1 * MiB, how: 'cleanChunkEnd' },
  )
  const pulled = await pullSame(url, layer)
  t.ok(pulled.same, 'fetched once more from the start')
})

test('an upstream that ignores Range on the continuation is read past what is here', async (t) => {
  const { upstream, layer, url } = await setUp(t, 3 * MiB)
  upstream.fault({ kind: 'blob', ref: layer.digest, nth: 1 }, { dropAfterBytes: 2 * MiB })
  upstream.fault({ kind: 'blob', ref: layer.digest, nth: 2 }, { ignoreRange: true })
  t.ok((await pullSame(url, layer)).same)
})

test('an upstream that gives no progress is given up, and the client is broken off', async (t) => {
  const { upstream, layer, url, mirror } = await setUp(t, 3 * MiB)
  upstream.fault({ kind: 'blob', ref: layer.digest, nth: 1 }, { dropAfterBytes: 2 * MiB, how: 'fin' })
  upstream.fault(
    { kind: 'blob', ref: layer.digest, when: ({ headers }) => headers.range !== undefined },
    { status: 500 },
  )
  const pulled = await pullSame(url, layer)
  t.ok(pulled.broken)
  t.ok(pulled.bytes < layer.bytes.length)
  await settled(mirror)
  upstream.rules.clear()
  const again = await pullSame(url, layer)
  t.ok(again.same)
  t.match(
    upstream.log.of({ kind: 'blob', ref: layer.digest }).at(-1)?.headers.range,
    /^bytes=[1-9]/,
    'goes on from there',
  )
})

test('a range far ahead of a slow fill is fetched at once, and no byte twice', async (t) => {
  const { upstream, layer, url, mirror } = await setUp(t, 32 * MiB, { upstream: { bytesPerSecond: 8 * MiB } })
  const whole = pullSame(url, layer)
  await upstream.log.until((log) => log.bytesSent('blob') > 0)
  const start = 24 * MiB
  const part = await pull(url, { range: `bytes=${start}-${start + 99_999}` })
  t.equal(part.status, 206)
  t.ok(part.body.equals(layer.bytes.subarray(start, start + 100_000)))
  const soFar = upstream.log.bytesSent({ kind: 'blob', ref: layer.digest })
  t.ok(soFar < 20 * MiB, 'the rest was not waited for')
  upstream.set({ bytesPerSecond: undefined })
  t.ok((await whole).same)
  const received = metric((await pull(`${mirror.url}/metrics`)).body, 'entrepot_upstream_bytes_total')
  t.ok(received <= 32 * MiB + 2 * LOST_BY_A_CUT, `received ${received}`)
})

test('openEndedRangeFanout: ranges that are cut after their piece cost one transfer in all', async (t) => {
  const { layer, url, mirror } = await setUp(t, 48 * MiB, {
    upstream: { bytesPerSecond: 64 * MiB },
  })
  const piece = 12 * MiB
  const readPiece = async (index: number): Promise<Buffer> =>
    (await pullSome(url, piece, { range: `bytes=${index * piece}-` })).subarray(0, piece)
  const pieces = await Promise.all([0, 1, 2, 3].map((index) => readPiece(index)))
  t.ok(Buffer.concat(pieces).equals(layer.bytes))
  await settled(mirror)
  t.equal((await pullSame(url, layer)).cache, 'hit')
  // Three transfers end where the next has begun; what was under way to us by then is lost.
  const received = metric((await pull(`${mirror.url}/metrics`)).body, 'entrepot_upstream_bytes_total')
  t.ok(received <= 48 * MiB + 3 * LOST_BY_A_CUT, `received ${received}`)
})

test('a stopped server keeps its partial fills and the next start goes on from there', async (t) => {
  const { upstream, mirror, layer, url } = await setUp(t, 24 * MiB, {
    upstream: { bytesPerSecond: 8 * MiB },
  })
  const cut = pullSame(url, layer)
  await upstream.log.until((log) => log.bytesSent('blob') > 6 * MiB)
  await mirror.close()
  t.ok((await cut).broken)
  const next = await startMirror(t, upstream, { root: mirror.root })
  upstream.log.clear()
  upstream.set({ bytesPerSecond: undefined })
  const pulled = await pullSame(`${next.url}/v2/library/big/blobs/${layer.digest}`, layer)
  t.ok(pulled.same)
  t.match(upstream.log.of('blob')[0]?.headers.range, /^bytes=[1-9]/)
})

test('wrong bytes left by an earlier process are fetched anew, not called corruption', async (t) => {
  const { upstream, mirror, layer, url } = await setUp(t, 8 * MiB, { upstream: { bytesPerSecond: 16 * MiB } })
  upstream.fault({ kind: 'blob', ref: layer.digest, times: 1 }, { corrupt: 1000 })
  const cut = pullSame(url, layer)
  await upstream.log.until((log) => log.bytesSent('blob') > 4 * MiB)
  await mirror.close()
  await cut
  const next = await startMirror(t, upstream, { root: mirror.root })
  const nextUrl = `${next.url}/v2/library/big/blobs/${layer.digest}`
  await pullSame(nextUrl, layer)
  await eventually('it is right', async () => (await pullSame(nextUrl, layer)).same)
})

test('a manifest whose bytes are not its digest is refused and not kept', async (t) => {
  const upstream = await simulate(t)
  const small: { manifest: Content } = image({ layers: [10] })
  upstream.addImage('library/small', '1', small as ReturnType<typeof image>)
  const mirror = await startMirror(t, upstream)
  upstream.fault({ kind: 'manifest' }, { corrupt: 'tail' })
  const url = `${mirror.url}/v2/library/small/manifests/${small.manifest.digest}`
  t.equal((await pull(url)).status, 503)
  upstream.rules.clear()
  t.ok(isWhole(await pull(url), small.manifest))
})
