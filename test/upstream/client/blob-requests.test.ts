import { createServer, type AddressInfo } from 'node:net'
import { test } from 'tap'
import { image } from '../../support/images.ts'
import {
  bytesOf,
  clientFor,
  connect,
  failureOf,
  LATEST,
  NAME,
  valueOf,
} from '../../support/upstream-client.ts'
import { standstill } from '../../support/stalled.ts'

const MiB = 1024 * 1024
const large = image({ layers: [64 * MiB], seed: 'large' })
const { digest, bytes } = large.layers[0]!

void test('a reader that does not read holds up the upstream, not memory', async (t) => {
  const { client, upstream, metrics, signal } = await connect(t, {}, {}, large)
  const blob = await client.blob(NAME, digest, { from: 0, signal })
  // More than this host's socket buffers hold has to be stuck on the other side; when it moves no more, look.
  const sent = await standstill(() => upstream.log.bytesSent('blob'))
  const received = await valueOf(metrics.upstreamBytes, {})
  t.ok(received <= 3 * MiB, `${received} bytes are held here`)
  t.ok(sent < 32 * MiB, `${sent} bytes have left the upstream`)
  t.ok((await bytesOf(blob)).equals(bytes), 'and after the pause everything comes')
})

void test('cancelling a body closes the connection', async (t) => {
  const { client, upstream, signal } = await connect(t, {}, {}, large)
  const blob = await client.blob(NAME, digest, { from: 0, signal })
  blob!.cancel()
  await upstream.log.until((log) => log.inFlight('blob') === 0)
  t.equal(upstream.log.of('blob')[0]?.aborted, true)
  await t.rejects(bytesOf(blob), 'whoever still reads is told')
  blob!.cancel()
})

void test('leaving the loop early closes the connection', async (t) => {
  const { client, upstream, signal } = await connect(t, {}, {}, large)
  const blob = await client.blob(NAME, digest, { from: 0, signal })
  for await (const batch of blob!.body) {
    t.ok(batch.length > 0)
    break
  }
  await upstream.log.until((log) => log.inFlight('blob') === 0)
  t.equal(upstream.log.of('blob')[0]?.aborted, true)
})

void test('cancelling after the end does nothing', async (t) => {
  const { client, upstream, image, signal } = await connect(t)
  const blob = await client.blob(NAME, image.layers[0]!.digest, { from: 0, signal })
  await bytesOf(blob)
  blob!.cancel()
  await client.manifest(NAME, LATEST, signal)
  t.equal(
    upstream.log.count(({ aborted }) => aborted),
    0,
  )
})

void test('an abort while the head is awaited closes the connection', async (t) => {
  const { client, upstream, image } = await connect(t)
  upstream.fault({ kind: 'blob' }, { hang: 'headers' })
  const leaving = new AbortController()
  const asked = client.blob(NAME, image.layers[0]!.digest, { from: 0, signal: leaving.signal })
  await upstream.log.until((log) => log.inFlight('blob') === 1)
  const reason = new Error('enough')
  leaving.abort(reason)
  await t.rejects(asked, reason)
  await upstream.log.until((log) => log.inFlight('blob') === 0)
})

void test('an abort while all connections are busy is heard at once', async (t) => {
  const { client, upstream, image, signal } = await connect(t, {}, { maxConnections: 1 })
  upstream.fault({ kind: 'blob' }, { hang: 'headers' })
  const { digest } = image.layers[0]!
  const occupying = new AbortController()
  const first = client.blob(NAME, digest, { from: 0, signal: occupying.signal })
  await upstream.log.until((log) => log.inFlight('blob') === 1)
  const leaving = new AbortController()
  const queued = client.manifest(NAME, LATEST, leaving.signal)
  await new Promise((resolve) => setImmediate(resolve)) // it is in the queue now
  leaving.abort(new Error('enough'))
  await t.rejects(queued, { message: 'enough' })
  occupying.abort(new Error('over'))
  await t.rejects(first, { message: 'over' })
  t.ok(await client.manifest(NAME, LATEST, signal), 'and the client is as good as before')
  t.equal(upstream.log.count('manifest'), 1, 'what was given up in the queue was never asked')
})

void test('a body that breaks off gives what came, then the failure', async (t) => {
  for (const how of ['rst', 'fin', 'shortContentLength', 'cleanChunkEnd'] as const) {
    const { client, upstream, signal } = await connect(t, {}, {}, large)
    upstream.fault({ kind: 'blob' }, { dropAfterBytes: 5 * MiB, how })
    const blob = await client.blob(NAME, digest, { from: 0, signal })
    let received = 0
    const reading = (async () => {
      for await (const batch of blob!.body) {
        for (const chunk of batch) {
          t.ok(chunk.equals(bytes.subarray(received, received + chunk.length)))
          received += chunk.length
        }
      }
    })()
    if (how === 'rst' || how === 'fin') {
      t.equal((await failureOf(reading)).failure, 'unreachable', how)
      t.ok(received <= 5 * MiB && received > 0, `${how}: ${received}`)
    } else {
      // Framing cannot tell: only the size of the blob, and its digest, do.
      await reading
      t.equal(received, 5 * MiB, how)
      t.equal(blob!.size, how === 'shortContentLength' ? 5 * MiB : undefined)
    }
  }
})

