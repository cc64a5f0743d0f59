/** Several accounts of one registry: as whom it is asked, and what is made of what only some of them are told. */
import { test, type Test } from 'tap'
import { parseTag } from '../../../src/oci/reference.ts'
import { createMetrics } from '../../../src/telemetry/metrics.ts'
import { AccountPool } from '../../../src/upstream/client/account-pool.ts'
import { Account, FixedCredentials } from '../../../src/upstream/login/credentials.ts'
import { RateLimitPause } from '../../../src/upstream/limits/rate-limit-pause.ts'
import { UpstreamError } from '../../../src/upstream/upstream.ts'
import { image } from '../../support/images.ts'
import { basicOf } from '../../support/upstream-auth.ts'
import type { Behaviour, Matcher, Rule } from '../../support/upstream-rules.ts'
import { bytesOf, clientFor, failureOf, LATEST, NAME } from '../../support/upstream-client.ts'
import { startUpstream, type UpstreamOptions } from '../../support/upstream.ts'
import { upstreamSuite } from '../../suites/upstream.ts'

const MINUTE = 60_000
const PEOPLE = ['ann', 'bob', 'eve'].map((username) => ({ username, password: `of ${username}` }))
const thing = image({ layers: [50_000], seed: 'thing' })
const layer = thing.layers[0]!

/** A registry that three people have accounts of. */
async function accounts(t: Test, options: UpstreamOptions = {}) {
  const upstream = await startUpstream({ basic: PEOPLE, ...options })
  t.teardown(() => upstream.close())
  upstream.addImage(NAME, LATEST, thing)
  const clock = { now: 0 }
  const now = (): number => clock.now
  const silence = new RateLimitPause(now)
  const metrics = createMetrics()
  const clients = PEOPLE.map((person, at) => {
    const source = new FixedCredentials(person)
    const account = new Account({ key: 'docker.io', label: String(at + 1), source, metrics, now })
    return clientFor(t, { url: upstream.url, account, metrics, now, pause: silence, tries: 1 })
  })
  const all = new AccountPool({ clients, now, log: { debug: () => undefined } })
  const as = new Map(PEOPLE.map((person) => [basicOf(person), person.username]))
  const ending = new AbortController()
  t.teardown(() => ending.abort(new Error('the test is over')))
  return {
    all,
    upstream,
    clock,
    metrics,
    signal: ending.signal,
    /** Who asked, since this was asked last; the first 401 of each client is left out. */
    askers: (): (string | undefined)[] => {
      const names = upstream.log.entries.map(({ headers }) => as.get(headers.authorization ?? ''))
      upstream.log.clear()
      return names.filter((name) => name !== undefined)
    },
    /** What the registry says to one of them. */
    tell: (name: string, behaviour: Behaviour, matcher: Matcher = {}): Rule =>
      upstream.fault(
        {
          ...matcher,
          when: ({ headers, kind }) => as.get(headers.authorization ?? '') === name && kind !== 'ping',
        },
        behaviour,
      ),
  }
}

const left = (count: number, limit = 100): Behaviour => ({
  headers: { 'ratelimit-limit': `${limit};w=21600`, 'ratelimit-remaining': `${count};w=21600` },
})
const NONE = { status: 404, body: 'json', code: 'MANIFEST_UNKNOWN' } as const
const DENIED = { status: 403, body: 'json', code: 'DENIED' } as const
const LIMITED = { status: 429, body: 'json', retryAfter: 60 } as const

void test('with one registry behind them they are an upstream like any other', async (t) => {
  upstreamSuite(t, async (t) => {
    const { all, upstream } = await accounts(t)
    return {
      upstream: all,
      addImage: (...args) => upstream.addImage(...args),
      addBlob: (...args) => upstream.addBlob(...args),
    }
  })
})

