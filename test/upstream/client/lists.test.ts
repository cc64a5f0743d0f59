import { test } from 'tap'
import { digestOf } from '../../../src/oci/digest.ts'
import { nextPageOf } from '../../../src/upstream/transport/responses.ts'
import { image } from '../../support/images.ts'
import { connect, failureOf, NAME } from '../../support/upstream-client.ts'

const none = new URLSearchParams()
const type = 'application/json'

void test('tagsList: paged: the next page is found in every kind of Link', async (t) => {
  for (const linkStyle of ['relative', 'absolute', 'opaque'] as const) {
    const { client, upstream, signal } = await connect(t, { linkStyle, pageSize: 2 })
    for (const tag of ['a', 'b', 'c']) upstream.addImage(NAME, tag, image())
    const all: string[] = []
    for (let query: URLSearchParams | undefined = none; query !== undefined;) {
      const page = await client.tags(NAME, query, signal)
      all.push(...(page?.tags ?? []))
      query = page?.next
    }
    t.same(all, ['a', 'b', 'c', 'latest'])
  }
})

void test('cursors are handed on unread, and other links passed over', async (t) => {
  const { client, upstream, signal } = await connect(t)
  for (const [link, expected] of [
    ['</v2/x/tags/list?next_page=gAAAA%2Bx%3D>; rel="next"', 'next_page=gAAAA%2Bx%3D'],
    ['<https://quay.io/v2/x/tags/list?n=100&last=b>;rel=next', 'n=100&last=b'],
    ['</first>; rel="first", </v2/x?last=z>; title="a, b"; rel="next"', 'last=z'],
    ['</first>; rel="first"', undefined],
    ['</v2/x?last=z>; REL = "prev NEXT"', 'last=z'],
    ['</v2/x?last=z>; rel="nextish"', undefined],
    ['nonsense', undefined],
    ['<http://>; rel="next"', undefined],
  ] as const) {
    const rule = upstream.fault({ kind: 'tags' }, { headers: { link } })
    t.equal((await client.tags(NAME, none, signal))?.next?.toString(), expected, link)
    rule.remove()
  }
})

void test('the query goes to the registry as the client sent it', async (t) => {
  const { client, upstream, signal } = await connect(t)
  await client.tags(NAME, new URLSearchParams('n=0&last=x%2Fy'), signal)
  t.equal(upstream.log.entries[0]?.url, '/v2/library/thing/tags/list?n=0&last=x%2Fy')
})

void test('tagsList: null, extraKeys: what registries call a list of tags', async (t) => {
  const { client, upstream, signal } = await connect(t)
  for (const [text, expected] of [
    ['{"name":"x","tags":null}', []],
    ['{"name":"x","tags":[]}', []],
    ['{"tags":["a"],"child":[],"manifest":{}}', ['a']],
  ] as const) {
    const rule = upstream.fault({ kind: 'tags' }, { status: 200, body: { text, type } })
    t.same((await client.tags(NAME, none, signal))?.tags, expected)
    rule.remove()
  }
  for (const text of ['', 'null', '[]', '{"tags":"a"}', '{}']) {
    const rule = upstream.fault({ kind: 'tags' }, { status: 200, body: { text, type } })
    t.equal((await failureOf(client.tags(NAME, none, signal))).failure, 'broken', text)
    rule.remove()
  }
})

void test('referrers: 404, 400, 501: a registry without that API is told from one that fails', async (t) => {
  const { client, upstream, image, signal } = await connect(t, { referrers: 'unsupported' })
  const subject = image.manifest.digest
  t.equal(await client.referrers(NAME, subject, none, signal), undefined)
  for (const [status, body] of [
    [400, 'json'],
    [405, 'json'],
    [501, 'json'],
    [200, 'json'],
  ] as const) {
    const rule = upstream.fault({ kind: 'referrers' }, { status, body })
    t.equal(await client.referrers(NAME, subject, none, signal), undefined, String(status))
    rule.remove()
  }
  for (const [status, failure] of [
    [401, 'denied'],
    [403, 'denied'],
    [500, 'broken'],
    [503, 'broken'],
    // After this one nobody is asked any more.
    [429, 'busy'],
  ] as const) {
    const rule = upstream.fault({ kind: 'referrers' }, { status })
    t.equal((await failureOf(client.referrers(NAME, subject, none, signal))).failure, failure)
    rule.remove()
  }
})

void test('referrers: 303html: a registry that sends to a web page elsewhere has no such API', async (t) => {
  const { client, upstream, image, signal } = await connect(t)
  const elsewhere = await connect(t)
  const location = `${elsewhere.upstream.url}/-/v2/packages/container/package/o%2Fr%2Freferrers`
  upstream.fault({ kind: 'referrers' }, { status: 303, headers: { location } })
  for (const status of [200, 404, 429]) {
    const rule = elsewhere.upstream.fault({}, { status, body: 'html' })
    t.equal(await client.referrers(NAME, image.manifest.digest, none, signal), undefined, String(status))
    rule.remove()
  }
})

void test('referrers: what another registry says that we are sent to is the word of one', async (t) => {
  const there = await connect(t)
  const { client, image, signal } = await connect(t, {
    elsewhere: ({ url }) => `${there.upstream.url}${url}`,
  })
  const { digest } = image.manifest
  for (const [status, failure] of [
    [403, 'denied'],
    [429, 'busy'],
  ] as const) {
    const rule = there.upstream.fault({}, { status })
    t.match(await failureOf(client.referrers(NAME, digest, none, signal)), { failure, status })
    rule.remove()
    // A limit is kept to for a while.
    if (status === 403) t.ok(await client.referrers(NAME, digest, none, signal))
  }
})

void test('nothing refers to what nobody knows', async (t) => {
  const { client, signal } = await connect(t)
  const page = await client.referrers(NAME, digestOf(Buffer.from('unknown')), none, signal)
  t.match(JSON.parse(page!.bytes.toString()), { manifests: [] })
})

void test('referrers: paged: they come in pages, too', async (t) => {
  const { client, upstream, image: subject, signal } = await connect(t, { pageSize: 1 })
  for (const seed of [1, 2]) upstream.addImage(NAME, undefined, image({ subject: subject.manifest, seed }))
  const first = await client.referrers(NAME, subject.manifest.digest, none, signal)
  const second = await client.referrers(NAME, subject.manifest.digest, first!.next!, signal)
  t.equal(second?.next, undefined)
  t.notSame(first?.bytes, second?.bytes)
})

void test('a long Link is read once, whatever it is made of', (t) => {
  const before = process.threadCpuUsage()
  for (const piece of ['next ', '<', '<a>', '; ', ';rel="', ';rel = ', '; rel= "next', ' next"']) {
    for (const start of ['', '<a>;rel="', '<a>;rel=', '<a>;']) {
      const link = start + piece.repeat(600_000 / piece.length)
      nextPageOf({ link }, new URL('http://127.0.0.1/'))
    }
  }
  const { user, system } = process.threadCpuUsage(before)
  // Less than a second; where it is quadratic a single one of them takes fifty.
  t.ok(user + system < 30e6, `${user + system} µs`)
  t.end()
})
