/** Registries that ask who is there, as clients of the mirror see it. */
import { test } from 'tap'
import { basicHeader } from '../../../src/upstream/login/credentials.ts'
import { lookAtRest } from '../../support/at-rest.ts'
import { pull, settled } from '../../support/app.ts'
import { everythingSaid, guard, REPO, ROBOT } from '../../support/guarded.ts'
import { codeOf } from '../../support/two-upstreams.ts'
import { CHALLENGE_FORMATS, type ChallengeFormat } from '../../support/upstream-challenges.ts'
import type { AuthOptions } from '../../support/upstream-auth.ts'
import type { LogEntry } from '../../support/upstream-log.ts'

void test('tokenAuth: fifty requests at once need one token, and all come whole', async (t) => {
  const { upstream, mirror, image, get } = await guard(t, { token: {}, cdn: {} })
  const { digest } = image.layers[0]!
  const answers = await Promise.all(
    Array.from({ length: 50 }, (_, at) => get(at % 2 === 0 ? 'manifests/1' : `blobs/${digest}`)),
  )
  for (const { status, broken } of answers) t.same([status, broken], [200, undefined])
  t.equal(upstream.log.count('token'), 1)
  t.equal(upstream.log.authorizationSeenBy('cdn'), 0)
  await settled(mirror)
  await mirror.close()
  const contents = new Map([image.manifest, ...image.blobs].map((it) => [String(it.digest), it]))
  const { blobs, faults } = lookAtRest(mirror.root, contents)
  t.ok(blobs.has(digest))
  t.same(faults, [])
})

void test('tokenAuth: a token lives by our clock, for a minute where nothing is said', async (t) => {
  for (const [token, seconds] of [
    [{ ttl: 300 }, 270],
    [{ fields: 'token', noExpiry: true }, 54],
    [{ fields: 'access_token' }, 270],
  ] as const) {
    const { upstream, clock, list } = await guard(t, { token })
    t.equal(await list(), 200)
    clock.now += seconds * 1000 - 1
    t.equal(await list(), 200)
    t.equal(upstream.log.count('token'), 1)
    clock.now += 2
    t.equal(await list(), 200)
    t.equal(upstream.log.count('token'), 2)
    t.equal(upstream.log.count({ kind: 'tags', status: 401 }), 1, 'before it was refused')
  }
})

void test('basicAuth: goes to that origin only, and into no log', async (t) => {
  const account = { basic: ROBOT, cdn: { rejectAuthorization: true } }
  const { upstream, mirror, pullAll } = await guard(t, account, { upstream: ROBOT })
  t.ok(await pullAll())
  t.equal(upstream.log.authorizationSeenBy('cdn'), 0)
  t.equal(upstream.log.authorizationSeenBy('auth'), 0)
  t.ok(upstream.log.count((it) => it.headers.authorization === basicHeader(ROBOT)) > 0)
  const said = everythingSaid(mirror)
  t.notOk(said.includes(JSON.stringify(ROBOT.password).slice(1, -1)))
  t.notOk(said.includes(basicHeader(ROBOT).slice('Basic '.length)))
})

for (const challengeFormat of Object.keys(CHALLENGE_FORMATS) as ChallengeFormat[]) {
  void test(`challengeFormat: ${challengeFormat} is understood`, async (t) => {
    const { upstream, pullAll, list } = await guard(t, { token: { challengeFormat } })
    t.ok(await pullAll())
    t.equal(await list(), 200)
    t.equal(upstream.log.count('token'), 1)
    const scope = challengeFormat === 'literalScope' ? 'aws' : `repository:${REPO}:pull`
    const { searchParams } = new URL(upstream.log.of('token')[0]!.url, 'http://auth')
    t.same([searchParams.get('scope'), searchParams.get('service')], [scope, 'simulator'])
  })
}

