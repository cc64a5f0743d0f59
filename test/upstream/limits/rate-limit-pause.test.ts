/** How long an upstream that has had enough of us is left alone, and what goes on meanwhile. */
import { test } from 'tap'
import { RateLimitPause } from '../../../src/upstream/limits/rate-limit-pause.ts'
import { UpstreamError } from '../../../src/upstream/upstream.ts'
import { clientFor, connect, failureOf, LATEST, NAME } from '../../support/upstream-client.ts'
import { image } from '../../support/images.ts'

const SECOND = 1000
const JSON_429 = { status: 429, body: 'json' } as const

function busy(retryAfterMs?: number): UpstreamError {
  return new UpstreamError('busy', 'docker.io', 'too many', {
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
  })
}

void test('without a word about how long it is 10 s, doubling to ten minutes until it answers', (t) => {
  const clock = { now: 0 }
  const silence = new RateLimitPause(() => clock.now)
  t.equal(silence.leftMs, undefined)
  for (const seconds of [10, 20, 40, 80, 160, 320, 600, 600]) {
    t.ok(silence.begin(busy()))
    t.equal(silence.leftMs, seconds * SECOND)
    t.notOk(silence.begin(busy()), 'who asked before brings no news')
    t.equal(silence.error?.retryAfterMs, seconds * SECOND, 'and makes it no longer')
    silence.succeeded()
    clock.now += seconds * SECOND
    t.equal(silence.error, undefined)
  }
  silence.succeeded()
  silence.begin(busy())
  t.equal(silence.leftMs, 10 * SECOND)
  t.end()
})

void test('what it asks for is granted, within reason', (t) => {
  for (const [asked, granted] of [
    [0, 10],
    [3, 10],
    [90, 90],
    [86_400, 3600],
  ] as const) {
    const silence = new RateLimitPause(() => 0)
    silence.begin(busy(asked * SECOND))
    t.equal(silence.leftMs, granted * SECOND)
  }
  t.end()
})

void test('a limit of pulls stops the GETs of manifests alone', async (t) => {
  const clock = { now: 0 }
  const { client, upstream, image: held, signal } = await connect(t, {}, { now: () => clock.now })
  const rule = upstream.fault({ kind: 'manifest', method: 'GET' }, { ...JSON_429, retryAfter: 60 })
  t.match(await failureOf(client.manifest(NAME, LATEST, signal)), {
    failure: 'busy',
    status: 429,
    scope: 'pulls',
    isHostwide: false,
    retryAfterMs: 60 * SECOND,
  })
  clock.now += 20 * SECOND
  t.match(await failureOf(client.manifest(NAME, LATEST, signal)), {
    scope: 'pulls',
    retryAfterMs: 40 * SECOND,
  })
  t.equal(rule.hits, 1, 'nobody was asked')
  t.match(await client.headManifest(NAME, LATEST, signal), { result: 'present' })
  t.ok(await client.headBlob(NAME, held.layers[0]!.digest, signal))
  t.match(client.status().accounts, [
    { account: 'anonymous', pullsStoppedForMs: 40 * SECOND, stoppedForMs: undefined },
  ])
  t.match(client.quotaBelow(0), { failure: 'busy', retryAfterMs: 40 * SECOND })
  rule.remove()
  clock.now += 40 * SECOND
  t.ok(await client.manifest(NAME, LATEST, signal))
  t.equal(client.quotaBelow(0), undefined)
})

const GUARDS = [
  ['a HEAD', { kind: 'manifest', method: 'HEAD' }, JSON_429],
  ['a blob', { kind: 'blob' }, JSON_429],
  ['a token', { kind: 'token' }, JSON_429],
  ['a plain text', { kind: 'manifest', method: 'GET' }, { status: 429, body: 'html' }],
  ['nothing at all', { kind: 'manifest', method: 'GET' }, { status: 429, body: 'empty' }],
  ['a list', { kind: 'tags' }, JSON_429],
] as const

for (const [what, matcher, behaviour] of GUARDS) {
  void test(`a 429 with ${what} stops everything, of every account`, async (t) => {
    const clock = { now: 0 }
    const now = (): number => clock.now
    const silence = new RateLimitPause(now)
    const simulated = matcher.kind === 'token' ? { token: {} } : {}
    const { client, upstream, image: held, signal } = await connect(t, simulated, { now, pause: silence })
    const other = clientFor(t, { url: upstream.url, now, pause: silence })
    const rule = upstream.fault(matcher, behaviour)
    const asks = [
      () => client.headManifest(NAME, LATEST, signal),
      () => client.headBlob(NAME, held.layers[0]!.digest, signal),
      () => client.tags(NAME, new URLSearchParams(), signal),
      () => client.manifest(NAME, LATEST, signal),
    ]
    const failures: UpstreamError[] = []
    for (const ask of asks) {
      const failure = await ask().then(
        () => undefined,
        (error: unknown) => error as UpstreamError,
      )
      if (failure !== undefined) failures.push(failure)
      if (rule.hits > 0) break
    }
    const scope = matcher.kind === 'token' ? 'account' : 'host'
    t.match(failures, [{ failure: 'busy', scope, isHostwide: true, retryAfterMs: 10 * SECOND }])
    const asked = upstream.log.count()
    for (const ask of [...asks, () => other.headManifest(NAME, LATEST, signal)]) {
      t.match(await failureOf(ask()), { failure: 'busy', retryAfterMs: 10 * SECOND })
    }
    t.equal(upstream.log.count(), asked, 'nobody was asked')
    t.match(other.status().accounts, [{ stoppedForMs: 10 * SECOND, pullsStoppedForMs: undefined }])
    rule.remove()
    clock.now += 10 * SECOND
    t.match(await client.headManifest(NAME, LATEST, signal), { result: 'present' })
  })
}

void test('a 429 of a CDN is about its blob alone', async (t) => {
  const held = image({ layers: [100] })
  const { client, upstream, signal } = await connect(t, { cdn: {} }, {}, held)
  upstream.fault({ kind: 'cdn' }, { ...JSON_429, retryAfter: 600 })
  const request = { from: 0, signal }
  t.match(await failureOf(client.blob(NAME, held.layers[0]!.digest, request)), { failure: 'broken' })
  t.match(client.status().accounts, [{ stoppedForMs: undefined }])
  t.ok(await client.manifest(NAME, LATEST, signal))
})
