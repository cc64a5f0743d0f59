import { test, type Test } from 'tap'
import { digestOf } from '../../../src/oci/digest.ts'
import { parseTag } from '../../../src/oci/reference.ts'
import { FallbackUpstream } from '../../../src/upstream/client/fallbacks.ts'
import { UpstreamError } from '../../../src/upstream/upstream.ts'
import { image } from '../../support/images.ts'
import { bytesOf, clientFor, failureOf, LATEST, NAME } from '../../support/upstream-client.ts'
import { startUpstream, type UpstreamSimulator } from '../../support/upstream.ts'
import { upstreamSuite } from '../../suites/upstream.ts'

const thing = image({ layers: [400_000], seed: 'thing' })
const layer = thing.layers[0]!
const SECONDS = 1000
/** Of the whole registry, and not of pulls alone. */
const GUARD_429 = { status: 429, body: { text: 'slow down', type: 'text/plain' } } as const

interface Chain {
  readonly upstream: FallbackUpstream
  readonly first: UpstreamSimulator
  readonly second: UpstreamSimulator
  readonly third: UpstreamSimulator
  readonly clock: { now: number }
  /** What is said above debug: `level: message, url`. */
  readonly told: string[]
  readonly signal: AbortSignal
}

/** Three registries that hold the same image. */
async function chain(t: Test, options: { shareMs?: number } = {}): Promise<Chain> {
  const simulators = await Promise.all([startUpstream(), startUpstream(), startUpstream()])
  const [first, second, third] = simulators
  for (const it of simulators) {
    it.addImage(NAME, LATEST, thing)
    t.teardown(() => it.close())
  }
  const clock = { now: 0 }
  const told: string[] = []
  const tell =
    (level: string) =>
    (fields: object, message: string): void =>
      void told.push(`${level}: ${message}, ${(fields as { url: string }).url}`)
  const upstream = new FallbackUpstream({
    sources: simulators.map(({ url }) => ({
      url,
      upstream: clientFor(t, { url, tries: 2, now: () => clock.now }),
    })),
    shareMs: options.shareMs ?? 60 * SECONDS,
    log: { debug: () => undefined, info: tell('info'), warn: tell('warn') },
    now: () => clock.now,
  })
  const ending = new AbortController()
  t.teardown(() => ending.abort(new Error('the test is over')))
  return { upstream, first, second, third, clock, told, signal: ending.signal }
}

void test('with all well it is its first', async (t) => {
  upstreamSuite(t, async (t) => {
    const { upstream, first } = await chain(t)
    return {
      upstream,
      addImage: (...args) => first.addImage(...args),
      addBlob: (...args) => first.addBlob(...args),
    }
  })
})

void test('whatever keeps the first from answering, the next one answers', async (t) => {
  for (const [what, behaviour] of [
    ['a server error', { status: 500 }],
    ['a bad gateway', { status: 502 }],
    ['a rate limit', { status: 429 }],
    ['an empty reply', { emptyReply: true }],
    ['a web page', { status: 200, body: 'html' }],
    ['a web page that is 404', { status: 404, body: 'html' }],
    ['a wrong manifest', { status: 200, body: { text: '{}', type: thing.manifest.mediaType } }],
  ] as const) {
    const { upstream, first, second, third, signal } = await chain(t)
    first.fault({}, behaviour)
    const found = await upstream.manifest(NAME, thing.manifest.digest, signal)
    t.equal(found?.digest, thing.manifest.digest, what)
    t.ok(first.log.count() > 0, `${what}: the first was asked`)
    t.equal(second.log.count('manifest'), 1, `${what}: the second answered`)
    t.equal(third.log.count(), 0, `${what}: the third was left in peace`)
  }
})

void test('every question about a manifest or a blob finds its way', async (t) => {
  const { upstream, first, second, signal } = await chain(t)
  await first.stop()
  await second.stop()
  const { digest, size } = { digest: thing.manifest.digest, size: thing.manifest.bytes.length }
  t.match(await upstream.headManifest(NAME, LATEST, signal), { result: 'present', digest, size })
  t.equal((await upstream.manifest(NAME, LATEST, signal))?.digest, digest)
  t.same(await upstream.headBlob(NAME, layer.digest, signal), { size: layer.bytes.length })
  const blob = await upstream.blob(NAME, layer.digest, { from: 10, to: 20, signal })
  t.ok((await bytesOf(blob)).equals(layer.bytes.subarray(10, 20)))
})

