/** Upstreams that limit how often they are asked: what is asked of them meanwhile, and what answers. */
import { test } from 'tap'
import { eventually, pull } from '../../support/app.ts'
import { image } from '../../support/images.ts'
import { REPO, startTagged } from '../../support/tagged.ts'
import { codeOf, startTwoUpstreams } from '../../support/two-upstreams.ts'
import type { RateLimit } from '../../support/upstream-limits.ts'

const SECOND = 1000
const HOUR = 3600 * SECOND

/** So that what is counted is what clients ask for. */
const QUIET = { cache: { prefetch: 'off' } }

const BODIES = ['json', 'text', 'HAP429', 'empty'] as const
/** How long nobody is asked. */
const RETRY_AFTER: readonly (Pick<RateLimit, 'retryAfter' | 'retryAfterSeconds'> & { silence: number })[] = [
  { retryAfter: 'secs', retryAfterSeconds: 90, silence: 90 * SECOND },
  { retryAfter: 'date', retryAfterSeconds: 90, silence: 90 * SECOND },
  { retryAfter: 'xUnix', retryAfterSeconds: 90, silence: 90 * SECOND },
  { retryAfter: 'secs', retryAfterSeconds: 3, silence: 10 * SECOND },
  { retryAfter: 'secs', retryAfterSeconds: 0, silence: 10 * SECOND },
  { retryAfter: 'secs', retryAfterSeconds: 86_400, silence: HOUR },
  { retryAfter: 'past', silence: 10 * SECOND },
  { retryAfter: 'none', silence: 10 * SECOND },
]

