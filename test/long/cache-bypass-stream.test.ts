/** What is streamed past the disk is verified, held back and continued like anything else. */
import { test } from 'tap'
import { request } from 'undici'
import type { Content } from '../support/images.ts'
import { isWhole, pull, pullSame, pullSome } from '../support/app.ts'
import { bypassing, REFUSES, said, setUp } from '../support/trouble.ts'

const MiB = 1024 * 1024

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
  upstream.fault({ kind: 'blob', method: 'GET', nth: 3 }, { status: 503, retryAfter: 1 })
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
  t.ok(asked < 3 * MiB * 3.5, 'the part that reaches the end costs the whole, the others what they are')
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

test('who has to wait for a turn in bypass has a head within the budget, and the body when it comes', async (t) => {
  const { upstream, layers, url, mirror } = await bypassing(t, [32 * MiB, 20_000], {
    mirror: { budgetMs: 2_000 },
  })
  const [layer, small] = layers as [Content, Content]
  await pull(url(layer), {}, 'HEAD')
  const stalled = await Promise.all(Array.from({ length: 6 }, () => request(url(layer))))
  for (const { body } of stalled) body.on('error', () => undefined)
  t.equal(upstream.log.inFlight('blob'), 6, 'all turns are taken')
  const waiting = await request(url(layer), { headersTimeout: 10_000 })
  t.equal(waiting.statusCode, 200)
  // Its head may not be out before it is verified.
  t.equal((await pull(url(small))).status, 503)
  for (const { body } of stalled) body.destroy()
  t.ok(Buffer.from(await waiting.body.arrayBuffer()).equals(layer.bytes))
  t.ok((await pullSame(url(small), small)).same)
  t.same(said(mirror, 'error'), [])
})

test('a client that takes nothing for 10 s gives its transfer back, and has the rest when it reads on', async (t) => {
  const { upstream, layers, url, mirror } = await bypassing(t, [32 * MiB])
  const [layer] = layers as [Content]
  const stalled = await request(url(layer))
  t.equal(stalled.statusCode, 200)
  await upstream.log.until((log) => log.inFlight('blob') === 1)
  await upstream.log.until((log) => log.inFlight('blob') === 0)
  t.ok(upstream.log.bytesSent('blob') < layer.bytes.length, 'it was not sent to its end')
  t.ok(Buffer.from(await stalled.body.arrayBuffer()).equals(layer.bytes))
  t.same(said(mirror, 'error'), [])
})

test('an upstream that hangs in bypass is an honest error within the budget', async (t) => {
  const { upstream, layers, url, mirror } = await bypassing(t, [MiB], { mirror: { budgetMs: 2_000 } })
  const [layer] = layers as [Content]
  const rule = upstream.fault({ kind: 'blob', method: 'GET' }, { hang: 'headers' })
  t.equal((await pull(url(layer))).status, 503)
  await upstream.log.until((log) => log.inFlight('blob') === 0)
  rule.remove()
  t.ok((await pullSame(url(layer), layer)).same)
  t.same(said(mirror, 'error'), [])
})
