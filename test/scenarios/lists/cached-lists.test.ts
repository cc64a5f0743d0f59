/** Tag lists, referrers and "there is none", cached as tags are: fresh, old, and handed on. */
import { test } from 'tap'
import type { Explanation } from '../../../src/admin/explain/explanation.ts'
import { TAG_LIST } from '../../../src/storage/metadata/upstream-answer-index.ts'
import { eventually } from '../../support/app.ts'
import { digestOf } from '../../../src/oci/digest.ts'
import {
  ABSENT,
  APP,
  ask,
  DAY,
  FALLBACK,
  isStale,
  LIST,
  manifestDigest,
  MINUTE,
  one,
  REFERRERS,
  scene,
  signature,
  subject,
} from '../../support/cached-lists.ts'
import { tagsOf } from '../../support/pages.ts'

test('a list is asked for once, and answers from here for the TTL of tags', async (t) => {
  const it = await scene(t)
  const count = (kind: 'tags' | 'referrers'): number => it.hub.log.count({ kind })
  const before = count('referrers')
  t.equal((await ask(it, LIST)).cache, 'miss')
  await ask(it, REFERRERS)
  for (let round = 0; round < 3; round += 1) {
    t.same(tagsOf(await it.get(LIST)), ['1'])
    t.same(manifestDigest(await it.get(REFERRERS)), [signature.manifest.digest])
  }
  t.equal(count('tags'), 1)
  t.ok(count('referrers') - before <= 1)

  const asked = count('referrers')
  it.hub.addImage('library/app', '2', one)
  it.pass(2 * MINUTE)
  t.same(tagsOf(await it.get(LIST)), ['1', '2'], 'an old one is asked about')
  await it.get(REFERRERS)
  t.equal(count('tags'), 2)
  t.equal(count('referrers'), asked + 1)
})

test('however many ask for a list at once, upstream is asked once', async (t) => {
  const it = await scene(t, { cache: { prefetch: 'off' } })
  for (const [kind, path] of [
    ['tags', LIST],
    ['referrers', REFERRERS],
  ] as const) {
    it.hub.fault({ kind }, { latencyMs: 200 })
    const answers = await Promise.all(Array.from({ length: 10 }, () => it.get(path)))
    t.same(
      answers.map(({ status }) => status),
      Array.from({ length: 10 }, () => 200),
    )
    t.equal(it.hub.log.count({ kind }), 1)
    await ask(it, path)
    it.pass(2 * MINUTE)
    await Promise.all(Array.from({ length: 10 }, () => it.get(path)))
    t.equal(it.hub.log.count({ kind }), 2, 'also about an old one')
  }
})

test('an ETag is asked with, and what has not changed is not sent again', async (t) => {
  const it = await scene(t, { cache: { prefetch: 'off' } })
  for (const [kind, path] of [
    ['tags', LIST],
    ['referrers', REFERRERS],
  ] as const) {
    const rule = it.hub.fault({ kind }, { headers: { etag: '"version-1"' } })
    await ask(it, path)
    const sent: (string | undefined)[] = []
    const unchanged = it.hub.fault(
      {
        kind,
        when: ({ headers }) => {
          sent.push(headers['if-none-match'])
          return true
        },
      },
      { status: 304, body: 'empty' },
    )
    it.pass(2 * MINUTE)
    const answer = await it.get(path)
    t.equal(answer.status, 200)
    t.equal(answer.cache, 'hit')
    t.same(sent, ['"version-1"'])
    await eventually('it is written down', async () => {
      await it.get(path)
      return true
    })
    t.equal(it.hub.log.count({ kind }), 2, 'and it is young again')
    unchanged.remove()
    rule.remove()
  }
})

test('offline: what is here answers however old it is', async (t) => {
  const it = await scene(t)
  await ask(it, LIST)
  await ask(it, REFERRERS)
  await ask(it, ABSENT)
  const asked = it.asked()
  await it.restart({ cache: { offline: true } })
  it.pass(400 * DAY)
  isStale(t, await it.get(LIST), 200)
  isStale(t, await it.get(REFERRERS), 200)
  isStale(t, await it.get(ABSENT), 404)
  isStale(t, await it.get(`app/manifests/${FALLBACK}`), 404)
  t.equal(it.asked(), asked)
})

