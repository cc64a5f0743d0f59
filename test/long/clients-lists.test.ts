/**
 * What lists of tags and of referrers answer when upstream cannot: their last words, and what is here where there
 * are none.
 */
import { test, type Test } from 'tap'
import {
  eventually,
  ownFolder,
  pull,
  simulate,
  startMirror,
  type Mirror,
  type Pulled,
} from '../support/app.ts'
import { attestedIndex, bundleOf, notationOf, NOTATION_SIGNATURE, sbomOf } from '../support/artifacts.ts'
import { run } from '../support/clients/client.ts'
import { containerd24 } from '../support/clients/containerd.ts'
import { cosign } from '../support/clients/cosign.ts'
import { docker29Prefix } from '../support/clients/docker29.ts'
import { notation, orasDiscover } from '../support/clients/oras.ts'
import { warningsShown } from '../support/clients/warnings.ts'
import { image } from '../support/images.ts'
import { tagsOf } from '../support/pages.ts'
import { quiet } from '../support/quiet.ts'
import { codeOf } from '../support/two-upstreams.ts'
import type { Behaviour } from '../support/upstream-rules.ts'
import type { UpstreamOptions, UpstreamSimulator } from '../support/upstream.ts'

const REPOSITORY = 'library/app'
const APP = attestedIndex({ amd64: image({ layers: [2_000, 1_000], seed: 'app' }) })
const { digest: SUBJECT } = APP.manifest
const [BUNDLE, NOTATION, SBOM] = [bundleOf(APP.manifest), notationOf(APP.manifest), sbomOf(APP.manifest)]
const TAGS = ['1', '2', '3']
const FALLBACK = SUBJECT.replace(':', '-')
/** Nobody listens there. */
const NOWHERE = 'http://127.0.0.1:1'
const MINUTE = 60_000
const DAY = 24 * 60 * MINUTE
const BUDGETS = { budgetMs: 1_500, staleBudgetMs: 400 }

interface Scene {
  readonly upstream: UpstreamSimulator
  readonly clock: { now: number }
  readonly mirror: Mirror
  readonly get: (path: string, repository?: string) => Promise<Pulled>
  /** All of an image, as containerd pulls it. */
  readonly bring: (tag: string) => Promise<void>
  readonly restart: (cache?: Record<string, unknown>) => Promise<Scene>
}

async function setUp(t: Test, cache: Record<string, unknown>, options: UpstreamOptions = {}): Promise<Scene> {
  const upstream = await simulate(t, { listEtags: true, ...options })
  for (const tag of TAGS) upstream.addImage(REPOSITORY, tag, APP)
  for (const referrer of [BUNDLE, NOTATION, SBOM]) upstream.addImage(REPOSITORY, undefined, referrer)
  const clock = { now: Date.now() }
  const root = ownFolder(t)
  const start = async (cache: Record<string, unknown>): Promise<Scene> => {
    const mirror = await startMirror(t, upstream, { root, cache, now: () => clock.now, ...BUDGETS })
    return {
      ...{ upstream, clock, mirror },
      get: (path, repository = REPOSITORY) => pull(`${mirror.url}/v2/${repository}/${path}`),
      bring: async (tag) => {
        const where = { mirror: mirror.url, real: NOWHERE, repository: REPOSITORY, tag }
        const { ending, error } = await run(containerd24, where)
        t.equal(ending, 'pulled', error?.message ?? 'brought')
        await quiet(mirror, upstream)
      },
      restart: async (other = cache) => {
        await mirror.close()
        return await start(other)
      },
    }
  }
  return await start(cache)
}

/** Written down: as long as that goes on, whoever asks joins those who asked before, whatever the clock says. */
async function kept({ get }: Scene, ...paths: readonly string[]): Promise<void> {
  for (const path of paths) {
    await eventually(`${path} is kept`, async () => ['hit', 'stale'].includes((await get(path)).cache ?? ''))
  }
}

function referrersOf({ body }: Pulled): string[] {
  return (JSON.parse(body.toString()) as { manifests: { digest: string }[] }).manifests.map((it) => it.digest)
}

function isWarned({ headers }: Pulled): boolean {
  return /^299 - "/.test(String(headers['warning']))
}

const BAD_DAYS: Readonly<Record<string, Behaviour | 'down'>> = {
  'is down': 'down',
  hangs: { hang: 'headers' },
  'answers 500': { status: 500 },
  'answers 502 in HTML': { status: 502, body: 'html' },
  'answers 429': { status: 429 },
  'answers 429 with a time': { status: 429, retryAfter: 600 },
  'answers 401': { status: 401 },
  'answers 403': { status: 403 },
  'closes connections': { emptyReply: true },
}