void test('too many at once are too many, and no reason to ask others', async (t) => {
  for (const status of [429, 503]) {
    const { upstream, first, second, told, signal } = await chain(t)
    first.fault({ kind: 'blob' }, { status })
    const request = { from: 5, to: 9, partialOnly: true, signal }
    const spared = upstream.blob(NAME, layer.digest, { ...request, parallel: true })
    t.match(await failureOf(spared), { status }, 'whoever asked has to hear of it')
    t.match(await upstream.headManifest(NAME, LATEST, signal), { result: 'present' })
    t.equal(second.log.count(), 0)
    t.same(told, [], 'it is not taken for down')
    t.ok(await upstream.blob(NAME, layer.digest, request), 'where one alone meets it, others are asked')
    t.equal(second.log.count('blob'), 1)
  }
})

void test('what the first says is not there is not asked for elsewhere', async (t) => {
  const { upstream, first, second, signal } = await chain(t)
  first.deleteTag(NAME, LATEST)
  first.deleteBlob(NAME, layer.digest)
  t.same(await upstream.headManifest(NAME, LATEST, signal), { result: 'absent' })
  t.equal(await upstream.manifest(NAME, LATEST, signal), undefined)
  t.equal(await upstream.headBlob(NAME, layer.digest, signal), undefined)
  t.equal(await upstream.blob(NAME, layer.digest, { from: 0, signal }), undefined)
  t.equal(second.log.count(), 0)
})

void test('what the first denies stays denied', async (t) => {
  for (const status of [401, 403]) {
    const { upstream, first, second, signal } = await chain(t)
    first.fault({}, { status })
    const error = await failureOf(upstream.manifest(NAME, LATEST, signal))
    t.match(error, { failure: 'denied', status })
    t.equal(second.log.count(), 0)
  }
})

void test('a HEAD that is of no use is an answer: GET is for the first as well', async (t) => {
  const { upstream, first, second, signal } = await chain(t)
  first.fault({ method: 'HEAD' }, { status: 405 })
  t.same(await upstream.headManifest(NAME, LATEST, signal), { result: 'unusable' })
  t.equal(second.log.count(), 0)
})

void test('lists come from the first or not at all', async (t) => {
  const { upstream, first, second, signal } = await chain(t)
  await first.stop()
  const none = new URLSearchParams()
  t.equal((await failureOf(upstream.tags(NAME, none, signal))).failure, 'unreachable')
  const referrers = upstream.referrers(NAME, thing.manifest.digest, none, signal)
  t.equal((await failureOf(referrers)).failure, 'unreachable')
  t.equal(second.log.count(), 0)
})

void test('a fallback that has it not, or refuses us, only means that the next is asked', async (t) => {
  const { upstream, first, second, third, signal } = await chain(t)
  await first.stop()
  second.deleteTag(NAME, LATEST)
  t.equal((await upstream.manifest(NAME, LATEST, signal))?.digest, thing.manifest.digest)
  second.fault({}, { status: 401 })
  t.equal((await upstream.manifest(NAME, LATEST, signal))?.digest, thing.manifest.digest)
  t.equal(third.log.count('manifest'), 2)
})

void test('where the first cannot answer, nobody else can say that there is none', async (t) => {
  const { upstream, first, second, third, told, signal } = await chain(t)
  first.fault({}, { status: 503, retryAfter: 7 })
  const nowhere = parseTag('nowhere')
  const unknown = digestOf(Buffer.from('never pushed'))
  for (const asked of [
    () => upstream.headManifest(NAME, nowhere, signal),
    () => upstream.manifest(NAME, nowhere, signal),
    () => upstream.headBlob(NAME, unknown, signal),
    () => upstream.blob(NAME, unknown, { from: 0, signal }),
  ]) {
    const error = await failureOf(asked())
    t.match(error, { failure: 'broken', retryAfterMs: 7 * SECONDS, upstream: 'docker.io' })
    t.equal(error.isHostwide, false, 'it says nothing about other names')
  }
  second.fault({}, { status: 403 })
  await third.stop()
  const error = await failureOf(upstream.manifest(NAME, nowhere, signal))
  t.equal(error.failure, 'broken', 'a refusal by a fallback is not ours')
  t.match(told, [/^warn: .*/, /^warn: .*/])
})