test('a list of an upstream that hangs answers at once for some time, and the question goes on behind', async (t) => {
  const it = await scene(t)
  await ask(it, LIST)
  it.pass(2 * MINUTE)
  const rule = it.hub.fault({ kind: 'tags' }, { hang: 'headers' })
  isStale(t, await it.get(LIST), 200)
  const asked = it.hub.log.count({ kind: 'tags' })
  isStale(t, await it.get(LIST), 200)
  t.equal(it.hub.log.count({ kind: 'tags' }), asked, 'the failure is remembered')
  rule.remove()
  t.equal((await it.get('app/manifests/1')).status, 200, 'and says nothing about pulls')
})

test('a tag that is not there is asked for again only when that is old', async (t) => {
  const it = await scene(t)
  t.equal((await ask(it, ABSENT)).status, 404)
  const asked = it.hub.log.count({ ref: 'nothing' })
  t.equal((await it.get(ABSENT)).status, 404)
  await it.restart()
  t.equal((await it.get(ABSENT)).status, 404, 'also after a restart')
  t.equal(it.hub.log.count({ ref: 'nothing' }), asked)
  it.pass(MINUTE)
  t.equal((await it.get(ABSENT)).status, 404)
  t.ok(it.hub.log.count({ ref: 'nothing' }) > asked)

  it.hub.addImage('library/app', 'nothing', one)
  it.pass(MINUTE)
  await eventually('it is kept', async () => (await it.get(ABSENT)).cache === 'hit')
  await it.restart({ cache: { offline: true } })
  t.equal((await it.get(ABSENT)).status, 200, 'that there was none is forgotten when there is one')
})

test('what was listed goes with its repository, and counts until then', async (t) => {
  const it = await scene(t)
  await ask(it, LIST)
  await ask(it, REFERRERS)
  const { metadata } = it.mirror.app
  const held = await metadata.eviction.stored()
  t.ok((await metadata.upstreamAnswers.weight()) > 0)
  const blobs = one.manifest.bytes.length
  t.ok((held.mirrored.get('docker.io') ?? 0) >= blobs + (await metadata.upstreamAnswers.weight()))
  await metadata.transaction((tx) => tx.deleteManifest(APP, subject, Date.now()))
  t.equal(await metadata.upstreamAnswers.weight(), 0)
})

test('names that nobody was ever served anything of leave nothing behind', async (t) => {
  const it = await scene(t, { cache: { prefetch: 'off' } })
  for (let at = 0; at < 5; at += 1) t.equal((await it.get(`stranger-${String(at)}/manifests/1`)).status, 404)
  t.equal((await it.get('stranger/tags/list')).status, 404)
  t.equal(await it.mirror.app.metadata.upstreamAnswers.weight(), 0)
})

test('on404: keep: the list of a repository that is gone is kept', async (t) => {
  const it = await scene(t, { hub: { on404: 'keep' } })
  await ask(it, LIST)
  it.hub.deleteRepository('library/app')
  it.pass(2 * MINUTE)
  for (let round = 0; round < 2; round += 1) {
    const list = await it.get(LIST)
    isStale(t, list, 200)
    t.same(tagsOf(list), ['1'])
  }
})

test('explain says what of lists and referrers is here', async (t) => {
  const it = await scene(t, { cache: { prefetch: 'off' } })
  const explain = async (): Promise<Explanation> => {
    const answer = await it.get('../_entrepot/explain?ref=app:1')
    return JSON.parse(answer.body.toString()) as Explanation
  }
  t.match((await explain()).lists, {
    sentences: [
      'docker.io was never asked for the list of tags; 1 tag would be listed if it cannot say',
      'docker.io was never asked what refers to it; 0 referrers here',
    ],
  })
  await ask(it, LIST)
  await ask(it, REFERRERS)
  t.match((await explain()).lists, {
    tags: { count: 1, checkedMsAgo: 0, freshForMs: MINUTE },
    referrers: { count: 1, held: 0 },
    sentences: [/^1 tag in the list: said less than a second ago, believed/, /^1 referrer, 0 of them here: /],
  })
  await it.get(`app/manifests/${signature.manifest.digest}`)
  it.pass(2 * MINUTE)
  await eventually('it is kept', async () => (await explain()).lists?.referrers?.held === 1)
  t.match((await explain()).lists, { sentences: [/to be asked again$/, /^1 referrer, 1 of them here: /] })
})

