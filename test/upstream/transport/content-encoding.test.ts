import { test } from 'tap'
import { content, image } from '../../support/images.ts'
import { bytesOf, connect, failureOf, LATEST, NAME } from '../../support/upstream-client.ts'

const large = image({ layers: [8 * 1024 * 1024], seed: 'encoded' })
const { digest, bytes } = large.layers[0]!

for (const [row, encoding] of [
  ['gzipEncoding', 'gzip'],
  ['gzipEncoding', 'deflate'],
  ['gzipEncoding', 'br'],
  ['xGzip', 'x-gzip'],
  ['zstdEncoding', 'zstd'],
] as const) {
  void test(`${row}: what came in ${encoding} unasked is decoded`, async (t) => {
    const { client, upstream, signal } = await connect(t, { token: {}, cdn: {} }, {}, large)
    upstream.fault({}, { encoding })
    const manifest = await client.manifest(NAME, LATEST, signal)
    t.ok(manifest?.bytes.equals(large.manifest.bytes))
    const blob = await client.blob(NAME, digest, { from: 0, signal })
    t.equal(blob?.size, undefined, 'the length of the encoded bytes says nothing')
    t.ok((await bytesOf(blob)).equals(bytes))
    const rest = await client.blob(NAME, digest, { from: 500, signal })
    t.equal(rest?.start, 0, 'a range is of something else')
    t.ok((await bytesOf(rest)).equals(bytes))
    const asked = upstream.log.of((entry) => entry.headers['accept-encoding'] === 'identity')
    t.equal(asked.length, upstream.log.count())
    t.same(await client.headManifest(NAME, LATEST, signal), { result: 'unusable' }, 'its length neither')
  })
}

void test('gzipEncoding: what claims to be encoded and is not, or breaks off, is a failure', async (t) => {
  const { client, upstream, signal } = await connect(t, {}, {}, large)
  const claim = upstream.fault({}, { headers: { 'content-encoding': 'gzip' } })
  t.equal((await failureOf(client.manifest(NAME, LATEST, signal))).failure, 'broken')
  const plain = await client.blob(NAME, digest, { from: 0, signal })
  t.equal((await failureOf(bytesOf(plain))).failure, 'broken')
  claim.remove()
  upstream.fault({ kind: 'blob' }, { encoding: 'gzip', dropAfterBytes: 1_000_000 })
  const cut = await client.blob(NAME, digest, { from: 0, signal })
  t.equal((await failureOf(bytesOf(cut))).failure, 'unreachable')
})

void test('an encoding that nobody knows is refused, and so is a part of an encoded body', async (t) => {
  const { client, upstream, signal } = await connect(t, {}, {}, large)
  for (const coding of ['lzma', 'gzip, br']) {
    const rule = upstream.fault({}, { headers: { 'content-encoding': coding } })
    t.equal((await failureOf(client.manifest(NAME, LATEST, signal))).failure, 'broken', coding)
    const asked = client.blob(NAME, digest, { from: 0, signal })
    t.equal((await failureOf(asked)).failure, 'broken', coding)
    rule.remove()
  }
  upstream.fault(
    { when: (it) => it.headers.range !== undefined },
    { headers: { 'content-encoding': 'gzip' } },
  )
  t.match(await client.blob(NAME, digest, { from: 500, signal }), { start: 0 }, 'the whole is asked for')
})

void test('a small answer that decodes to a very large one is not read to its end', async (t) => {
  const { client, upstream, signal } = await connect(t)
  upstream.holdings.addManifest(NAME, LATEST, content('application/json', Buffer.alloc(64 << 20, '{')))
  upstream.fault({ kind: 'manifest' }, { encoding: 'gzip' })
  t.equal((await failureOf(client.manifest(NAME, LATEST, signal))).failure, 'broken')
})

void test('a body that nobody wants any more is given up, begun or not', async (t) => {
  const { client, upstream, signal } = await connect(t, {}, {}, large)
  upstream.fault({}, { encoding: 'gzip', bytesPerSecond: 4_000_000 })
  const unread = await client.blob(NAME, digest, { from: 0, signal })
  unread!.cancel()
  const begun = await client.blob(NAME, digest, { from: 0, signal })
  for await (const batch of begun!.body) {
    t.ok(batch.length > 0)
    break
  }
  await upstream.log.until((log) => log.inFlight('blob') === 0)
  t.equal(
    upstream.log.count(({ aborted }) => aborted),
    2,
  )
})
