/** Docker Hub's budget: what a limit of pulls stops and what it does not, and what the last of them are kept for. */
import { test } from 'tap'
import { eventually, heard, pull, simulate } from '../../support/app.ts'
import { image, index } from '../../support/images.ts'
import { MINUTE, REPO, startTagged } from '../../support/tagged.ts'
import { codeOf } from '../../support/two-upstreams.ts'

const SECOND = 1000
const QUIET = { cache: { prefetch: 'off' } }
const second = image({ layers: [200], seed: 'second' })
const cold = image({ layers: [300], seed: 'cold' })

test('a limit of pulls: unmoved tags are confirmed, moved ones stale, blobs come, the rest is refused', async (t) => {
  const { upstream, mirror, clock, first, get, head, blob, warm, age, asked } = await startTagged(t, QUIET)
  await warm()
  upstream.addImage('library/moving', '1', first)
  await eventually('it is kept', async () => (await get('1', 'library/moving')).cache === 'hit')
  await heard(mirror)
  age()
  upstream.set({ rateLimit: { limit: 0, retryAfter: 'secs', retryAfterSeconds: 300 } })
  const refused = await get('1', 'library/other')
  t.same([refused.status, codeOf(refused), refused.headers['retry-after']], [503, 'UNAVAILABLE', '300'])

  t.equal((await get()).cache, 'hit', 'a HEAD says that it is the same')
  t.equal((await head()).cache, 'hit')
  for (const { digest, bytes } of first.blobs) t.ok((await blob(digest)).body.equals(bytes))
  upstream.moveTag('library/moving', '1', second)
  for (const answer of [await get('1', 'library/moving'), await head('1', 'library/moving')]) {
    t.match(answer, {
      status: 200,
      cache: 'stale',
      headers: {
        warning: /^299 - "docker\.io limits our pulls/,
        'docker-content-digest': first.manifest.digest,
      },
    })
  }
  clock.now += 100 * SECOND
  for (const path of ['2', second.manifest.digest]) {
    const later = await get(path)
    t.same([later.status, later.headers['retry-after']], [503, '200'], 'at once, and told for how long')
  }
  t.equal(upstream.log.count({ status: 429 }), 1, 'one GET was refused, and no other asked')
  const ready = JSON.parse((await pull(`${mirror.url}/readyz`)).body.toString()) as { upstreams: object[] }
  t.match(ready.upstreams, [{ key: 'docker.io', state: 'failing', message: /^limits our pulls: .*200 s/ }])

  upstream.set({ rateLimit: { limit: 100 } })
  clock.now += 200 * SECOND
  const gets = asked('GET')
  t.match(await get('1', 'library/moving'), { status: 200, cache: 'miss' })
  t.equal(asked('GET'), gets + 1)
  await mirror.close()
})

test('without a word about how long, pulls stop for 10 s, 20 s, 40 s, and begin anew after an answer', async (t) => {
  const { upstream, mirror, clock, get } = await startTagged(t, QUIET)
  upstream.set({ rateLimit: { limit: 0 } })
  for (const seconds of [10, 20, 40]) {
    t.equal((await get()).headers['retry-after'], String(seconds))
    clock.now += seconds * SECOND - 1
    t.equal((await get()).headers['retry-after'], '1')
    clock.now += 1
  }
  t.equal(upstream.log.count({ status: 429 }), 3)
  upstream.set({ rateLimit: { limit: 1 } })
  t.equal((await get()).status, 200)
  t.equal((await get('2')).headers['retry-after'], '10')
  await mirror.close()
})

test('a moved tag that no pull is spent on is asked about once in its TTL', async (t) => {
  const { upstream, mirror, get, head, warm, age, asked, clock } = await startTagged(t, QUIET)
  await warm()
  age()
  upstream.set({ rateLimit: { limit: 0, retryAfter: 'secs', retryAfterSeconds: 3600 } })
  t.equal((await get('2')).status, 503)
  upstream.moveTag(REPO, '1', second)
  const heads = asked('HEAD')
  for (let turn = 0; turn < 10; turn += 1) {
    // Whoever were told of the new digest would fetch it, and be refused.
    t.equal((await head()).cache, 'stale')
    t.equal((await get()).cache, 'stale')
  }
  t.equal(asked('HEAD'), heads + 1)
  clock.now += MINUTE
  t.equal((await get()).cache, 'stale')
  t.equal(asked('HEAD'), heads + 2)
  await mirror.close()
})

test('an image that another name has brought costs no pull, and so is no matter of limits', async (t) => {
  const { upstream, mirror, get, warm, age } = await startTagged(t, QUIET)
  await warm()
  upstream.addImage('library/other', '1', second)
  upstream.addImage(REPO, 'held', second)
  t.equal((await get('1', 'library/other')).status, 200)
  t.equal((await get('held')).status, 200)
  await eventually('it is written down', async () => (await get('held')).cache === 'hit')
  await heard(mirror)
  age()
  upstream.set({ rateLimit: { limit: 0 } })
  t.equal((await get('2')).status, 503)
  upstream.moveTag(REPO, '1', second)
  t.match(await get(), { cache: 'hit', headers: { 'docker-content-digest': second.manifest.digest } })
  await mirror.close()
})