void test('noChallengeOnResource: the challenge of the ping does, for all repositories', async (t) => {
  const { upstream, image, pullAll, mirror, list } = await guard(t, {
    token: { noChallengeOnResource: true },
  })
  t.ok(await pullAll())
  upstream.addImage('library/other', '1', image)
  const other = await fetch(`${mirror.url}/v2/library/other/manifests/1`)
  t.equal(other.status, 200)
  t.equal(upstream.log.count('ping'), 1)
  t.equal(upstream.log.count('token'), 2)
  upstream.tokens.revokeTokens()
  t.equal(await list(), 200, 'also when the token has died')
})

void test('noChallengeOnResource: a literal scope of the ping is meant, its example is not', async (t) => {
  for (const [told, asked] of [
    ['aws', 'aws'],
    ['repository:user/image:pull', `repository:${REPO}:pull`],
    ['', `repository:${REPO}:pull`],
  ] as const) {
    const { upstream, list } = await guard(t, { token: {} })
    const challenge = `Bearer realm="${upstream.authUrl}/token",service="x",scope="${told}"`
    upstream.fault({ kind: 'ping' }, { status: 401, headers: { 'www-authenticate': challenge } })
    const unasked = {
      kind: 'tags',
      when: ({ headers }: LogEntry) => headers.authorization === undefined,
    } as const
    upstream.fault(unasked, { status: 401 })
    await list()
    t.match(upstream.log.of('token')[0]?.url, `scope=${encodeURIComponent(asked)}`, told)
  }
})

void test('pingOpen: nobody needs the ping', async (t) => {
  const { upstream, mirror, pullAll } = await guard(t, { token: { pingOpen: true } })
  t.equal((await fetch(`${mirror.url}/v2/`)).status, 200)
  t.ok(await pullAll())
  t.equal(upstream.log.count('ping'), 0)
})

for (const status of [404, 500]) {
  void test(`ping: ${status} is no obstacle, and our own is 200`, async (t) => {
    const { upstream, mirror, pullAll, list } = await guard(t, { token: {}, ping: { status } })
    t.equal((await fetch(`${mirror.url}/v2/`)).status, 200)
    t.ok(await pullAll())
    t.equal(upstream.log.count('ping'), 0)
    upstream.set({ token: { noChallengeOnResource: true } })
    t.equal(await list(), 200, 'what was learnt before holds')
    const fresh = await guard(t, { token: { noChallengeOnResource: true }, ping: { status } })
    const refused = await fresh.get()
    t.same([refused.status, codeOf(refused)], [403, 'DENIED'], 'without any challenge it is a refusal')
    t.equal(fresh.upstream.log.count(), 2)
  })
}

void test('insufficientScope: the client gets 404 after at most two tries', async (t) => {
  const { upstream, mirror, clock, get, pullAll } = await guard(t, {
    token: { insufficientScope: { repos: ['library/secret'] } },
  })
  const secret = (): Promise<Response> => fetch(`${mirror.url}/v2/library/secret/manifests/1`)
  const first = await secret()
  t.equal(first.status, 404)
  t.match(await first.json(), { errors: [{ code: 'NAME_UNKNOWN' }] })
  t.equal(upstream.log.count('manifest'), 2)
  t.equal(upstream.log.count('token'), 1)
  t.equal((await secret()).status, 404)
  t.equal(upstream.log.count('manifest'), 2, 'the no is remembered')
  clock.now += 11_000
  t.equal((await secret()).status, 404)
  t.ok(upstream.log.count('manifest') <= 4, 'for ten seconds')
  t.ok(await pullAll(), 'others are not concerned')
  t.equal((await get()).status, 200)
})