void test('a registry that ignores ranges says so by where it starts', async (t) => {
  const { client, upstream, image, signal } = await connect(t)
  upstream.fault({ kind: 'blob' }, { ignoreRange: true })
  const blob = await client.blob(NAME, image.layers[0]!.digest, { from: 500, signal })
  t.match(blob, { start: 0, size: 100_000 })
  t.ok((await bytesOf(blob)).equals(image.layers[0]!.bytes))
})

void test('badContentRange: a part that is not the one asked for is refused, and the whole asked for', async (t) => {
  const { client, upstream, image, signal } = await connect(t)
  const { digest, bytes } = image.layers[0]!
  const ask = () => client.blob(NAME, digest, { from: 500, signal })
  for (const contentRange of [
    'none',
    'nonsense',
    'bytes 600-100099/100100', // begins too late
    'bytes 500-99998/100000', // not the length of the body
    'bytes 500-99999/99999', // beyond its own size
    'bytes 500-400/100000',
    'items 500-99999/100000',
  ]) {
    const rule = upstream.fault({ kind: 'blob' }, { contentRange })
    const blob = await ask()
    t.equal(blob?.start, 0, contentRange)
    t.ok((await bytesOf(blob)).equals(bytes))
    t.equal(rule.hits, 2)
    rule.remove()
  }
  upstream.fault({ kind: 'blob' }, { contentRange: 'bytes 0-99999/100000', framing: 'chunked' })
  t.match(await ask(), { start: 0, size: 100_000 }, 'one that begins earlier is fine')
})

void test('starTotal: an unknown total is fine', async (t) => {
  const { client, upstream, image, signal } = await connect(t)
  upstream.fault({ kind: 'blob' }, { starTotal: true })
  const blob = await client.blob(NAME, image.layers[0]!.digest, { from: 500, signal })
  t.match(blob, { start: 500, size: undefined })
})

void test('multipartAlways: a part in an envelope is not taken for the part', async (t) => {
  const { client, upstream, image, signal } = await connect(t)
  upstream.fault({ kind: 'blob' }, { multipartAlways: true })
  const { digest, bytes } = image.layers[0]!
  for (const to of [undefined, 1000]) {
    const blob = await client.blob(NAME, digest, { from: 500, ...(to === undefined ? {} : { to }), signal })
    t.equal(blob?.start, 0)
    t.ok((await bytesOf(blob)).equals(bytes))
  }
})

void test('range416Open: a range has an end as soon as one is known', async (t) => {
  const { client, upstream, image, signal } = await connect(t)
  upstream.fault({ kind: 'blob' }, { range416Open: true })
  const { digest } = image.layers[0]!
  t.match(await client.blob(NAME, digest, { from: 500, size: 100_000, signal }), { start: 500 })
  t.equal(upstream.log.of('blob').at(-1)?.headers.range, 'bytes=500-99999')
  t.match(await client.blob(NAME, digest, { from: 500, signal }), { start: 0 }, 'else the whole comes')
  t.equal(upstream.log.of('blob').at(-1)?.headers.range, undefined)
})

void test("wrongContentLength: a length that is not the descriptor's is told at once", async (t) => {
  const { client, upstream, image, metrics, signal } = await connect(t)
  const { digest } = image.layers[0]!
  for (const wrongContentLength of [7, -7]) {
    const rule = upstream.fault({ kind: 'blob' }, { wrongContentLength })
    for (const from of [0, 500]) {
      const failure = await failureOf(client.blob(NAME, digest, { from, size: 100_000, signal }))
      t.match(failure, { failure: 'broken', wrongContent: true, isHostwide: false })
    }
    rule.remove()
  }
  t.equal(await valueOf(metrics.integrityFailures, {}), 4)
})

void test('a blob under another name than asked for is refused before it is read', async (t) => {
  const { client, upstream, image, signal } = await connect(t)
  const { digest } = image.layers[0]!
  upstream.fault({ kind: 'blob' }, { digestHeader: large.layers[0]!.digest })
  const failure = await failureOf(client.blob(NAME, digest, { from: 0, signal }))
  t.match(failure, { failure: 'broken', wrongContent: true })
})