void test('who has most pulls left is asked; who has told nothing has all of them; then the order counts', async (t) => {
  const { all, tell, askers, clock, signal } = await accounts(t)
  const rules = [tell('ann', left(50)), tell('bob', left(70)), tell('eve', left(60))]
  const ask = () => all.headManifest(NAME, LATEST, signal)
  for (let turn = 0; turn < 4; turn += 1) await ask()
  t.same(askers(), ['ann', 'bob', 'eve', 'bob'])
  t.match(all.status(), {
    offline: false,
    accounts: [
      { account: '1', pulls: { remaining: 50 } },
      { account: '2', pulls: { remaining: 70 } },
      { account: '3', pulls: { remaining: 60 } },
    ],
  })
  for (const rule of rules) rule.remove()
  tell('bob', left(60))
  await ask()
  await ask()
  t.same(askers(), ['bob', 'bob'], 'as many as another has, and configured before it')
  tell('bob', left(59))
  await ask()
  await ask()
  t.same(askers(), ['bob', 'eve'])
  clock.now += 6 * 60 * MINUTE + 1
  await ask()
  t.same(askers(), ['ann'], 'nothing is known any more')
})

void test('who has no pulls left is not asked for manifests, and goes on with everything else', async (t) => {
  const { all, tell, askers, clock, upstream, signal } = await accounts(t)
  const rule = tell('ann', LIMITED, { kind: 'manifest', method: 'GET' })
  t.equal((await all.manifest(NAME, LATEST, signal))?.digest, thing.manifest.digest)
  t.same(askers(), ['ann', 'bob'])
  t.ok(await all.manifest(NAME, LATEST, signal))
  t.same(askers(), ['bob'])
  t.match(await all.headManifest(NAME, LATEST, signal), { result: 'present' })
  t.ok((await bytesOf(await all.blob(NAME, layer.digest, { from: 0, signal }))).equals(layer.bytes))
  t.same(askers(), ['ann', 'ann'])
  t.equal(all.quotaBelow(5), undefined)

  tell('bob', { ...LIMITED, retryAfter: 90 }, { kind: 'manifest', method: 'GET' })
  tell('eve', { ...LIMITED, retryAfter: 70 }, { kind: 'manifest', method: 'GET' })
  const refused = await failureOf(all.manifest(NAME, LATEST, signal))
  t.match(refused, { failure: 'busy', scope: 'pulls', retryAfterMs: MINUTE })
  t.same(askers(), ['bob', 'eve'])
  t.match(all.quotaBelow(5), { retryAfterMs: MINUTE })
  await failureOf(all.manifest(NAME, LATEST, signal))
  t.equal(upstream.log.count(), 0)
  rule.remove()
  clock.now += MINUTE
  t.ok(await all.manifest(NAME, LATEST, signal))
  t.same(askers(), ['ann'])
})

void test('a limit that is not of pulls stops all of them', async (t) => {
  const { all, tell, askers, signal } = await accounts(t)
  tell('ann', LIMITED, { kind: 'blob' })
  t.match(await failureOf(all.headBlob(NAME, layer.digest, signal)), {
    failure: 'busy',
    scope: 'host',
    retryAfterMs: MINUTE,
  })
  t.match(await failureOf(all.manifest(NAME, LATEST, signal)), { failure: 'busy', retryAfterMs: MINUTE })
  t.same(askers(), ['ann'])
})

void test('an image that one of them alone may read is read as that one, and found at once the next time', async (t) => {
  for (const [what, answer] of [
    ['denied', DENIED],
    ['called nothing', NONE],
  ] as const) {
    const { all, tell, askers, clock, signal } = await accounts(t)
    tell('ann', answer)
    tell('bob', answer)
    t.equal((await all.manifest(NAME, LATEST, signal))?.digest, thing.manifest.digest, what)
    t.same(askers(), ['ann', 'bob', 'eve'])
    t.match(await all.headManifest(NAME, LATEST, signal), { result: 'present' })
    t.match(await all.blob(NAME, layer.digest, { from: 0, signal }), { start: 0 })
    t.ok(await all.tags(NAME, new URLSearchParams(), signal))
    t.same(askers(), ['eve', 'eve', 'eve'])
    clock.now += 10 * MINUTE
    t.ok(await all.manifest(NAME, LATEST, signal))
    t.equal(askers()[0], 'ann', 'what was so is not so for ever')
  }
})

void test('absent is what nobody sees, and what one who sees the rest does not', async (t) => {
  const { all, askers, tell, signal } = await accounts(t)
  const gone = parseTag('gone')
  t.equal(await all.manifest(NAME, gone, signal), undefined)
  t.same(askers(), ['ann', 'bob', 'eve'])
  t.ok(await all.manifest(NAME, LATEST, signal))
  askers()
  t.equal(await all.manifest(NAME, gone, signal), undefined)
  t.same(askers(), ['ann'])
  tell('ann', DENIED)
  t.equal(await all.manifest(NAME, gone, signal), undefined, 'who may not read it sees nothing of it')
})