const tokenEndpoints: [name: string, AuthOptions, status: number, code: string, message: RegExp][] = [
  ['401', { tokenEndpoint: { status: 401 } }, 403, 'DENIED', /answered 401: denied/],
  ['401, details', { tokenEndpoint: { status: 401, body: 'details' } }, 403, 'DENIED', /many failed logins/],
  ['403', { tokenEndpoint: { status: 403 } }, 403, 'DENIED', /answered 403/],
  ['404', { tokenEndpoint: { status: 404 } }, 503, 'UNAVAILABLE', /answered 404/],
  ['405', { tokenEndpoint: { status: 405 } }, 503, 'UNAVAILABLE', /answered 405/],
  ['429', { tokenEndpoint: { status: 429, retryAfter: 7 } }, 503, 'UNAVAILABLE', /answered 429/],
  ['500', { tokenEndpoint: { status: 500, body: 'html' } }, 503, 'UNAVAILABLE', /answered 500/],
  ['html', { tokenEndpoint: { status: 200, body: 'html' } }, 503, 'UNAVAILABLE', /gave no token/],
  ['hang', { tokenEndpoint: { hang: true } }, 503, 'UNAVAILABLE', /does not answer|could not be reached/],
]
for (const [name, options, status, code, message] of tokenEndpoints) {
  void test(`tokenEndpoint: ${name} is refused honestly, and what is cached is served`, async (t) => {
    const { upstream, mirror, image, grownStale, pullAll, get, clock } = await guard(t, { token: {} })
    upstream.addImage('library/cold', '1', image)
    await grownStale()
    upstream.log.clear()
    upstream.set(options)
    const refused = await pull(`${mirror.url}/v2/library/cold/manifests/1`)
    t.same([refused.status, codeOf(refused)], [status, code])
    t.match(everythingSaid(mirror), message)
    if (name === '429') t.equal(refused.headers['retry-after'], '10', 'nobody is asked sooner')
    t.ok(upstream.log.count('token') <= 3, 'in a few tries')
    t.equal((await fetch(`${mirror.url}/v2/`)).status, 200)
    const stale = await get()
    t.same([stale.status, stale.cache], [200, 'stale'])
    t.ok(await pullAll())
    t.equal(upstream.log.count({ status: 200 }), name === 'html' ? upstream.log.count('token') : 0)
    upstream.set({ tokenEndpoint: undefined })
    clock.now += 11_000
    t.equal((await get()).cache, 'hit', 'and when it is well again, that is noticed')
  })
}

void test('tokenExpiresMidDownload: one new token, and the rest of the blob', async (t) => {
  const { upstream, image, get } = await guard(t, { token: {}, cdn: {} })
  const layer = image.layers[0]!
  await get()
  upstream.fault({ kind: 'cdn', times: 1 }, { dropAfterBytes: 100_000 })
  upstream.fault(
    {
      kind: 'cdn',
      times: 1,
      when: () => {
        upstream.tokens.revokeTokens()
        return true
      },
    },
    {},
  )
  const before = upstream.log.count('token')
  const { status, body, broken } = await get(`blobs/${layer.digest}`)
  t.same([status, broken], [200, undefined])
  t.ok(body.equals(layer.bytes))
  t.equal(upstream.log.count('token') - before, 1)
  const resumed = upstream.log.of('cdn')[1]
  t.match(resumed?.headers.range, /^bytes=[1-9]\d*-/)
  t.equal(resumed?.headers.authorization, undefined)
})

void test('revokeTokens: is noticed once for everybody', async (t) => {
  const { upstream, image, get, list } = await guard(t, { token: {} })
  await get()
  upstream.tokens.revokeTokens()
  upstream.log.clear()
  const all = await Promise.all([
    ...Array.from({ length: 10 }, () => list()),
    ...image.blobs.map(async ({ digest }) => (await get(`blobs/${digest}`)).status),
  ])
  t.ok(all.every((status) => status === 200))
  t.equal(upstream.log.count('token'), 1)
})