test('the index holds no more answers than their share, however small each of them is', async (t) => {
  const it = await scene(t, { cache: { prefetch: 'off', maxSize: '1600KiB' } })
  const { metadata } = it.mirror.app
  await ask(it, LIST)
  for (let round = 0; round < 12; round += 1) {
    const tags = Array.from({ length: 25 }, (_, at) => `app/manifests/stranger-${String(round * 25 + at)}`)
    const answers = await Promise.all(tags.map((path) => it.get(path)))
    t.ok(answers.every(({ status }) => status === 404))
  }
  await eventually('they are written down', async () => (await metadata.upstreamAnswers.weight()) > 50_000)
  t.ok((await metadata.upstreamAnswers.weight()) <= 102_400 + 25 * 512)
  it.pass(2 * MINUTE)
  await it.hub.stop()
  isStale(t, await it.get(LIST), 200)
})

test('a list that is handed on is what is here when upstream is gone', async (t) => {
  const it = await scene(t, { cache: { prefetch: 'off' } })
  const held = it.hub.holdings.repository('library/app').tags
  for (let at = 0; at < 12_000; at += 1) held.set(`large-${String(at)}-${'x'.repeat(100)}`, subject)
  t.equal(tagsOf(await it.get(LIST)).length, 12_001)
  await it.hub.stop()
  const list = await it.get(LIST)
  isStale(t, list, 200)
  t.same(tagsOf(list), ['1'])
})

test('tags that came here after a list was kept are in it, and it is dated by itself', async (t) => {
  const it = await scene(t, { cache: { prefetch: 'off' } })
  await ask(it, LIST)
  it.hub.addImage('library/app', '2', one)
  it.pass(100 * DAY)
  await eventually('it is kept', async () => (await it.get('app/manifests/2')).cache === 'hit')
  await it.hub.stop()
  const list = await it.get(LIST)
  isStale(t, list, 200)
  t.same(tagsOf(list), ['1', '2'])
  t.notMatch(list.headers['warning'], /confirmed/)
})

test('"no such repository" is no answer where a tag of it is here', async (t) => {
  const it = await scene(t, { cache: { prefetch: 'off' } })
  const rule = it.hub.fault({ kind: 'tags' }, { status: 404, code: 'NAME_UNKNOWN' })
  t.equal((await it.get(LIST)).status, 404)
  const { upstreamAnswers } = it.mirror.app.metadata
  await eventually('it is written down', async () => (await upstreamAnswers.get(APP, TAG_LIST)) !== undefined)
  await eventually('nobody joins it any more', async () => (await it.get(LIST)).cache === undefined)
  rule.remove()
  it.pass(2 * MINUTE)
  await it.hub.stop()
  const list = await it.get(LIST)
  isStale(t, list, 200)
  t.same(tagsOf(list), ['1'])
})

test('who joins a question that confirms what went meanwhile gets it all the same', async (t) => {
  const it = await scene(t, { simulated: { listEtags: true }, cache: { prefetch: 'off' } })
  await ask(it, LIST)
  it.pass(2 * MINUTE)
  let reached: (() => void) | undefined
  const asking = new Promise<void>((resolve) => (reached = resolve))
  it.hub.fault(
    {
      kind: 'tags',
      when: () => {
        reached?.()
        return true
      },
    },
    { latencyMs: 500 },
  )
  const first = it.get(LIST)
  await asking
  await it.mirror.app.metadata.transaction((tx) => tx.deleteManifest(APP, subject, Date.now()))
  const second = await it.get(LIST)
  t.same(tagsOf(second), ['1'])
  t.same(tagsOf(await first), ['1'])
})

