/** tags/list and referrers of mirrored repositories, while upstream answers: whole, in order, on our own paths. */
import { test } from 'tap'
import { image } from '../../support/images.ts'
import { pagesOf, tagsOf } from '../../support/pages.ts'
import { codeOf, startTwoUpstreams } from '../../support/two-upstreams.ts'
import { eventually, type Pulled } from '../../support/app.ts'
import type { Behaviour } from '../../support/upstream-rules.ts'

const INDEX = 'application/vnd.oci.image.index.v1+json'
const one = image({ layers: [10], seed: 'one' })

function referrersOf({ body }: Pulled): unknown[] {
  return (JSON.parse(body.toString()) as { manifests: { digest: string }[] }).manifests.map((it) => it.digest)
}

for (const linkStyle of ['relative', 'absolute', 'opaque'] as const) {
  test(`tagsList: paged: pages are put together, and paged anew on the client's own path (${linkStyle} links)`, async (t) => {
    const two = await startTwoUpstreams(t, {
      simulated: { linkStyle, pageSize: 2 },
      quay: { aliases: ['quay.example'] },
    })
    for (const tag of ['a', 'b', 'c', 'd', 'e']) {
      two.hub.addImage('library/app', tag, one)
      two.quay.addImage('team/app', `q${tag}`, one)
    }
    const hubs = [['a', 'b'], ['c', 'd'], ['e']]
    const quays = [['qa', 'qb'], ['qc', 'qd'], ['qe']]
    t.same(await pagesOf(two, 'app/tags/list', tagsOf), [hubs.flat()])
    t.same(await pagesOf(two, 'docker.io/app/tags/list', tagsOf), [hubs.flat()])
    t.same(await pagesOf(two, 'index.docker.io/library/app/tags/list?n=2', tagsOf), hubs)
    t.same(await pagesOf(two, 'quay.io/team/app/tags/list', tagsOf), [quays.flat()])
    t.same(await pagesOf(two, 'team/app/tags/list?ns=quay.example', tagsOf), [quays.flat()])
    t.same(await pagesOf(two, 'quay.io/team/app/tags/list?n=2&ns=quay.io', tagsOf), quays)
    t.equal(two.hub.log.count({ kind: 'tags' }), 3, 'each page of upstream is fetched once')
    t.equal(two.quay.log.count({ kind: 'tags' }), 3)

    const page = await two.get('quay.io/team/app/tags/list?n=2&ns=quay.io')
    t.match(JSON.parse(page.body.toString()), { name: 'quay.io/team/app' }, 'the name the client used')
    t.equal(page.headers['oci-namespace'], 'quay.io')
    t.notOk(
      two.quay.log.of('tags').some(({ url }) => url.includes('ns=')),
      'ns is ours',
    )
  })
}

test('tagsList: cursors are opaque, and whatever host a link names is not ours to tell', async (t) => {
  const { hub, get } = await startTwoUpstreams(t)
  hub.addImage('library/app', 'a', one)
  const rule = hub.fault(
    { kind: 'tags' },
    { headers: { link: '<https://elsewhere.example/v2/x/tags/list?next_page=gAAA%2Bx%3D%3D>; rel="next"' } },
  )
  const page = await get('app/tags/list?ns=docker.io&n=7')
  t.same(tagsOf(page), ['a'])
  t.equal(page.headers['link'], undefined, 'a page that names itself as the next one is the last')
  const urls = (): (string | undefined)[] => hub.log.of('tags').map(({ url }) => url)
  t.same(urls(), ['/v2/library/app/tags/list?n=1000', '/v2/library/app/tags/list?next_page=gAAA%2Bx%3D%3D'])
  const handedOn = await get('app/tags/list?next_page=mine&ns=docker.io')
  const link = /^<\/v2\/([^>]+)>; rel="next"$/.exec(String(handedOn.headers['link']))?.[1] ?? ''
  t.match(link, /^app\/tags\/list\?.*ns=docker\.io/)
  rule.remove()
  await get(link)
  t.equal(urls().at(-1), '/v2/library/app/tags/list?next_page=gAAA%2Bx%3D%3D')
})