/** A clock that goes on: the mirror's own stands still in these tests. */
const settling = { now: () => performance.now() }
for (const [said, challenge] of [
  ['invalid_token', (it: string) => it],
  ['nothing', (it: string) => it.replace(/,error="[^"]*"/, '')],
] as const) {
  void test(`settleMs: a token that is refused at first, with ${said}, is kept and tried again`, async (t) => {
    const token = { settleMs: 1000, challenge }
    const { upstream, image, get, list } = await guard(t, { token, ...settling })
    const { digest } = image.layers[0]!
    const answers = await Promise.all([
      get(),
      list(),
      get(`blobs/${digest}`),
      ...Array.from({ length: 10 }, () => list()),
    ])
    t.same(
      answers.map((it) => (typeof it === 'number' ? it : it.status)),
      answers.map(() => 200),
    )
    t.equal(upstream.log.count('token'), 1)
  })
}

void test('settleMs: those who come again quickly do not make it young for ever', async (t) => {
  const { upstream, list } = await guard(t, { token: { settleMs: 1000 }, ...settling })
  const lists = [list(), upstream.log.until((log) => log.count({ kind: 'tags', status: 401 }) > 1)] as const
  await lists[1]
  t.equal(await list(), 200)
  t.equal(await lists[0], 200)
  t.equal(upstream.log.count('token'), 1)
})

void test('settleMs: what stays a refusal is waited for once, and not by whoever asks next', async (t) => {
  const challenge = (it: string): string => it.replace(/,error="[^"]*"/, '')
  const secret = { insufficientScope: { repos: [REPO] }, challenge }
  const { upstream, list } = await guard(t, { token: secret })
  t.equal(await list(), 403)
  const before = upstream.log.count('tags')
  t.ok(before <= 4)
  t.equal(await list(), 403)
  t.ok(upstream.log.count('tags') - before <= 2)
  upstream.set({ token: { challenge } })
  upstream.tokens.revokeTokens()
  t.equal(await list(), 200)
})

void test('clockSkewMs, issuedAtPast: other clocks cost no tokens', async (t) => {
  for (const token of [{ clockSkewMs: 3_600_000 }, { clockSkewMs: -3_600_000 }, { issuedAtPast: true }]) {
    const { upstream, clock, list, pullAll } = await guard(t, { token })
    t.ok(await pullAll())
    for (let turn = 0; turn < 5; turn += 1) {
      clock.now += 10_000
      t.equal(await list(), 200)
    }
    t.equal(upstream.log.count('token'), 1)
    t.equal(upstream.log.count({ kind: 'tags', status: 401 }), 0)
  }
})

void test('a realm that moves is found again, with one request that fails', async (t) => {
  const { upstream, clock, list } = await guard(t, { token: {} })
  const good = `${upstream.authUrl}/token`
  for (const [realm, status] of [
    [`${upstream.url}/gone`, 403],
    ['http://127.0.0.1:1/token', 503],
    ['http://169.254.169.254/', 503],
  ] as const) {
    t.equal(await list(), 200)
    upstream.set({ token: { realm } })
    upstream.tokens.revokeTokens()
    t.equal(await list(), status)
    upstream.set({ token: { realm: good } })
    clock.now += 11_000
    await list()
    t.equal(await list(), 200, realm)
  }
})

void test('hostileRealm: gets no credentials; 503, and the cached is served', async (t) => {
  for (const hostileRealm of ['otherDomain', 'linkLocal'] as const) {
    const { upstream, mirror, grownStale, get, list } = await guard(
      t,
      { token: { credentials: ROBOT } },
      { upstream: ROBOT },
    )
    await grownStale()
    // From now on all that it says is that realm.
    upstream.set({ token: { credentials: ROBOT, hostileRealm, uses: 0 } })
    await list()
    upstream.log.clear()
    const { status, cache } = await get()
    t.same([status, cache], [200, 'stale'])
    t.equal(await list(), 503)
    t.equal(upstream.log.count('token'), 0)
    t.equal(
      upstream.log.count((it) => it.headers.authorization?.startsWith('Basic') === true),
      0,
    )
    t.match(everythingSaid(mirror), hostileRealm === 'linkLocal' ? /realm/ : /not for the token realm/)
  }
})