void test('with everybody down it fails as the first failed', async (t) => {
  const { upstream, first, second, third, signal } = await chain(t)
  first.fault({}, { status: 503, retryAfter: 30 })
  await second.stop()
  await third.stop()
  const error = await failureOf(upstream.manifest(NAME, LATEST, signal))
  t.match(error, { failure: 'broken', status: 503 })
  t.equal(upstream.fallback, undefined)
})

void test('a limit of the first is a limit of all only while all have one', async (t) => {
  const { upstream, first, second, third, clock, signal } = await chain(t)
  first.fault({}, { ...GUARD_429, retryAfter: 3600 })
  const down = second.fault({}, { status: 500 })
  const third429 = third.fault({}, { ...GUARD_429, retryAfter: 30 })
  const error = await failureOf(upstream.manifest(NAME, LATEST, signal))
  t.match(error, { failure: 'unreachable', upstream: 'docker.io', retryAfterMs: undefined })
  t.ok(error.isHostwide)
  down.remove()
  third429.remove()
  clock.now += 31 * SECONDS
  t.equal((await upstream.manifest(NAME, LATEST, signal))?.digest, thing.manifest.digest)

  second.fault({}, { ...GUARD_429, retryAfter: 60 })
  third.fault({}, { ...GUARD_429, retryAfter: 30 })
  const limited = await failureOf(upstream.manifest(NAME, LATEST, signal))
  t.match(limited, { failure: 'busy', retryAfterMs: 30 * SECONDS })
})

void test('who has failed is left alone for 10 s, then asked again and believed', async (t) => {
  const { upstream, first, second, clock, told, signal } = await chain(t)
  const down = first.fault({}, { status: 500 })
  await upstream.manifest(NAME, LATEST, signal)
  t.equal(upstream.fallback, second.url)
  first.log.clear()
  clock.now += 9 * SECONDS
  await upstream.manifest(NAME, LATEST, signal)
  t.equal(first.log.count(), 0, 'the second question goes straight to the fallback')
  clock.now += 2 * SECONDS
  await upstream.manifest(NAME, LATEST, signal)
  t.ok(first.log.count() > 0, 'it gets another chance')
  t.equal(told.length, 1, 'the same trouble is told once')
  down.remove()
  clock.now += 20 * SECONDS
  second.log.clear()
  await upstream.manifest(NAME, LATEST, signal)
  t.equal(second.log.count(), 0)
  t.equal(upstream.fallback, undefined)
  t.strictSame(told, [
    `warn: cannot answer: others are asked instead, ${first.url}`,
    `info: answers again, ${first.url}`,
  ])
})

void test('who goes on failing is left alone for twice as long each time, up to 5 min', async (t) => {
  const { upstream, first, clock, signal } = await chain(t)
  const failing = first.fault({}, { status: 500 })
  const ask = async (): Promise<number> => {
    first.log.clear()
    await upstream.manifest(NAME, LATEST, signal)
    return first.log.count()
  }
  t.equal(await ask(), 1)
  for (const seconds of [10, 20, 40, 80, 160, 300, 300]) {
    clock.now += seconds * SECONDS - 1
    t.equal(await ask(), 0, `within ${seconds} s`)
    clock.now += 1
    t.equal(await ask(), 1, `after ${seconds} s`)
  }
  failing.remove()
  clock.now += 300 * SECONDS
  t.equal(await ask(), 1)
  t.equal(upstream.fallback, undefined)
  first.fault({}, { status: 500 })
  t.equal(await ask(), 1)
  clock.now += 10 * SECONDS
  t.equal(await ask(), 1, 'an answer makes it begin anew')
})