void test('a HEAD of a blob that fails is a failure, not an absence', async (t) => {
  const { client, upstream, image, signal } = await connect(t)
  for (const [status, failure] of [
    [500, 'broken'],
    // The last: whoever limits us is asked nothing more.
    [429, 'busy'],
  ] as const) {
    const rule = upstream.fault({ kind: 'blob' }, { status })
    t.equal((await failureOf(client.headBlob(NAME, image.layers[0]!.digest, signal))).failure, failure)
    rule.remove()
  }
})

void test('what is beyond the end by more than a byte is an error', async (t) => {
  const { client, image, signal } = await connect(t)
  const asked = client.blob(NAME, image.layers[0]!.digest, { from: 100_001, signal })
  t.match(await failureOf(asked), { failure: 'broken', status: 416 })
})

void test('blobHead401: a registry that does not answer HEAD for blobs is asked for a byte, from then on at once', async (t) => {
  const { client, upstream, image, signal } = await connect(t)
  upstream.fault({ kind: 'blob', method: 'HEAD' }, { status: 401 })
  const { digest } = image.layers[0]!
  t.same(await client.headBlob(NAME, digest, signal), { size: 100_000 })
  t.same(await client.headBlob(NAME, digest, signal), { size: 100_000 })
  t.equal(upstream.log.count({ kind: 'blob', method: 'HEAD' }), 1)
  t.equal(upstream.log.bytesSent({ kind: 'blob', method: 'GET' }), 2)
})

void test('getOnlySignature: a CDN never sees a HEAD, it is asked for a byte', async (t) => {
  const { client, upstream, image, signal } = await connect(t, { cdn: { getOnlySignature: true } })
  const { digest } = image.layers[0]!
  t.same(await client.headBlob(NAME, digest, signal), { size: 100_000 })
  t.same(await client.headBlob(NAME, digest, signal), { size: 100_000 })
  t.equal(upstream.log.count({ kind: 'cdn', method: 'HEAD' }), 0)
  t.equal(upstream.log.bytesSent({ kind: 'cdn', method: 'GET' }), 2)
  t.equal(upstream.log.count({ kind: 'blob', method: 'HEAD' }), 1, 'where it is redirected it is of no use')
})

const short = 200
const long = 60_000

// Undici's clock for these ticks about once a second, so everything that can wait together does.

void test('a head that does not come is waited for only so long, and once', async (t) => {
  const timeouts = { connect: long, headers: short, idle: long }
  const { client, upstream, image, signal } = await connect(t, {}, { timeouts })
  const rule = upstream.fault({}, { hang: 'headers' })
  const { digest } = image.layers[0]!
  const failures = await Promise.all([
    failureOf(client.manifest(NAME, LATEST, signal)),
    failureOf(client.blob(NAME, digest, { from: 0, signal })),
  ])
  t.same(
    failures.map(({ failure }) => failure),
    ['unreachable', 'unreachable'],
  )
  t.equal(rule.hits, 2)
})

void test('a body that stands still is waited for only so long', async (t) => {
  const timeouts = { connect: long, headers: long, idle: short }
  const { client, upstream, image, signal } = await connect(t, {}, { timeouts })
  upstream.fault({}, { hang: 'midBody' })
  const manifest = failureOf(client.manifest(NAME, LATEST, signal))
  const blob = await client.blob(NAME, image.layers[0]!.digest, { from: 0, signal })
  t.equal((await failureOf(bytesOf(blob))).failure, 'unreachable')
  t.equal((await manifest).failure, 'unreachable')
  await upstream.log.until((log) => log.inFlight('blob') === 0)
})

void test('a body that comes slowly is waited for, and so is a slow reader', async (t) => {
  const timeouts = { connect: long, headers: long, idle: short }
  const { client, upstream, image, signal } = await connect(t, {}, { timeouts })
  upstream.addImage(NAME, undefined, large)
  upstream.fault({ ref: image.layers[0]!.digest }, { bytesPerSecond: 100_000 })
  const slow = await client.blob(NAME, image.layers[0]!.digest, { from: 0, signal })
  const paused = await client.blob(NAME, digest, { from: 0, signal })
  // Far longer than the time-out; the other body must not stop in the meantime.
  t.equal((await bytesOf(slow)).length, 100_000)
  t.equal((await bytesOf(paused)).length, 64 * MiB)
})

void test('a connection that does not come about is waited for only so long, TLS included', async (t) => {
  const silent = createServer(() => undefined)
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
  t.teardown(() => silent.close())
  const { port } = silent.address() as AddressInfo
  const timeouts = { connect: short, headers: long, idle: long }
  const client = clientFor(t, { url: `https://127.0.0.1:${port}`, timeouts })
  const { signal } = new AbortController()
  t.equal((await failureOf(client.manifest(NAME, LATEST, signal))).failure, 'unreachable')
})