void test('what an account might see that cannot look is not called absent, after a start as well', async (t) => {
  const limited = await accounts(t)
  limited.tell('ann', NONE)
  limited.tell('bob', NONE)
  const limit = limited.tell('eve', LIMITED, { kind: 'manifest', method: 'GET' })
  const { all, clock, signal } = limited
  t.match(await failureOf(all.manifest(NAME, LATEST, signal)), { failure: 'busy', retryAfterMs: MINUTE })
  limit.remove()
  clock.now += MINUTE
  t.ok(await all.manifest(NAME, LATEST, signal))

  const refused = await accounts(t)
  refused.tell('ann', NONE)
  refused.tell('bob', NONE)
  refused.upstream.set({ basic: PEOPLE.slice(0, 2) })
  t.match(await failureOf(refused.all.manifest(NAME, LATEST, refused.signal)), { failure: 'denied' })
})

void test('while the one who sees it cannot look, nobody can say that there is none', async (t) => {
  const { all, askers, tell, signal } = await accounts(t)
  tell('ann', NONE)
  tell('bob', NONE)
  t.ok(await all.manifest(NAME, LATEST, signal))
  askers()
  tell('eve', LIMITED, { kind: 'manifest', method: 'GET' })
  t.match(await failureOf(all.manifest(NAME, LATEST, signal)), { failure: 'busy', retryAfterMs: MINUTE })
  t.match(await all.headManifest(NAME, LATEST, signal), { result: 'present' })
})

void test('an answer that shows nothing makes nobody one who sees', async (t) => {
  const { all, upstream, tell, askers, signal } = await accounts(t)
  tell('ann', NONE)
  tell('bob', NONE)
  const useless = upstream.fault({ kind: 'manifest', method: 'HEAD' }, { status: 405 })
  t.same(await all.headManifest(NAME, LATEST, signal), { result: 'unusable' })
  t.equal(useless.hits, 3)
  askers()
  t.equal((await all.manifest(NAME, LATEST, signal))?.digest, thing.manifest.digest)
  t.same(askers(), ['ann', 'bob', 'eve'])

  const other = await accounts(t)
  other.tell('ann', NONE)
  other.tell('bob', NONE)
  other.upstream.fault({ kind: 'referrers' }, { status: 404, body: 'json' })
  t.equal(
    await other.all.referrers(NAME, thing.manifest.digest, new URLSearchParams(), other.signal),
    undefined,
  )
  t.ok(await other.all.manifest(NAME, LATEST, other.signal))
})

void test('one who may not read does not answer for one whose HEAD is of no use', async (t) => {
  const { all, tell, signal } = await accounts(t)
  for (const name of ['ann', 'bob']) tell(name, NONE)
  const useless = tell('eve', { status: 405 }, { method: 'HEAD' })
  t.same(await all.headManifest(NAME, LATEST, signal), { result: 'unusable' })
  t.equal(useless.hits, 1)
})

void test('what all of them are denied is denied; what some are kept from is a matter of time', async (t) => {
  const { all, tell, signal } = await accounts(t)
  const rule = tell('eve', DENIED)
  tell('ann', DENIED)
  tell('bob', { status: 401, body: 'json' })
  t.match(await failureOf(all.manifest(NAME, LATEST, signal)), { failure: 'denied', status: 403 })
  rule.remove()
  tell('eve', LIMITED, { kind: 'manifest', method: 'GET' })
  t.match(await failureOf(all.manifest(NAME, LATEST, signal)), { failure: 'busy', retryAfterMs: MINUTE })
})

void test('whose password is not taken is asked after the others, and complained of alone', async (t) => {
  const { all, upstream, askers, clock, signal } = await accounts(t)
  upstream.set({ basic: PEOPLE.slice(1) })
  t.ok(await all.manifest(NAME, LATEST, signal))
  t.same(askers(), ['ann', 'bob'])
  const [first, second] = all.status().accounts
  t.match(first?.complaint, /^rejected since .*401/)
  t.equal(second?.complaint, undefined)
  upstream.addImage('library/other', LATEST, thing)
  t.ok(await all.manifest(NAME, LATEST, signal))
  t.same(askers(), ['bob'])
  upstream.set({ basic: PEOPLE })
  clock.now += MINUTE
  t.ok(await all.manifest(NAME, LATEST, signal))
  t.same(askers(), ['ann'])
  t.equal(all.status().accounts[0]?.complaint, undefined)
})