test('lists are as stale as the tags beside them', async (t) => {
  const scene = await setUp(t, {})
  const { upstream, clock, get } = scene
  const lists = [
    'tags/list',
    `referrers/${SUBJECT}`,
    `referrers/${SUBJECT}?artifactType=${NOTATION_SIGNATURE}`,
  ]
  await scene.bring('1')
  for (const [day, behaviour] of Object.entries(BAD_DAYS)) {
    for (const age of [10 * MINUTE, 2 * DAY, 40 * DAY]) {
      clock.now += 10 * MINUTE
      // Whoever is first tries out whether upstream is well again; others had better not be asked meanwhile.
      t.equal((await get('manifests/1')).status, 200)
      const good: Pulled[] = []
      for (const path of lists) good.push(await get(path))
      for (const { status } of good) t.equal(status, 200)
      await kept(scene, 'manifests/1', ...lists)
      await quiet(scene.mirror, upstream)

      clock.now += age
      if (behaviour === 'down') await upstream.stop()
      else upstream.fault({}, behaviour)
      const tag = await get('manifests/1')
      for (const [position, path] of lists.entries()) {
        const stale = await get(path)
        const what = `${path} when upstream ${day}, ${String(age / MINUTE)} minutes later`
        if (tag.cache === 'stale') {
          t.equal(stale.status, 200, what)
          t.equal(stale.cache, 'stale', what)
          t.ok(isWarned(stale), what)
          t.equal(stale.body.toString(), good[position]?.body.toString(), what)
        } else t.ok(stale.status !== 200 || isWarned(stale), `${what}: refused, or marked`)
      }
      upstream.rules.clear()
      if (behaviour === 'down') await upstream.start()
    }
  }
})

test('ten who ask while upstream hangs wait no longer than one, and make it be asked once', async (t) => {
  const scene = await setUp(t, {})
  const { upstream, clock, get } = scene
  await scene.bring('1')
  for (const path of ['tags/list', `referrers/${SUBJECT}`]) t.equal((await get(path)).status, 200)
  await quiet(scene.mirror, upstream)
  clock.now += 10 * MINUTE
  upstream.fault({}, { hang: 'headers' })
  upstream.log.clear()
  for (const path of ['tags/list', `referrers/${SUBJECT}`]) {
    const startedAt = performance.now()
    const answers = await Promise.all(Array.from({ length: 10 }, () => get(path)))
    t.ok(performance.now() - startedAt < 5_000, path)
    for (const answer of answers) t.match([answer.status, answer.cache], [200, 'stale'])
  }
  t.ok(upstream.log.count('tags') <= 1, 'tags')
  t.ok(upstream.log.count('referrers') <= 1, 'referrers')
})

test('nobody ever asked for a list: it is what is here, and says so', async (t) => {
  const scene = await setUp(t, { prefetch: 'off' })
  const { upstream, get } = scene
  await scene.bring('1')
  await scene.get('manifests/2')
  await get(`manifests/${NOTATION.manifest.digest}`)
  await quiet(scene.mirror, upstream)
  const asked = upstream.log.of('tags').length + upstream.log.of('referrers').length
  await upstream.stop()
  let now = scene
  for (const life of ['', ', after a restart', ', offline']) {
    now.clock.now += 10 * MINUTE
    const tags = await now.get('tags/list')
    t.equal(tags.status, 200, `tags${life}`)
    if (tags.status === 200) t.strictSame(tagsOf(tags), ['1', '2'], `tags${life}`)
    t.ok(isWarned(tags), `tags${life}`)
    const page = await now.get('tags/list?n=1&last=1')
    if (page.status === 200) t.strictSame(tagsOf(page), ['2'], `a page of the tags${life}`)

    for (const [query, found] of [
      ['', [NOTATION.manifest.digest]],
      [`?artifactType=${NOTATION_SIGNATURE}`, [NOTATION.manifest.digest]],
      ['?artifactType=x%2Fy', []],
    ] as const) {
      const referrers = await now.get(`referrers/${SUBJECT}${query}`)
      t.equal(referrers.status, 200, `referrers${query}${life}`)
      // A registry that was never asked for its API would have had these there as well.
      if (referrers.status === 200 && asked === 0)
        t.strictSame(referrersOf(referrers), found, `${query}${life}`)
      t.ok(isWarned(referrers), `referrers${query}${life}`)
    }

    const fallback = await now.get(`manifests/${FALLBACK}`)
    t.equal(fallback.status, 404, `the tag of a manifest that is here${life}`)
    if (fallback.status === 404) t.equal(codeOf(fallback), 'MANIFEST_UNKNOWN')
    now = await now.restart({ prefetch: 'off', offline: life !== '' })
  }
})

test('nothing is here, and upstream cannot say: that is 503 and never an empty list', async (t) => {
  const scene = await setUp(t, { prefetch: 'off' })
  const { upstream, get } = scene
  await scene.bring('1')
  const other = image({ seed: 'never pulled' }).manifest.digest
  await upstream.stop()
  for (const [path, repository] of [
    ['tags/list', 'library/other'],
    [`referrers/${SUBJECT}`, 'library/other'],
    [`manifests/${FALLBACK}`, 'library/other'],
    [`referrers/${other}`, REPOSITORY],
    [`manifests/${other.replace(':', '-')}`, REPOSITORY],
    ['manifests/4', REPOSITORY],
  ] as const) {
    const answer = await get(path, repository)
    t.equal(answer.status, 503, `${repository}/${path}`)
    t.equal(codeOf(answer), 'UNAVAILABLE')
  }
})