void test('a limit of pulls is one of the first alone, and of nothing but manifests', async (t) => {
  const { upstream, first, second, third, clock, told, signal } = await chain(t)
  const rule = first.fault({ kind: 'manifest', method: 'GET' }, { status: 429, retryAfter: 60 })
  t.equal((await upstream.manifest(NAME, LATEST, signal))?.digest, thing.manifest.digest)
  t.equal((await upstream.manifest(NAME, LATEST, signal))?.digest, thing.manifest.digest)
  t.equal(rule.hits, 1)
  t.equal(upstream.quotaBelow(5), undefined, 'others give what it refuses')
  second.log.clear()
  t.match(await upstream.headManifest(NAME, LATEST, signal), { result: 'present' })
  t.equal(second.log.count(), 0)
  t.same(told, [], 'it is not down')

  await second.stop()
  await third.stop()
  const error = await failureOf(upstream.manifest(NAME, LATEST, signal))
  t.match(error, { failure: 'busy', scope: 'pulls', isHostwide: false, retryAfterMs: 10 * SECONDS })
  t.match(upstream.quotaBelow(5), { scope: 'pulls', retryAfterMs: 60 * SECONDS }, 'and now nobody does')
  rule.remove()
  clock.now += 60 * SECONDS
  t.equal((await upstream.manifest(NAME, LATEST, signal))?.digest, thing.manifest.digest)
})

void test('who wants to be left alone for longer is', async (t) => {
  const { upstream, first, second, third, clock, told, signal } = await chain(t)
  first.fault({ times: 1 }, { ...GUARD_429, retryAfter: 60 })
  await upstream.manifest(NAME, LATEST, signal)
  for (const it of [second, third]) it.deleteBlob(NAME, layer.digest)
  t.match(await failureOf(upstream.headBlob(NAME, layer.digest, signal)), { retryAfterMs: 60 * SECONDS })
  t.equal(told.length, 1)
  first.log.clear()
  clock.now += 59 * SECONDS
  await upstream.manifest(NAME, LATEST, signal)
  t.equal(first.log.count(), 0)
  clock.now += 2 * SECONDS
  await upstream.manifest(NAME, LATEST, signal)
  t.equal(first.log.count(), 1)
})

void test('what goes wrong for one name moves no other', async (t) => {
  const { upstream, first, second, signal } = await chain(t)
  first.fault({ ref: LATEST }, { status: 200, body: 'html' })
  await upstream.manifest(NAME, LATEST, signal)
  t.equal(second.log.count(), 1)
  await upstream.manifest(NAME, thing.manifest.digest, signal)
  t.equal(second.log.count(), 1)
  t.equal(upstream.fallback, undefined)
})

void test('one that hangs costs its share of the time, once', async (t) => {
  const { upstream, first, signal } = await chain(t, { shareMs: 50 })
  first.fault({}, { hang: 'headers' })
  const notForEver = AbortSignal.any([signal, AbortSignal.timeout(20 * SECONDS)])
  t.equal((await upstream.manifest(NAME, LATEST, notForEver))?.digest, thing.manifest.digest)
  await upstream.headManifest(NAME, LATEST, signal)
  t.equal(first.log.count(), 1)
  await first.log.until((log) => log.inFlight('manifest') === 0)
  t.pass('nobody waits for it any more')
})

void test('one that is slow answers after all where nobody else can', async (t) => {
  const { upstream, first, second, third, signal } = await chain(t, { shareMs: 50 })
  await second.stop()
  await third.stop()
  first.fault({}, { latencyMs: 300 })
  t.equal((await upstream.manifest(NAME, LATEST, signal))?.digest, thing.manifest.digest)
})

void test('one that is slow is waited for where nobody else has it', async (t) => {
  const { upstream, first, second, third, signal } = await chain(t, { shareMs: 50 })
  second.deleteTag(NAME, LATEST)
  third.fault({}, { status: 403 })
  first.fault({}, { latencyMs: 300 })
  for (const round of [1, 2]) {
    const found = await upstream.manifest(NAME, LATEST, signal)
    t.equal(found?.digest, thing.manifest.digest, `round ${round}`)
  }
  first.deleteTag(NAME, LATEST)
  t.equal(await upstream.manifest(NAME, LATEST, signal), undefined, 'and its word is good')
})

void test('a fallback that is slow is no reason to ask the first again', async (t) => {
  const { upstream, first, second, third, signal } = await chain(t, { shareMs: 50 })
  first.fault({}, { status: 500 })
  third.deleteTag(NAME, LATEST)
  second.fault({}, { latencyMs: 300 })
  t.equal((await upstream.manifest(NAME, LATEST, signal))?.digest, thing.manifest.digest)
  t.equal(first.log.count('manifest'), 1)
})

