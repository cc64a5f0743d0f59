/** Tags, referrers and catalogs of registries that list them oddly, or not at all. */
import { test } from 'tap'
import { image } from '../../support/images.ts'
import { pagesOf, tagsOf } from '../../support/pages.ts'
import type { LogEntry } from '../../support/upstream-log.ts'
import { codeOf, startTwoUpstreams } from '../../support/two-upstreams.ts'
import type { Pulled } from '../../support/app.ts'

const one = image({ layers: [10], seed: 'one' })

for (const referrers of ['unsupported', '303html', '400', '501'] as const) {
  test(`referrers: ${referrers}: there is no such API, and clients are told so`, async (t) => {
    const { hub, get } = await startTwoUpstreams(t, { simulated: { referrers } })
    hub.addImage('library/app', '1', one)
    for (const query of ['', '?artifactType=x%2Fy', '?ns=docker.io']) {
      const answer = await get(`app/referrers/${one.manifest.digest}${query}`)
      t.equal(answer.status, 404, query)
      t.equal(codeOf(answer), 'NOT_FOUND')
      t.equal(answer.headers['location'], undefined)
    }
    t.equal((await get('app/manifests/1')).status, 200)
  })
}

test('referrers: emptyOnError: an error with an empty list in it is an error', async (t) => {
  const { hub, get } = await startTwoUpstreams(t, { simulated: { referrers: 'emptyOnError' } })
  hub.addImage('library/app', '1', one)
  const answer = await get(`app/referrers/${one.manifest.digest}`)
  t.equal(answer.status, 503)
  t.equal(codeOf(answer), 'UNAVAILABLE')
  t.equal((await get('app/manifests/1')).status, 200)
})

test('tagsList: unsorted: whatever order upstream lists them in, they come sorted', async (t) => {
  const two = await startTwoUpstreams(t, { simulated: { tagsList: 'unsorted' } })
  const tags = ['1.10', '1.9', 'B', 'a', 'latest']
  for (const tag of tags) two.hub.addImage('library/app', tag, one)
  two.hub.set({ pageSize: 2 })
  t.same(tagsOf(await two.get('app/tags/list')), tags)
  t.equal(two.hub.log.count({ kind: 'tags' }), 3)
  const pages = await pagesOf(two, 'app/tags/list?n=2', tagsOf)
  t.same(pages, [['1.10', '1.9'], ['B', 'a'], ['latest']])
})

test('tagsList: n=0 is an empty page without a next one, also where upstream minds no n', async (t) => {
  const { hub, get } = await startTwoUpstreams(t)
  hub.addImage('library/app', 'a', one)
  const text = '{"name":"library/app","tags":["a","b"]}'
  hub.fault({ kind: 'tags' }, { status: 200, body: { text, type: 'application/json' } })
  const page = await get('app/tags/list?n=0')
  t.same([page.status, tagsOf(page), page.headers['link']], [200, [], undefined])
})

test('tagsList: 10k: a list of many tags comes whole, in one piece or in pages', async (t) => {
  const two = await startTwoUpstreams(t)
  const held = two.hub.holdings.repository('library/app').tags
  const tags = Array.from(
    { length: 8_000 },
    (_, at) => `build-${String(at).padStart(6, '0')}-${'x'.repeat(100)}`,
  )
  for (const tag of tags) held.set(tag, one.manifest.digest)
  two.hub.set({ pageSize: 5000, linkStyle: 'opaque' })
  t.same(tagsOf(await two.get('app/tags/list')), tags)
  const pages = await pagesOf(two, 'app/tags/list?n=3500', tagsOf)
  t.equal(pages.length, 3)
  t.same(pages.flat(), tags)
  t.equal(two.hub.log.count({ kind: 'tags' }), 3, 'the first page is as small as was asked for')
})

test('tagsList: a list that is too large to be kept is handed on, page by page', async (t) => {
  const two = await startTwoUpstreams(t)
  const held = two.hub.holdings.repository('library/app').tags
  const tags = Array.from(
    { length: 40_000 },
    (_, at) => `build-${String(at).padStart(6, '0')}-${'x'.repeat(110)}`,
  )
  for (const tag of tags) held.set(tag, one.manifest.digest)
  t.same(tagsOf(await two.get('app/tags/list')), tags)
  two.hub.set({ pageSize: 20_000, linkStyle: 'opaque' })
  const pages = await pagesOf(two, 'app/tags/list?n=20000', tagsOf)
  t.same(
    pages.map((page) => page.length),
    [20_000, 20_000],
  )
  t.same(pages.flat(), tags)
})