test('"no such API" and "nothing refers to it" are remembered as what they are', async (t) => {
  for (const [referrers, status] of [
    ['unsupported', 404],
    ['ok', 200],
  ] as const) {
    const scene = await setUp(t, { prefetch: 'off' }, { referrers })
    const [{ manifest } = APP] = APP.attestations
    await scene.bring('1')
    await scene.get(`manifests/${manifest.digest}`)
    t.equal((await scene.get(`referrers/${manifest.digest}`)).status, status)
    await quiet(scene.mirror, scene.upstream)
    await scene.upstream.stop()
    let now = scene
    for (const life of ['', ', after a restart']) {
      now.clock.now += 10 * MINUTE
      const answer = await now.get(`referrers/${manifest.digest}`)
      t.equal(answer.status, status, `${referrers}${life}`)
      if (answer.status === 200) t.strictSame(referrersOf(answer), [], `${referrers}${life}`)
      now = await now.restart()
    }
  }
})

test('a list that changed upstream is noticed when it is no longer fresh', async (t) => {
  const scene = await setUp(t, {})
  const { upstream, clock, get } = scene
  await scene.bring('1')
  const late = sbomOf(BUNDLE.manifest)
  t.strictSame(tagsOf(await get('tags/list')), TAGS)
  t.strictSame(referrersOf(await get(`referrers/${BUNDLE.manifest.digest}`)), [])
  upstream.addImage(REPOSITORY, '4', APP)
  upstream.addImage(REPOSITORY, undefined, late)
  await kept(scene, 'tags/list', `referrers/${BUNDLE.manifest.digest}`)
  t.strictSame(tagsOf(await get('tags/list')), TAGS, 'as long as it is fresh')
  clock.now += 2 * MINUTE
  t.strictSame(tagsOf(await get('tags/list')), [...TAGS, '4'])
  t.strictSame(referrersOf(await get(`referrers/${BUNDLE.manifest.digest}`)), [late.manifest.digest])
})

test('containerd 2.4 shows why what it got may be old', async (t) => {
  const scene = await setUp(t, {})
  const where = { mirror: scene.mirror.url, real: NOWHERE, repository: REPOSITORY, tag: '1' }
  await scene.bring('1')
  t.strictSame(warningsShown(await run(containerd24, where)), [])
  scene.clock.now += 10 * MINUTE
  await scene.upstream.stop()
  const outcome = await run(containerd24, where)
  t.equal(outcome.ending, 'pulled')
  t.match(warningsShown(outcome), [/docker\.io cannot be asked; confirmed \d+ s ago/])
})

test('whoever verifies is told when signatures may be missing, and never that there are none', async (t) => {
  const scene = await setUp(t, { prefetch: 'off' })
  await scene.bring('1')
  await scene.upstream.stop()
  scene.clock.now += 10 * MINUTE
  const where = { mirror: scene.mirror.url, real: NOWHERE, repository: REPOSITORY, tag: '1' }
  t.equal((await run(cosign, where)).ending, 'failed', 'no signature is here')
  const { exchanges } = await run(orasDiscover, where)
  const lists = exchanges.filter(({ path }) => path.includes('/referrers/'))
  t.ok(lists.length > 0)
  for (const { headers } of lists) t.match(headers['warning'], /^299 - "/)
})

test('signatures come with the image also when they were listed before it was pulled', async (t) => {
  const scene = await setUp(t, {})
  const where = { mirror: scene.mirror.url, real: NOWHERE, repository: REPOSITORY, tag: '1' }
  t.equal((await run(orasDiscover, where)).ending, 'pulled')
  await quiet(scene.mirror, scene.upstream)
  await scene.bring('1')
  await scene.upstream.stop()
  scene.clock.now += 10 * MINUTE
  for (const client of [cosign, notation]) {
    const { ending, error } = await run(client, where)
    t.equal(ending, 'pulled', `${client.name}: ${error?.message ?? ''}`)
  }
})

test('what was cut off while it was fetched ahead comes with the next pull, also of an image that is here', async (t) => {
  const scene = await setUp(t, {}, { latencyMs: 30 })
  await run(containerd24, { mirror: scene.mirror.url, real: NOWHERE, repository: REPOSITORY, tag: '1' })
  const again = await scene.restart()
  await again.bring('1')
  await again.upstream.stop()
  again.clock.now += 10 * MINUTE
  for (const client of [docker29Prefix, cosign, notation]) {
    const where = { mirror: again.mirror.url, real: NOWHERE, repository: REPOSITORY, tag: '1' }
    const { ending, error } = await run(client, where)
    t.equal(ending, 'pulled', `${client.name}: ${error?.message ?? ''}`)
  }
})