test('tagsList: a registry that sends all of them every time is paged for it', async (t) => {
  const two = await startTwoUpstreams(t)
  const list = (...tags: string[]): string => JSON.stringify({ name: 'library/app', tags })
  const text = list('b', 'e', 'a', 'd', 'c')
  const rule = two.hub.fault({ kind: 'tags' }, { status: 200, body: { text, type: 'application/json' } })
  t.same(await pagesOf(two, 'app/tags/list?n=2', tagsOf), [['a', 'b'], ['c', 'd'], ['e']])
  t.same(await pagesOf(two, 'app/tags/list?n=5', tagsOf), [['a', 'b', 'c', 'd', 'e']])
  t.same(await pagesOf(two, 'app/tags/list?last=c', tagsOf), [['d', 'e']])
  t.same(await pagesOf(two, 'app/tags/list?last=e&n=1', tagsOf), [[]])
  t.same(await pagesOf(two, 'app/tags/list?last=bb&n=3', tagsOf), [['c', 'd', 'e']], 'a tag that has gone')
  t.equal(two.hub.log.count({ kind: 'tags' }), 1)
  rule.remove()
})

test('tagsList: a registry that takes no pages of our size is asked for those of its own', async (t) => {
  for (const status of [400, 405]) {
    const { hub, get } = await startTwoUpstreams(t)
    hub.addImage('library/app', 'a', one)
    const text = '{"errors":[{"code":"UNSUPPORTED","message":"n must be less than or equal to 100"}]}'
    hub.fault(
      { kind: 'tags', when: ({ url }) => url.includes('n=1000') },
      { status, body: { text, type: 'application/json' } },
    )
    t.same(tagsOf(await get('app/tags/list?n=10000')), ['a'], String(status))
  }
})

test('tagsList: null: a list of no tags is a list', async (t) => {
  const { hub, get } = await startTwoUpstreams(t)
  const type = 'application/json'
  hub.fault({ kind: 'tags' }, { status: 200, body: { text: '{"name":"library/app","tags":null}', type } })
  const page = await get('app/tags/list')
  t.equal(page.body.toString(), '{"name":"app","tags":[]}')
})

test('tags of an unknown repository are 404', async (t) => {
  const { get } = await startTwoUpstreams(t)
  const answer = await get('nothing/tags/list')
  t.equal(answer.status, 404)
  t.equal(codeOf(answer), 'NAME_UNKNOWN')
})

test('"no such repository" in the words of Docker Hub is 404, unless something of it was served', async (t) => {
  const { hub, get } = await startTwoUpstreams(t, { simulated: { token: { hideUnknown: true } } })
  const subject = one.manifest.digest
  const unknown = await get('nothing/tags/list')
  t.equal(unknown.status, 404)
  t.equal(codeOf(unknown), 'NAME_UNKNOWN')
  t.equal((await get(`nothing/referrers/${subject}`)).status, 404)

  hub.addImage('library/app', '1', one)
  await eventually('it is kept', async () => (await get('app/manifests/1')).cache === 'hit')
  hub.deleteRepository('library/app')
  hub.tokens.revokeTokens()
  const tags = await get('app/tags/list')
  t.same(tagsOf(tags), ['1'], 'a tag of it would be answered stale, and so is the list')
  t.equal(tags.cache, 'stale')
  const referrers = await get(`app/referrers/${subject}`)
  t.same(referrersOf(referrers), [])
  t.equal(referrers.cache, 'stale')
  const other = image({ layers: [10], seed: 'other' }).manifest.digest
  t.equal((await get(`app/referrers/${other}`)).status, 403, 'of what is not here nothing is said')
})

const FAILURES: Record<string, { behaviour?: Behaviour; status: number; code: string }> = {
  'is down': { status: 503, code: 'UNAVAILABLE' },
  'answers 500': { behaviour: { status: 500 }, status: 503, code: 'UNAVAILABLE' },
  'answers 502 in HTML': { behaviour: { status: 502, body: 'html' }, status: 503, code: 'UNAVAILABLE' },
  'answers 429': { behaviour: { status: 429, retryAfter: 600 }, status: 503, code: 'UNAVAILABLE' },
  'answers a page': { behaviour: { status: 200, body: 'html' }, status: 503, code: 'UNAVAILABLE' },
  'answers 404 with a page': { behaviour: { status: 404, body: 'html' }, status: 503, code: 'UNAVAILABLE' },
  hangs: { behaviour: { hang: 'headers' }, status: 503, code: 'UNAVAILABLE' },
  'answers 401': { behaviour: { status: 401 }, status: 403, code: 'DENIED' },
  'answers 403': { behaviour: { status: 403 }, status: 403, code: 'DENIED' },
}