test('an old "there is none" takes nobody time away', async (t) => {
  const it = await scene(t, { cache: { prefetch: 'off' } })
  await ask(it, ABSENT)
  it.pass(60 * DAY)
  it.hub.addImage('library/app', 'nothing', one)
  it.hub.fault({ kind: 'manifest', ref: 'nothing' }, { latencyMs: 1_000 })
  t.equal((await it.get(ABSENT)).status, 200)
})

test('a page with nothing in it does not end a list, and a list that breaks off is none', async (t) => {
  const it = await scene(t, { simulated: { pageSize: 1 }, cache: { prefetch: 'off' } })
  for (const tag of ['2', '3']) it.hub.addImage('library/app', tag, one)
  const empty = it.hub.fault(
    { kind: 'tags', when: ({ url }) => url.includes('last=1') },
    {
      status: 200,
      body: { text: '{"name":"library/app","tags":[]}', type: 'application/json' },
      headers: { link: '</v2/library/app/tags/list?n=1&last=2>; rel="next"' },
    },
  )
  t.same(tagsOf(await ask(it, LIST)), ['1', '3'])
  empty.remove()
  it.pass(2 * MINUTE)
  it.hub.fault({ kind: 'tags', when: ({ url }) => url.includes('last=2') }, { status: 404 })
  isStale(t, await it.get(LIST), 200)
})

test('that lists are denied is no trouble with pulls', async (t) => {
  const it = await scene(t, { cache: { prefetch: 'off' } })
  it.hub.fault({ kind: 'tags' }, { status: 403 })
  isStale(t, await it.get(LIST), 200)
  const ready = await it.get('../readyz')
  t.notMatch(ready.body.toString(), /denied/)
})

test('what upstream says is gone replaces what it listed, also of what was never pulled', async (t) => {
  const it = await scene(t, { cache: { prefetch: 'off' } })
  it.hub.addImage('library/other', '1', one)
  const other = 'other/tags/list'
  t.equal((await it.get(other)).status, 200)
  await eventually('it is kept', async () => (await it.get(other)).cache === 'hit')
  it.hub.deleteRepository('library/other')
  it.pass(2 * MINUTE)
  t.equal((await it.get(other)).status, 404)
  await it.restart()
  await it.hub.stop()
  it.pass(2 * MINUTE)
  isStale(t, await it.get(other), 404)
})

test('however many read large lists at once, everybody else has a turn between two of them', async (t) => {
  const it = await scene(t, { cache: { prefetch: 'off' }, budgetMs: 60_000, staleBudgetMs: 30_000 })
  const annotations = Array.from({ length: 80_000 }, (_, at) => `"${at.toString(36)}":""`).join(',')
  const listed = JSON.stringify({ mediaType: signature.manifest.mediaType, digest: subject, size: 10 })
  const text = `{"schemaVersion":2,"manifests":[${listed.slice(0, -1)},"annotations":{${annotations}}}]}`
  it.hub.fault(
    { kind: 'referrers' },
    { status: 200, body: { text, type: 'application/vnd.oci.image.index.v1+json' } },
  )
  const subjects = Array.from({ length: 40 }, (_, at) => digestOf(Buffer.from(String(at))))
  for (const digest of subjects) await it.get(`app/referrers/${digest}`)
  for (const query of ['', '?n=1']) {
    const turns = watchTurns()
    const answers = await Promise.all(subjects.map((digest) => it.get(`app/referrers/${digest}${query}`)))
    t.same(new Set(answers.map(({ status }) => status)), new Set([200]))
    const longest = turns.stop()
    t.ok(longest < 1e6, `${String(longest)} µs`)
  }
})

/** The longest turn of the event loop, by the time that it takes of the processor: µs. */
function watchTurns(): { readonly stop: () => number } {
  let longest = 0
  let began = process.threadCpuUsage()
  const look = (): void => {
    const { user, system } = process.threadCpuUsage(began)
    longest = Math.max(longest, user + system)
    began = process.threadCpuUsage()
    next = setImmediate(look)
  }
  let next = setImmediate(look)
  return {
    stop: () => {
      clearImmediate(next)
      return longest
    },
  }
}