for (const [at, { silence, ...wait }] of RETRY_AFTER.entries()) {
  const body = BODIES[at % BODIES.length]!
  const what = `${wait.retryAfter} ${wait.retryAfterSeconds ?? ''}`.trim()
  test(`retryAfter: ${what}: nobody is asked for ${silence / SECOND} s, and what is cached answers (${body})`, async (t) => {
    const { upstream, clock, first, get, head, blob, warm, age } = await startTagged(t, QUIET)
    await warm()
    const loose = image({ layers: [700], seed: 'loose' })
    upstream.addImage('library/app', undefined, loose)
    t.equal((await get(loose.manifest.digest)).status, 200)
    age()
    upstream.set({ rateLimit: { limit: 0, counts: 'all', body, ...wait } })
    t.equal((await get()).cache, 'stale')
    const asked = upstream.log.count()

    const limitedAt = clock.now
    for (const later of [0, silence / 2, silence - 2 * SECOND]) {
      clock.now = limitedAt + later
      for (const answer of [await get(), await head()]) {
        t.match(answer, { status: 200, cache: 'stale', headers: { warning: /^299 - "/ } })
      }
      t.ok((await get()).body.equals(first.manifest.bytes))
      const left = Math.ceil((silence - later) / SECOND)
      for (const path of ['1', first.manifest.digest]) {
        const refused = await get(path, 'library/other')
        t.equal(refused.status, 503)
        t.equal(codeOf(refused), 'UNAVAILABLE')
        const after = Number(refused.headers['retry-after'])
        t.ok(Math.abs(after - left) <= 2, `Retry-After is ${after}, and ${left} s are left`)
        t.equal(refused.headers['www-authenticate'], undefined)
      }
    }
    t.equal(upstream.log.count(), asked, 'nobody was asked')

    upstream.set({ rateLimit: undefined })
    clock.now = limitedAt + silence + 2 * SECOND
    await eventually('it is asked again', async () => (await get()).cache === 'hit')
    t.equal((await get('1', 'library/other')).status, 404)
    t.equal((await blob(loose.layers[0]!.digest)).status, 200)
  })
}

test('rateLimit: a 429 that asks for credentials is no challenge to our clients', async (t) => {
  const challenge = 'Bearer realm="https://auth.example/token",service="registry"'
  const { upstream, get, mirror } = await startTagged(t, {}, { rateLimit: { limit: 0, challenge } })
  for (const answer of [await get(), await get(), await pull(`${mirror.url}/v2/`)]) {
    t.equal(answer.headers['www-authenticate'], undefined)
    t.not(answer.status, 401)
    t.not(answer.status, 429)
  }
  t.equal(upstream.log.count({ kind: 'token' }), 0)
})

test('rateLimit: a hundred pulls of a cached tag cost nothing, and old ones a HEAD', async (t) => {
  const { upstream, get, warm, asked, age } = await startTagged(t, {}, { rateLimit: { limit: 1 } })
  await warm()
  for (let turn = 0; turn < 100; turn += 1) t.equal((await get()).status, 200)
  t.same([asked('GET'), asked('HEAD')], [1, 0])
  age()
  for (let turn = 0; turn < 100; turn += 1) t.equal((await get()).cache, 'hit')
  t.same([asked('GET'), asked('HEAD')], [1, 1], 'and Docker Hub does not count those')
  t.equal(upstream.log.count({ status: 429 }), 0)
})

test('rateLimit: what is left is told by a metric', async (t) => {
  const rateLimit = { limit: 100, source: '192.0.2.1' }
  const { mirror, get, warm } = await startTagged(t, {}, { rateLimit })
  await warm()
  await get('1', 'library/other')
  const metrics = (await pull(`${mirror.url}/metrics`)).body.toString()
  const labels = '{upstream="docker.io",account="anonymous"}'
  t.ok(metrics.includes(`entrepot_upstream_ratelimit_remaining${labels} 98\n`))
  t.ok(metrics.includes(`entrepot_upstream_ratelimit_limit${labels} 100\n`))
})

test('rateLimit: blobs of an image whose manifest is here are asked for all the same', async (t) => {
  const { upstream, first, get, blob } = await startTagged(t, QUIET)
  t.equal((await get()).status, 200)
  upstream.set({ rateLimit: { limit: 0, retryAfter: 'secs', retryAfterSeconds: 600 } })
  t.equal((await get('2')).status, 503)
  for (const { digest, bytes } of first.blobs) t.ok((await blob(digest)).body.equals(bytes))
  t.equal((await get('3')).status, 503, 'and that does not end the limit')
  t.equal(upstream.log.count({ kind: 'manifest', status: 429 }), 1)
})

test('rateLimit: of a CDN it is none of the registry', async (t) => {
  const { upstream, first, get, blob } = await startTagged(t, QUIET, { cdn: {} })
  upstream.addImage(REPO, '2', image({ layers: [100], seed: 'two' }))
  upstream.fault({ kind: 'cdn' }, { status: 429, retryAfter: 600 })
  t.equal((await get()).status, 200)
  const limited = await blob(first.layers[0]!.digest)
  t.match(limited, { status: 503, headers: { 'retry-after': '600' } })
  t.match(await get('2'), { status: 200, cache: 'miss' })
})

test('rateLimit: lists are refused as well, and a limit of theirs counts', async (t) => {
  const { hub, get } = await startTwoUpstreams(t)
  const one = image({ layers: [10] })
  hub.addImage('library/app', '1', one)
  hub.set({ rateLimit: { limit: 0, counts: 'all', retryAfter: 'secs', retryAfterSeconds: 300 } })
  for (const path of [
    'app/tags/list',
    'app/tags/list',
    `app/referrers/${one.manifest.digest}`,
    'app/manifests/1',
  ]) {
    const answer = await get(path)
    t.equal(answer.status, 503, path)
    t.ok(Number(answer.headers['retry-after']) > 290, path)
  }
  t.equal(hub.log.count(), 1)
})

test('rateLimit: other upstreams are not affected', async (t) => {
  const { hub, quay, get } = await startTwoUpstreams(t)
  const one = image({ layers: [10] })
  hub.addImage('library/app', '1', one)
  quay.addImage('team/app', '1', one)
  hub.set({ rateLimit: { limit: 0, retryAfter: 'secs' } })
  t.equal((await get('app/manifests/1')).status, 503)
  t.equal((await get('quay.io/team/app/manifests/1')).status, 200)
  const ready = JSON.parse((await get('../readyz')).body.toString()) as { upstreams: object[] }
  t.match(ready.upstreams, [
    { key: 'docker.io', state: 'failing' },
    { key: 'quay.io', state: 'ok' },
  ])
})

test('rateLimit: at one request a second a pull is refused honestly, and complete a little later', async (t) => {
  // The tag stays young: by this clock minutes pass within a window, and its HEADs would take every turn there is.
  const options = { upstream: { tagTtl: '30d' } }
  const { upstream, clock, first, get, blob } = await startTagged(t, options)
  upstream.set({ rateLimit: { limit: 1, windowMs: 300, counts: 'all', headers: false } })
  await eventually('all of it is here', async () => {
    clock.now += 11 * SECOND
    const answers = [await get(), ...(await Promise.all(first.blobs.map(({ digest }) => blob(digest))))]
    for (const { status, broken } of answers) {
      if (broken === undefined && status !== 200 && status !== 503) t.fail(`status ${status}`)
    }
    return answers.every(({ status }) => status === 200)
  })
})