void test('a password that stays wrong is tried after 1, 2, 4 … min, and half an hour at the most', async (t) => {
  const { all, upstream, askers, clock, signal } = await accounts(t)
  upstream.set({ basic: PEOPLE.slice(1) })
  await all.manifest(NAME, LATEST, signal)
  askers()
  for (const minutes of [1, 2, 4, 8, 16, 30, 30]) {
    clock.now += minutes * MINUTE - 1
    await all.manifest(NAME, LATEST, signal)
    t.same(askers(), ['bob'], `within ${minutes} min`)
    clock.now += 1
    await all.manifest(NAME, LATEST, signal)
    t.same(askers(), ['ann', 'bob'], `after ${minutes} min`)
  }
  upstream.set({ basic: PEOPLE })
  clock.now += 30 * MINUTE
  await all.manifest(NAME, LATEST, signal)
  upstream.set({ basic: PEOPLE.slice(1) })
  await all.manifest(NAME, LATEST, signal)
  t.same(askers(), ['ann', 'ann', 'bob'])
  clock.now += MINUTE
  await all.manifest(NAME, LATEST, signal)
  t.same(askers(), ['ann', 'bob'], 'once it was taken that begins anew')
})

void test('credentials that cannot be had are no reason not to ask as somebody else', async (t) => {
  const { upstream, signal } = await accounts(t)
  const failing = {
    get: () =>
      Promise.reject(new UpstreamError('unreachable', 'docker.io', 'no helper', { scope: 'account' })),
    rejected: () => undefined,
    close: () => undefined,
  }
  const metrics = createMetrics()
  const clients = [failing, new FixedCredentials(PEOPLE[1]!)].map((source) =>
    clientFor(t, { url: upstream.url, account: new Account({ key: 'docker.io', source, metrics }) }),
  )
  const log = { debug: () => undefined }
  const all = new AccountPool({ clients, log, now: () => 0 })
  t.ok(await all.manifest(NAME, LATEST, signal))
})

void test('what goes wrong with the registry goes wrong for all of them, and is asked once', async (t) => {
  const { all, upstream, askers, signal } = await accounts(t)
  upstream.fault({ kind: 'manifest' }, { status: 500 })
  t.match(await failureOf(all.manifest(NAME, LATEST, signal)), { failure: 'broken', status: 500 })
  t.ok(askers().length <= 1)
})

void test('whose breaker is open is passed by', async (t) => {
  const { all, tell, askers, clock, signal } = await accounts(t)
  const rules = [tell('ann', left(90)), tell('bob', left(80)), tell('eve', left(70))]
  for (let turn = 0; turn < 3; turn += 1) await all.headManifest(NAME, LATEST, signal)
  for (const rule of rules) rule.remove()
  tell('ann', { emptyReply: true })
  // What has begun before another answer came proves nothing.
  clock.now += 1
  t.match(await failureOf(all.headManifest(NAME, LATEST, signal)), { failure: 'unreachable' })
  t.match(all.status().accounts, [{ breaker: { state: 'open' } }, {}, {}])
  t.equal(all.paused(), undefined, 'the others are asked')
  askers()
  t.match(await all.headManifest(NAME, LATEST, signal), { result: 'present' })
  t.same(askers(), ['bob'])
})

void test('fewer than the reserve are left only when every account says so', async (t) => {
  const { all, tell, signal } = await accounts(t)
  tell('ann', left(4))
  tell('bob', left(4))
  const rule = tell('eve', left(5))
  for (let turn = 0; turn < 3; turn += 1) {
    t.equal(all.quotaBelow(5), undefined)
    await all.headManifest(NAME, LATEST, signal)
  }
  t.equal(all.quotaBelow(5), undefined)
  t.match(all.quotaBelow(6), { failure: 'busy', scope: 'pulls', retryAfterMs: undefined })
  rule.remove()
  tell('eve', LIMITED, { kind: 'manifest', method: 'GET' })
  await all.manifest(NAME, LATEST, signal)
  t.match(all.quotaBelow(5), { scope: 'pulls' }, 'who may not be asked has none to spare')
  t.equal(all.quotaBelow(4), undefined)
})
