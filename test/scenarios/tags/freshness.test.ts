/** What a tag answers while time passes and upstream has its bad days. */
import { test } from 'tap'
import { parseRepositoryName, parseTag } from '../../../src/oci/reference.ts'
import { image, index } from '../../support/images.ts'
import { eventually, heard, pull, simulate, startMirror, type MirrorOptions } from '../../support/app.ts'
import type { Behaviour } from '../../support/upstream-rules.ts'
import type { UpstreamOptions } from '../../support/upstream.ts'

const MINUTE = 60_000
const HOUR = 60 * MINUTE

/** `library/app:1` at a simulated Docker Hub, and a clock that is ours. */
/** For whom upstream keeps waiting; a machine that is busy must not pass for that. */
const IMPATIENT = { staleBudgetMs: 300, budgetMs: 900 }

async function setUp(
  t: Parameters<typeof simulate>[0],
  options: MirrorOptions = {},
  hub: UpstreamOptions = {},
) {
  const upstream = await simulate(t, hub)
  const first = image({ layers: [100], seed: 'first' })
  upstream.addImage('library/app', '1', first)
  const clock = { now: 1_700_000_000_000 }
  const mirror = await startMirror(t, upstream, {
    now: () => clock.now,
    ...options,
    upstream: { timeouts: { connect: '20s', headers: '20s', idle: '20s' }, ...options.upstream },
  })
  const base = `${mirror.url}/v2/library/app`
  const get = (reference = '1', headers = {}) => pull(`${base}/manifests/${reference}`, headers)
  const head = (reference = '1') => pull(`${base}/manifests/${reference}`, {}, 'HEAD')
  const asked = (method: 'GET' | 'HEAD') => upstream.log.count({ kind: 'manifest', method })
  /** The tag is written down: a later look finds it. */
  const warm = async () => {
    await get()
    await eventually('the tag is kept', async () => (await get()).cache === 'hit')
    await heard(mirror)
  }
  /** The same, of what a HEAD has said: whoever asks meanwhile joins that. */
  const written = async () => {
    const key = { registry: 'docker.io', name: parseRepositoryName('library/app') }
    const { metadata } = mirror.app
    await eventually(
      'the tag is written down',
      async () => (await metadata.tags.get(key, parseTag('1'))) !== undefined,
    )
    await heard(mirror)
  }
  return { upstream, mirror, clock, first, get, head, asked, warm, written, base }
}

test('tagMoves: a young tag is answered from here, an old one costs one HEAD', async (t) => {
  const { clock, get, asked, warm } = await setUp(t)
  await warm()
  for (let turn = 0; turn < 10; turn += 1) t.equal((await get()).cache, 'hit')
  t.same([asked('GET'), asked('HEAD')], [1, 0])
  clock.now += MINUTE + 1
  for (let turn = 0; turn < 10; turn += 1) t.equal((await get()).cache, 'hit')
  t.same([asked('GET'), asked('HEAD')], [1, 1])
})

test('tagMoves: what moved is fetched by digest; both stay pullable', async (t) => {
  const { upstream, clock, first, get, asked, warm } = await setUp(t)
  await warm()
  const second = image({ layers: [200], seed: 'second' })
  upstream.moveTag('library/app', '1', second)
  t.ok((await get()).body.equals(first.manifest.bytes), 'until its time is over')
  clock.now += MINUTE + 1
  const moved = await get()
  t.ok(moved.body.equals(second.manifest.bytes))
  t.equal(moved.cache, 'miss')
  t.same([asked('GET'), asked('HEAD')], [2, 1])
  t.ok((await get(first.manifest.digest)).body.equals(first.manifest.bytes))
})

