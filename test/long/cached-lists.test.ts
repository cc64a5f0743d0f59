/** Tag lists, referrers and "there is none" on each of upstream's bad days, and while a list takes long. */
import { test } from 'tap'
import type { Pulled } from '../support/app.ts'
import {
  ABSENT,
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
  type Scene,
} from '../support/cached-lists.ts'
import { tagsOf } from '../support/pages.ts'
import type { TwoUpstreamsOptions } from '../support/two-upstreams.ts'
import type { Behaviour } from '../support/upstream-rules.ts'

/** What upstream does while it cannot say; `status` is the answer where nothing here can stand in. */
const TROUBLES: Record<string, { behaviour?: Behaviour; status: number; options?: TwoUpstreamsOptions }> = {
  'is down': { status: 503 },
  hangs: { behaviour: { hang: 'headers' }, status: 503 },
  'answers 500': { behaviour: { status: 500 }, status: 503 },
  'limits us': { behaviour: { status: 429, retryAfter: 600 }, status: 503 },
  'denies access': { behaviour: { status: 403 }, status: 403 },
}

async function trouble(it: Scene, behaviour: Behaviour | undefined): Promise<void> {
  if (behaviour === undefined) await it.hub.stop()
  else it.hub.fault({}, behaviour)
}

for (const [what, { behaviour, status }] of Object.entries(TROUBLES)) {
  test(`upstream ${what}: what was listed answers stale, also after a restart`, async (t) => {
    const it = await scene(t)
    await ask(it, LIST)
    await ask(it, REFERRERS)
    t.equal((await ask(it, ABSENT)).status, 404)
    await trouble(it, behaviour)
    for (const restarted of [false, true]) {
      if (restarted) await it.restart()
      it.pass(2 * MINUTE)
      const list = await it.get(LIST)
      isStale(t, list, 200)
      t.same(tagsOf(list), ['1'])
      const referrers = await it.get(`${REFERRERS}?artifactType=x%2Fy`)
      isStale(t, referrers, 200)
      t.same(manifestDigest(referrers), [])
      isStale(t, await it.get(ABSENT), 404)
      isStale(t, await it.head(ABSENT), 404)
    }
    it.pass(status === 403 ? 2 * DAY : 31 * DAY)
    t.equal((await it.get(LIST)).status, status, 'but not for ever')
    t.equal((await it.get(ABSENT)).status, status)
    isStale(t, await it.get(REFERRERS), 200)
  })

  test(`upstream ${what}: what was never listed is what is here`, async (t) => {
    const it = await scene(t, { cache: { prefetch: 'off' } })
    await trouble(it, behaviour)
    const list = await it.get(LIST)
    isStale(t, list, 200)
    t.same(tagsOf(list), ['1'])
    const referrers = await it.get(REFERRERS)
    isStale(t, referrers, 200)
    t.same(manifestDigest(referrers), [])
    isStale(t, await it.get(`app/manifests/${FALLBACK}`), 404)
    isStale(t, await it.head(`app/manifests/${FALLBACK}`), 404)

    const strange = signature.manifest.digest
    t.equal((await it.get(`app/referrers/${strange}`)).status, status, 'of what is not here nothing is said')
    t.equal((await it.get(`app/manifests/${strange.replace(':', '-')}`)).status, status)
    t.equal((await it.get('other/tags/list')).status, status, 'never an empty list')
    t.equal((await it.get(ABSENT)).status, status)
  })
}

test('a list that takes long is handed on page by page, to its end, and never cut short', async (t) => {
  const it = await scene(t, {
    simulated: { pageSize: 2, tagsList: 'unsorted' },
    cache: { prefetch: 'off' },
    ...{ budgetMs: 6_000, staleBudgetMs: 2_000 },
  })
  for (const tag of ['2', '3', '4', '5', '6', '7', '8']) it.hub.addImage('library/app', tag, one)
  const rule = it.hub.fault({ kind: 'tags' }, { latencyMs: 1_200 })
  const pages: string[][] = []
  let next: string | undefined = `${LIST}?n=2`
  while (next !== undefined && pages.length < 10) {
    const page: Pulled = await it.get(next)
    t.equal(page.status, 200)
    t.not(page.cache, 'stale')
    pages.push(tagsOf(page))
    next = /^<\/v2\/([^>]+)>/.exec(String(page.headers['link']))?.[1]
  }
  t.same(pages, [
    ['8', '7'],
    ['6', '5'],
    ['4', '3'],
    ['2', '1'],
  ])
  rule.remove()
})

test('a list of more pages than are put together is handed on, and not tried again at once', async (t) => {
  const it = await scene(t, { simulated: { pageSize: 1 }, cache: { prefetch: 'off' } })
  const tags = Array.from({ length: 100 }, (_, at) => `v${String(at + 100)}`)
  for (const tag of tags) it.hub.addImage('library/app', tag, one)
  const readAll = async (): Promise<string[]> => {
    const all: string[] = []
    let next: string | undefined = LIST
    while (next !== undefined) {
      const page: Pulled = await it.get(next)
      all.push(...tagsOf(page))
      next = /^<\/v2\/([^>]+)>/.exec(String(page.headers['link']))?.[1]
    }
    return all
  }
  t.same(await readAll(), ['1', ...tags], 'to its end')
  const questions = it.hub.log.count({ kind: 'tags' })
  t.ok(questions <= 100 + 101, `${String(questions)} questions`)
  t.same(await readAll(), ['1', ...tags])
  t.equal(it.hub.log.count({ kind: 'tags' }), questions + 101, 'page by page')
})