test('the reserve: with fewer pulls left, a cached tag is stale rather than spending one', async (t) => {
  const limit = { limit: 10 }
  const { upstream, mirror, get, head, warm, age, asked } = await startTagged(t, QUIET, { rateLimit: limit })
  await warm()
  // One is spent; five more leave four.
  for (let at = 0; at < 5; at += 1) {
    const repo = `library/cold${at}`
    upstream.addImage(repo, '1', image({ layers: [10], seed: repo }))
    t.equal((await get('1', repo)).status, 200)
  }
  age()
  const gets = asked('GET')
  await warm()
  t.equal(asked('GET'), gets, 'the same digest is a refresh')
  age()
  upstream.moveTag(REPO, '1', second)
  for (const answer of [await get(), await head(), await get()]) {
    t.match(answer, {
      status: 200,
      cache: 'stale',
      headers: { warning: /^299 - "docker\.io limits our pulls/ },
    })
  }
  t.equal(asked('GET'), gets)
  upstream.addImage('library/cold', '1', cold)
  t.equal((await get('1', 'library/cold')).status, 200, 'what is not cached may spend')
  t.equal(asked('GET'), gets + 1)
  t.match(
    mirror.lines.filter(({ msg }) => /of the pulls are left/.test(String(msg))),
    [],
    'forty per cent is no news',
  )

  age()
  upstream.set({ rateLimit: { limit: 100 } })
  t.match(await get(), { cache: 'miss', headers: { 'docker-content-digest': second.manifest.digest } })
  await mirror.close()
})

test('the reserve is what the configuration says, and never a reason to answer with nothing', async (t) => {
  for (const [reserve, staleIfError, cache] of [
    [0, '30d', 'miss'],
    [100, '30d', 'stale'],
    [100, '30s', 'miss'],
  ] as const) {
    const options = { cache: { prefetch: 'off', staleIfError }, upstream: { reserve } }
    const { upstream, mirror, get, warm, age } = await startTagged(t, options, { rateLimit: { limit: 50 } })
    await warm()
    age()
    upstream.moveTag(REPO, '1', second)
    t.match(await get(), { status: 200, cache }, `reserve ${reserve}, stale for ${staleIfError}`)
    await mirror.close()
  }
})

test('figures are told once each as they fall', async (t) => {
  const { upstream, mirror, get } = await startTagged(t, QUIET, { rateLimit: { limit: 40 } })
  for (let at = 0; at < 40; at += 1) {
    const repo = `library/cold${at}`
    upstream.addImage(repo, '1', cold)
    await get('1', repo)
  }
  const told = mirror.lines.filter(({ msg }) => /of the pulls are left/.test(String(msg)))
  t.match(told, [
    { level: 'warn', upstream: 'docker.io', account: 'anonymous', remaining: 7, msg: /less than 20 %/ },
    { level: 'warn', remaining: 1, msg: /less than 5 %/ },
  ])
  t.equal(told.length, 2)
  await mirror.close()
})

test('under fallbacks a limit of pulls moves the pulls, and nothing else', async (t) => {
  const spare = await simulate(t)
  spare.addImage(REPO, '1', image({ layers: [100], seed: 'first' }))
  const { upstream, mirror, get, blob, first, asked } = await startTagged(t, {
    ...QUIET,
    upstream: { fallbacks: [spare.url] },
  })
  upstream.set({ rateLimit: { limit: 0, retryAfter: 'secs', retryAfterSeconds: 3600 } })
  t.match(await get(), { status: 200, cache: 'miss' })
  t.equal(spare.log.count({ kind: 'manifest', method: 'GET' }), 1)
  t.equal((await blob(first.layers[0]!.digest)).status, 200)
  t.equal(spare.log.count({ kind: 'blob' }), 0)
  t.equal(asked('GET'), 1)
  await mirror.close()
})

test('an index that has moved waits as a whole, and its platforms that are here are not asked for', async (t) => {
  const amd64 = image({ layers: [10], seed: 'amd64' })
  const before = index({
    images: { amd64, arm64: image({ layers: [10], seed: 'old', architecture: 'arm64' }) },
  })
  const after = index({
    images: { amd64, arm64: image({ layers: [10], seed: 'new', architecture: 'arm64' }) },
  })
  const { upstream, mirror, get, age, asked } = await startTagged(t, QUIET, { rateLimit: { limit: 100 } })
  upstream.addImage(REPO, 'multi', before)
  t.equal((await get('multi')).status, 200)
  t.equal((await get(amd64.manifest.digest)).status, 200)
  t.equal(asked('GET'), 2)
  for (const it of ['multi', amd64.manifest.digest]) {
    await eventually('both are kept', async () => (await get(it)).cache === 'hit')
  }
  await heard(mirror)
  age()
  upstream.moveTag(REPO, 'multi', after)
  t.match(await get('multi'), { headers: { 'docker-content-digest': after.manifest.digest } })
  t.equal((await get(amd64.manifest.digest)).cache, 'hit')
  t.equal(asked('GET'), 3)
  await mirror.close()
})