test('tagMovesBetweenHeadAndGet: it is asked for once more', async (t) => {
  const { upstream, clock, get, warm } = await setUp(t)
  await warm()
  const second = image({ layers: [200], seed: 'second' })
  const third = image({ layers: [300], seed: 'third' })
  upstream.moveTag('library/app', '1', second)
  upstream.fault(
    {
      kind: 'manifest',
      method: 'GET',
      ref: second.manifest.digest,
      when: () => {
        upstream.moveTag('library/app', '1', third)
        upstream.deleteManifest('library/app', second.manifest.digest)
        return false
      },
    },
    {},
  )
  clock.now += MINUTE + 1
  t.ok((await get()).body.equals(third.manifest.bytes))
})

test('a HEAD costs upstream a HEAD, never a GET, and is remembered', async (t) => {
  const { first, get, head, asked, written } = await setUp(t)
  const cold = await head()
  t.equal(cold.status, 200)
  t.equal(cold.headers['docker-content-digest'], first.manifest.digest)
  t.equal(cold.headers['content-length'], String(first.manifest.bytes.length))
  t.equal(cold.headers['content-type'], first.manifest.mediaType)
  await written()
  const heads = asked('HEAD')
  t.equal((await head()).cache, 'miss', 'and still not here')
  t.equal(asked('HEAD'), heads, 'it is remembered')
  t.equal(asked('GET'), 0)
  t.equal((await get(first.manifest.digest)).status, 200)
  t.equal((await get()).status, 200)
  t.same([asked('GET'), asked('HEAD')], [1, heads])
})

for (const rate of [429, 503] as const) {
  test(`a HEAD that told of a move costs nobody what is here, when the GET behind it is ${rate}`, async (t) => {
    const { upstream, clock, first, get, head, warm } = await setUp(t)
    await warm()
    const second = image({ layers: [200], seed: 'second' })
    upstream.moveTag('library/app', '1', second)
    clock.now += MINUTE + 1
    t.equal((await head()).headers['docker-content-digest'], second.manifest.digest)
    const limit = upstream.fault({ kind: 'manifest', method: 'GET' }, { status: rate })
    // As containerd does it, and then again as a whole.
    t.equal((await get(second.manifest.digest)).status, 503)
    const told = await head()
    t.match(told, { status: 200, cache: 'stale' })
    t.equal(told.headers['docker-content-digest'], first.manifest.digest)
    const stale = await get()
    t.match(stale, { status: 200, cache: 'stale' })
    t.ok(stale.body.equals(first.manifest.bytes))
    t.ok((await get(first.manifest.digest)).body.equals(first.manifest.bytes))

    limit.remove()
    clock.now += MINUTE + 1
    t.ok((await get()).body.equals(second.manifest.bytes))
  })
}

test('a HEAD that told of a move is remembered, and counts as soon as what it told of is here', async (t) => {
  const { upstream, mirror, clock, get, head, asked, warm } = await setUp(t)
  await warm()
  const second = image({ layers: [200], seed: 'second' })
  upstream.moveTag('library/app', '1', second)
  clock.now += MINUTE + 1
  for (const round of [1, 2]) {
    const told = await head()
    t.equal(told.cache, 'miss', `round ${round}`)
    t.equal(told.headers['docker-content-digest'], second.manifest.digest)
  }
  t.equal((await get(second.manifest.digest)).cache, 'miss')
  await eventually('the tag is kept', async () => {
    const key = { registry: 'docker.io', name: parseRepositoryName('library/app') }
    const record = await mirror.app.metadata.tags.get(key, parseTag('1'))
    return record?.digest === second.manifest.digest
  })
  t.same([asked('GET'), asked('HEAD')], [2, 1])
  await upstream.stop()
  t.equal((await get()).cache, 'hit')
  clock.now += MINUTE + 1
  const stale = await get()
  t.match(stale, { status: 200, cache: 'stale' })
  t.ok(stale.body.equals(second.manifest.bytes))
})

test('a manifest is one GET, whether by tag first or by digest right behind', async (t) => {
  const { first, get, asked } = await setUp(t)
  await get()
  await get(first.manifest.digest)
  t.equal(asked('GET'), 1)
})