for (const [what, { behaviour, status, code }] of Object.entries(FAILURES)) {
  test(`upstream ${what}: an honest error, never an empty list`, async (t) => {
    const { hub, get, head } = await startTwoUpstreams(
      t,
      behaviour?.hang === undefined ? {} : { budgetMs: 700 },
    )
    hub.addImage('library/app', 'a', one)
    if (behaviour === undefined) await hub.stop()
    else hub.fault({ kind: ['tags', 'referrers'] }, behaviour)
    const paths = [
      'app/tags/list',
      'docker.io/app/tags/list?n=1',
      `app/referrers/${one.manifest.digest}`,
      `app/referrers/${one.manifest.digest}?ns=docker.io&artifactType=x%2Fy`,
    ]
    const answers = await Promise.all(paths.map((path) => get(path)))
    for (const answer of answers) {
      t.equal(answer.status, status)
      t.equal(codeOf(answer), code)
      if (status === 503) t.ok(Number(answer.headers['retry-after']) > 0)
    }
    t.equal((await head(paths[0]!)).status, status)
    t.equal((await get('')).status, 200)
  })
}

test('tagsList, referrers: what is no list is an error, too', async (t) => {
  const { hub, get } = await startTwoUpstreams(t)
  hub.addImage('library/app', 'a', one)
  const type = 'application/json'
  for (const text of [
    '{"schemaVersion":2,"manifests":[',
    '{"schemaVersion":2}',
    '{"manifests":null}',
    'null',
    '',
  ]) {
    hub.fault({ kind: 'tags' }, { status: 200, body: { text, type } })
    hub.fault({ kind: 'referrers' }, { status: 200, body: { text, type: INDEX } })
    t.equal((await get('app/tags/list')).status, 503, text)
    t.equal((await get(`app/referrers/${one.manifest.digest}`)).status, 503, text)
  }
})

test('referrers: ok, unfiltered: they come as upstream wrote them', async (t) => {
  const { hub, get } = await startTwoUpstreams(t)
  const about = (seed: string) =>
    image({ layers: [10], seed, subject: one.manifest, artifactType: `application/vnd.example.${seed}` })
  const [signature, bill] = [about('signature'), about('bill')]
  for (const it of [one, signature, bill]) hub.addImage('library/app', undefined, it)
  const path = `app/referrers/${one.manifest.digest}`

  const all = await get(path)
  t.equal(all.status, 200)
  t.equal(all.headers['content-type'], INDEX)
  t.equal(all.headers['oci-filters-applied'], undefined)
  t.same(referrersOf(all), [signature.manifest.digest, bill.manifest.digest])

  const type = `artifactType=${encodeURIComponent('application/vnd.example.bill')}`
  const filtered = await get(`${path}?${type}&ns=docker.io`)
  t.same(referrersOf(filtered), [bill.manifest.digest])
  t.equal(filtered.headers['oci-filters-applied'], 'artifactType')
  t.equal(filtered.headers['oci-namespace'], 'docker.io')

  t.equal(hub.log.count({ kind: 'referrers' }), 1, 'who filters is answered from the whole list')
  hub.set({ referrers: 'unfiltered' })
  t.same(referrersOf(await get(`${path}?${type}`)), [bill.manifest.digest])

  // Who has referrers of nothing has an empty list of them.
  t.same(referrersOf(await get(`app/referrers/${bill.manifest.digest}`)), [])
  // They are manifests of the repository like any other.
  t.ok((await get(`app/manifests/${bill.manifest.digest}`)).body.equals(bill.manifest.bytes))
})

test('referrers: paged: pages are put together, and paged anew on our own path', async (t) => {
  const two = await startTwoUpstreams(t, { simulated: { pageSize: 1, linkStyle: 'absolute' } })
  const signatures = [1, 2, 3].map((seed) => image({ layers: [10], seed, subject: one.manifest }))
  for (const it of signatures) two.quay.addImage('team/app', undefined, it)
  const digests = signatures.map(({ manifest }) => manifest.digest)
  const path = `team/app/referrers/${one.manifest.digest}`
  t.same(await pagesOf(two, `quay.io/${path}`, referrersOf), [digests])
  const paged = digests.toSorted().map((digest) => [digest])
  t.same(await pagesOf(two, `${path}?ns=quay.io&n=1`, referrersOf), paged)
  t.equal(two.quay.log.count({ kind: 'referrers' }), 3, 'each page of upstream is fetched once')
})

test('fallbackTag: an upstream without the referrers API is 404, and the tag schema is a tag like any other', async (t) => {
  const { hub, get } = await startTwoUpstreams(t, { simulated: { referrers: 'unsupported' } })
  hub.addImage('library/app', '1', one)
  const fallback = one.manifest.digest.replace(':', '-')
  hub.addImage('library/app', fallback, image({ layers: [10], seed: 'fallback' }))
  t.equal((await get(`app/referrers/${one.manifest.digest}`)).status, 404)
  t.equal((await get(`app/manifests/${fallback}`)).status, 200)
  t.equal((await get(`app/manifests/${fallback}.sig`)).status, 404)
})