test('tagsList: 405: a list that is handed on comes in pages of the size that upstream takes', async (t) => {
  const two = await startTwoUpstreams(t, { simulated: { pageSize: 5000 } })
  const held = two.hub.holdings.repository('library/app').tags
  const tags = Array.from(
    { length: 40_000 },
    (_, at) => `build-${String(at).padStart(6, '0')}-${'x'.repeat(110)}`,
  )
  for (const tag of tags) held.set(tag, one.manifest.digest)
  const text = '{"errors":[{"code":"UNSUPPORTED","message":"n must be less than or equal to 5000"}]}'
  const tooMany = ({ url }: LogEntry): boolean =>
    Number(new URL(url, 'http://hub').searchParams.get('n')) > 5000
  two.hub.fault({ kind: 'tags', when: tooMany }, { status: 405, body: { text, type: 'application/json' } })
  const pages = await pagesOf(two, 'app/tags/list?n=10000', tagsOf)
  t.same(pages.flat(), tags)
})

test('referrers: a list that is handed on comes in pages of the size that upstream takes', async (t) => {
  const two = await startTwoUpstreams(t, { simulated: { pageSize: 2 } })
  two.hub.addImage('library/app', '1', one)
  const subject = one.manifest
  // More than is kept of a list.
  const referrers = Array.from({ length: 6 }, (_, at) =>
    image({ subject, artifactType: 'application/vnd.example', pad: 250_000, seed: `referrer ${at}` }),
  )
  for (const it of referrers) two.hub.addImage('library/app', undefined, it)
  const tooMany = ({ url }: LogEntry): boolean =>
    Number(new URL(url, 'http://hub').searchParams.get('n')) > 1000
  for (const status of [400, 405, 416, 422]) {
    const rule = two.hub.fault({ kind: 'referrers', when: tooMany }, { status })
    const pages = await pagesOf(two, `app/referrers/${subject.digest}?n=10000`, manifestsOf)
    t.same(
      pages.flat(),
      referrers.map((it) => it.manifest.digest),
      String(status),
    )
    rule.remove()
  }
})

function manifestsOf({ body }: Pulled): string[] {
  return (JSON.parse(body.toString()) as { manifests: { digest: string }[] }).manifests.map((it) => it.digest)
}

test('lists that name the page just asked as the next one end there, also where they are handed on', async (t) => {
  const { hub, get } = await startTwoUpstreams(t)
  hub.addImage('library/app', 'a', one)
  const subject = one.manifest.digest
  for (const [path, kind] of [
    ['tags/list', 'tags'],
    [`referrers/${subject}`, 'referrers'],
  ] as const) {
    for (const [asked, named] of [
      ['', 'n=1000'],
      ['~next_page=mine', 'next_page=mine'],
      ['~next_page=mine&n=10000', 'n=100&next_page=mine'],
    ] as const) {
      const upstreams = `/v2/library/app/${path}?${named}`
      const rule = hub.fault({ kind }, { headers: { link: `<${upstreams}>; rel="next"` } })
      const before = hub.log.count({ kind })
      const query = asked === '' ? '' : `?next_page=${encodeURIComponent(asked)}`
      const page = await get(`app/${path}${query}`)
      t.same([page.status, page.headers['link']], [200, undefined], `${kind} ${asked}`)
      t.equal(hub.log.count({ kind }) - before, 1)
      rule.remove()
    }
  }
})

test('tagsList: too large, or too deep, is an error', async (t) => {
  const { hub, get } = await startTwoUpstreams(t)
  hub.addImage('library/app', 'a', one)
  for (const text of [
    `{"tags":["${'a'.repeat(17 << 20)}"]}`,
    `{"tags":[${'0,'.repeat(1 << 20)}0]}`,
    `{"tags":${'['.repeat(1 << 20)}`,
  ]) {
    const rule = hub.fault({ kind: 'tags' }, { status: 200, body: { text, type: 'application/json' } })
    t.equal((await get('app/tags/list')).status, 503)
    rule.remove()
  }
  t.equal((await get('app/tags/list')).status, 200)
})

test('tagsList: extraKeys: what registries add of their own goes no further', async (t) => {
  const { hub, get } = await startTwoUpstreams(t, { simulated: { tagsList: 'extraKeys' } })
  hub.addImage('library/app', 'a', one)
  t.equal((await get('app/tags/list')).body.toString(), '{"name":"app","tags":["a"]}')
})

test('tagsList: 405: an upstream that lists nothing is an honest error, never an empty list', async (t) => {
  const { hub, get } = await startTwoUpstreams(t, { simulated: { tagsList: '405' } })
  hub.addImage('library/app', 'a', one)
  const answer = await get('app/tags/list')
  t.equal(answer.status, 503)
  t.equal(codeOf(answer), 'UNAVAILABLE')
  t.equal((await get('app/manifests/a')).status, 200)
})

for (const catalog of [401, 404] as const) {
  test(`catalog: ${catalog}: nobody is asked, ours lists what is here`, async (t) => {
    const { get, asked } = await startTwoUpstreams(t, { simulated: { catalog } })
    for (const path of ['_catalog', '_catalog?n=10', '_catalog?ns=docker.io']) {
      const answer = await get(path)
      t.equal(answer.status, 200)
      t.same(JSON.parse(answer.body.toString()), { repositories: [] })
      t.equal(answer.headers['www-authenticate'], undefined)
    }
    t.equal(asked(), 0)
  })
}