test('acceptStrict: what a tag names is served whatever Accept says, and upstream is asked for everything', async (t) => {
  const { upstream, mirror, first } = await setUp(t)
  const both = index({ images: { 'linux/amd64': first } })
  upstream.addImage('library/both', '1', both)
  const url = `${mirror.url}/v2/library/both/manifests/1`
  const narrow = await pull(url, { accept: 'application/vnd.docker.distribution.manifest.v2+json' })
  const wide = await pull(url, { accept: '*/*' })
  t.ok(narrow.body.equals(both.manifest.bytes) && wide.body.equals(both.manifest.bytes))
  t.match(
    upstream.log.of({ kind: 'manifest', repo: 'library/both' })[0]?.headers.accept,
    'image.index.v1+json',
  )
})

const OUTAGES: Record<string, { behaviour?: Behaviour; cached: number; uncached: number }> = {
  'is down': { cached: 200, uncached: 503 },
  'answers 401': { behaviour: { status: 401 }, cached: 200, uncached: 403 },
  'answers 403': { behaviour: { status: 403 }, cached: 200, uncached: 403 },
  'answers 429': { behaviour: { status: 429, retryAfter: 7 }, cached: 200, uncached: 503 },
  'answers 500': { behaviour: { status: 500, body: 'html' }, cached: 200, uncached: 503 },
  'answers 404 in HTML': { behaviour: { status: 404, body: 'html' }, cached: 200, uncached: 503 },
  hangs: { behaviour: { hang: 'headers' }, cached: 200, uncached: 503 },
}
for (const [what, { behaviour, cached, uncached }] of Object.entries(OUTAGES)) {
  test(`upstream ${what}: cached tags answer stale, uncached ones get an honest error`, async (t) => {
    const hangs = behaviour?.hang !== undefined
    const { upstream, clock, first, get, head, warm, mirror } = await setUp(t, hangs ? IMPATIENT : {})
    await warm()
    clock.now += MINUTE + 1
    if (behaviour === undefined) await upstream.stop()
    else upstream.fault({ kind: ['manifest', 'blob', 'ping'] }, behaviour)

    for (const answer of [await get(), await get(), await head()]) {
      t.equal(answer.status, cached)
      t.equal(answer.cache, 'stale')
      t.match(answer.headers['warning'], /^299 - "/)
    }
    t.ok((await get()).body.equals(first.manifest.bytes))
    const unknown = await pull(`${mirror.url}/v2/library/other/manifests/1`)
    t.equal(unknown.status, uncached)
    t.match(JSON.parse(unknown.body.toString()), {
      errors: [{ code: uncached === 403 ? 'DENIED' : 'UNAVAILABLE' }],
    })
    if (uncached === 503) t.ok(Number(unknown.headers['retry-after']) > 0)
    const blob = await pull(`${mirror.url}/v2/library/other/blobs/${first.layers[0]!.digest}`)
    t.equal(blob.status, uncached)
    t.equal((await pull(`${mirror.url}/v2/`)).status, 200)

    // It comes back.
    if (behaviour === undefined) await upstream.start()
    else upstream.rules.clear()
    await eventually('it answers again', async () => {
      clock.now += 10_001
      return (await get()).cache === 'hit'
    })
  })
}

test('a failed upstream is left alone for 10 s, and stale answers come at once', async (t) => {
  const { upstream, clock, get, warm, asked } = await setUp(t)
  await warm()
  clock.now += MINUTE + 1
  upstream.fault({ kind: 'manifest' }, { status: 500 })
  t.equal((await get()).cache, 'stale')
  const heads = asked('HEAD')
  for (let turn = 0; turn < 5; turn += 1) t.equal((await get()).cache, 'stale')
  t.equal(asked('HEAD'), heads)
  clock.now += 10_001
  t.equal((await get()).cache, 'stale')
  t.ok(asked('HEAD') > heads)
})

test('a slow revalidation answers stale within its budget and goes on behind', async (t) => {
  const { upstream, clock, get, warm } = await setUp(t, IMPATIENT)
  await warm()
  const second = image({ layers: [200], seed: 'second' })
  upstream.moveTag('library/app', '1', second)
  upstream.fault({ kind: 'manifest', method: 'HEAD', times: 1 }, { latencyMs: 600 })
  clock.now += MINUTE + 1
  t.equal((await get()).cache, 'stale')
  await eventually('the new one is here', async () => (await get()).body.equals(second.manifest.bytes))
})

test('stale answers end: staleIfError, and sooner staleIfDenied', async (t) => {
  const { upstream, clock, get, warm, mirror } = await setUp(t, {
    cache: { staleIfError: '2h', staleIfDenied: '1h' },
  })
  await warm()
  const denial = upstream.fault({ kind: 'manifest' }, { status: 403 })
  clock.now += HOUR - 1
  t.equal((await get()).cache, 'stale')
  const ready = JSON.parse((await pull(`${mirror.url}/readyz`)).body.toString()) as { upstreams: object[] }
  t.match(ready.upstreams, [{ key: 'docker.io', state: 'denied', message: /library\/app/ }])
  clock.now += 10_001
  t.equal((await get()).status, 403)
  denial.remove()
  upstream.fault({ kind: 'manifest' }, { status: 500 })
  clock.now += HOUR - 20_000
  t.equal((await get()).cache, 'stale')
  clock.now += 10_001
  t.equal((await get()).status, 503)
})

test('deletedUpstream: tag: it is absent for negativeTtl, its content by digest stays', async (t) => {
  const { upstream, clock, first, get, head, asked, warm } = await setUp(t)
  await warm()
  upstream.deleteTag('library/app', '1')
  clock.now += MINUTE + 1
  t.equal((await get()).status, 404)
  const gets = asked('GET')
  t.equal((await get()).status, 404)
  t.equal((await head()).status, 404)
  t.equal(asked('GET'), gets, 'remembered')
  t.equal((await get(first.manifest.digest)).cache, 'hit')
  upstream.moveTag('library/app', '1', first)
  clock.now += 30_001
  await eventually('it is back', async () => (await get()).status === 200)
})

test('headMode: 404: of a cached tag it is confirmed by GET before it is believed', async (t) => {
  const { upstream, clock, get, head, warm } = await setUp(t)
  await warm()
  upstream.fault({ kind: 'manifest', method: 'HEAD' }, { status: 404 })
  clock.now += MINUTE + 1
  t.equal((await get()).status, 200)
  clock.now += MINUTE + 1
  t.equal((await head()).status, 200)
})

test('"no such repository" in the words of Docker Hub is 404, and 403 where we have served from it', async (t) => {
  const { upstream, clock, get, warm, mirror } = await setUp(t, {}, { token: { hideUnknown: true } })
  await warm()
  const unknown = await pull(`${mirror.url}/v2/library/nothing/manifests/1`)
  t.equal(unknown.status, 404)
  t.match(JSON.parse(unknown.body.toString()), { errors: [{ code: 'NAME_UNKNOWN' }] })
  const asked = upstream.log.count({ kind: 'manifest', repo: 'library/nothing' })
  t.equal((await pull(`${mirror.url}/v2/library/nothing/manifests/1`)).status, 404)
  t.equal(upstream.log.count({ kind: 'manifest', repo: 'library/nothing' }), asked, 'remembered for 10 s')
  upstream.deleteRepository('library/app')
  upstream.tokens.revokeTokens()
  clock.now += 25 * HOUR
  t.equal((await get()).status, 403)
})

test('offline: what is here answers stale, nothing is asked', async (t) => {
  const { upstream, mirror, warm, base, clock } = await setUp(t)
  await warm()
  await mirror.close()
  const asked = upstream.log.count()
  const offline = await startMirror(t, upstream, {
    root: mirror.root,
    cache: { offline: true },
    now: () => clock.now + MINUTE + 1,
  })
  const url = base.replace(mirror.url, offline.url)
  t.equal((await pull(`${url}/manifests/1`)).cache, 'stale')
  t.equal((await pull(`${url}/manifests/2`)).status, 503)
  t.equal(upstream.log.count(), asked)
})