void test('a slow body is no slow answer', async (t) => {
  const { upstream, first, second, signal } = await chain(t, { shareMs: 100 })
  first.fault({}, { bytesPerSecond: 1_000_000 })
  const blob = await upstream.blob(NAME, layer.digest, { from: 0, signal })
  t.ok((await bytesOf(blob)).equals(layer.bytes))
  t.equal(second.log.count(), 0)
})

void test('after a body that broke off, others are asked for that blob, and for it alone', async (t) => {
  for (const how of ['rst', 'fin', 'shortContentLength'] as const) {
    const { upstream, first, second, clock, signal } = await chain(t)
    first.fault({ kind: 'blob', times: 1 }, { dropAfterBytes: 100_000, how })
    const blob = await upstream.blob(NAME, layer.digest, { from: 0, to: 300_000, signal })
    await bytesOf(blob).catch(() => undefined)
    const ranged = { from: 100_000, signal }
    const rest = await upstream.blob(NAME, layer.digest, ranged)
    if (how !== 'shortContentLength') {
      t.ok((await bytesOf(rest)).equals(layer.bytes.subarray(100_000)), how)
      t.equal(second.log.count('blob'), 1, how)
    } else {
      // What calls itself whole is taken for whole; only whoever knows better can tell.
      await bytesOf(rest)
    }
    first.log.clear()
    await upstream.manifest(NAME, LATEST, signal)
    await bytesOf(await upstream.blob(NAME, thing.config.digest, { from: 0, signal }))
    t.equal(first.log.count(), 2, 'everything else is still for the first')
    clock.now += 11 * SECONDS
    await bytesOf(await upstream.blob(NAME, layer.digest, { from: 0, signal }))
    t.equal(first.log.count(), 3, 'and so is that blob after a while')
  }
})

void test('a body that its reader leaves has not broken off', async (t) => {
  const { upstream, second, signal } = await chain(t)
  const leaving = new AbortController()
  const aborted = await upstream.blob(NAME, layer.digest, { from: 0, signal: leaving.signal })
  leaving.abort(new Error('enough'))
  await t.rejects(bytesOf(aborted), 'enough')
  const left = await upstream.blob(NAME, layer.digest, { from: 0, signal })
  for await (const batch of left!.body) {
    t.ok(batch.length > 0)
    break
  }
  await bytesOf(await upstream.blob(NAME, layer.digest, { from: 0, signal }))
  t.equal(second.log.count(), 0)
})

void test('who gave wrong bytes is asked for them after all others, for ten minutes', async (t) => {
  const { upstream, first, second, third, clock, signal } = await chain(t)
  const fetch = async (): Promise<Buffer> =>
    bytesOf(await upstream.blob(NAME, layer.digest, { from: 0, signal }))
  upstream.avoidSourcesOf(layer.digest)
  await fetch()
  t.equal(first.log.count('blob'), 1, 'nobody is a suspect before there are bytes')
  upstream.avoidSourcesOf(layer.digest)
  await fetch()
  t.equal(second.log.count('blob'), 1)
  clock.now += 60 * SECONDS
  upstream.avoidSourcesOf(layer.digest)
  await fetch()
  t.equal(third.log.count('blob'), 1)
  clock.now += 541 * SECONDS
  await fetch()
  t.equal(first.log.count('blob'), 2, 'those that gave none of the last wrong ones are no longer suspects')
  upstream.avoidSourcesOf(layer.digest)
  await fetch()
  t.equal(first.log.count('blob'), 3, 'with nobody left, all begin anew')
})

void test('a caller who leaves ends the question, whoever is being asked', async (t) => {
  const { upstream, first, second, third, signal } = await chain(t)
  await first.stop()
  second.fault({}, { hang: 'headers' })
  const leaving = new AbortController()
  const asked = upstream.manifest(NAME, LATEST, AbortSignal.any([signal, leaving.signal]))
  await second.log.until((log) => log.inFlight('manifest') === 1)
  // What a download is given up with.
  const reason = new UpstreamError('unreachable', 'docker.io', 'enough')
  leaving.abort(reason)
  await t.rejects(asked, reason)
  t.equal(third.log.count(), 0)
  t.equal(upstream.fallback, second.url, 'and is no failure of theirs')
})
