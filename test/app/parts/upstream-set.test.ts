/** Upstreams of a configuration that changes: who stays, who is replaced, and when the old ones are closed. */
import { test, type Test } from 'tap'
import { loadConfig, type Config } from '../../../src/config/schema.ts'
import type { Explanation } from '../../../src/admin/explain/explanation.ts'
import { createLog } from '../../../src/telemetry/log.ts'
import { createMetrics } from '../../../src/telemetry/metrics.ts'
import { UpstreamSet } from '../../../src/app/parts/upstream-set.ts'
import { eventually, pull, settled, simulate, startMirror } from '../../support/app.ts'
import { image } from '../../support/images.ts'
import { parseRepositoryName, parseTag } from '../../../src/oci/reference.ts'
import type { Origin } from '../../../src/cache/origin.ts'

interface Scene {
  readonly set: UpstreamSet
  readonly clock: { now: number }
  readonly apply: (upstreams: Record<string, unknown>) => void
  readonly origin: (key: string) => Origin
}

function scene(t: Test): Scene {
  const clock = { now: 0 }
  const log = createLog({ level: 'silent', write: () => undefined })
  const now = (): number => clock.now
  const set = new UpstreamSet({ metrics: createMetrics(), log, now, monotonic: now, shortestBudgetMs: 5_000 })
  t.teardown(() => set[Symbol.asyncDispose]())
  const config = (upstreams: Record<string, unknown>): Config =>
    loadConfig({ text: JSON.stringify({ upstreams }), env: {} }).config
  return {
    set,
    clock,
    apply: (upstreams) => set.apply(config(upstreams)),
    origin: (key) => {
      const found = set.entries.find(({ origin }) => origin.upstream.key === key)
      if (found === undefined) throw new Error(`there is no ${key}`)
      return found.origin
    },
  }
}

test('who has not changed stays what it is, with all it remembers', (t) => {
  const { set, apply, origin } = scene(t)
  apply({ 'a.test': {}, 'b.test': {} })
  const [a, b] = [origin('a.test'), origin('b.test')]
  apply({ 'a.test': {}, 'b.test': { url: 'https://elsewhere.test' } })
  t.equal(origin('a.test'), a)
  t.not(origin('b.test').upstream, b.upstream)
  t.not(origin('b.test').state, b.state)
  t.equal(set.leaving, 1)
  t.end()
})

test('other names, other freshness: the same connections, slots and memory', (t) => {
  const { set, apply, origin } = scene(t)
  apply({ 'a.test': {} })
  const before = origin('a.test')
  apply({ 'a.test': { aliases: ['b.test'], deny: ['x/**'], tagTtl: '5m', on404: 'keep', reserve: 1 } })
  const after = origin('a.test')
  t.match(after, { tagTtlMs: 300_000, on404: 'keep', reserve: 1 })
  t.equal(after.upstream, before.upstream)
  t.equal(after.slots, before.slots)
  t.equal(after.state, before.state)
  t.match(set.entries, [{ aliases: ['b.test'], deny: ['x/**'] }])
  t.equal(set.leaving, 0)
  t.end()
})

test('one that is replaced is closed when nothing has been under way for a while', async (t) => {
  const hub = await simulate(t)
  const held = image({ layers: [2_000_000] })
  hub.addImage('library/app', '1', held)
  const { set, clock, apply, origin } = scene(t)
  const asking = new AbortController()
  t.teardown(() => asking.abort())
  const { signal } = asking
  const [name, tag] = [parseRepositoryName('library/app'), parseTag('1')]

  apply({ 'a.test': { url: hub.url } })
  const { upstream } = origin('a.test')
  const blob = await upstream.blob(name, held.layers[0]!.digest, { from: 0, signal })
  apply({})
  t.same(set.entries, [])
  clock.now += 1_000_000
  await set.closeQuiet()
  t.equal(set.leaving, 1, 'a body is on its way')
  for await (const batch of blob?.body ?? []) t.ok(batch)

  clock.now += 60_000
  await set.closeQuiet()
  t.ok(await upstream.manifest(name, tag, signal), 'a transfer that has paused may ask for more')
  clock.now += 89_999
  await set.closeQuiet()
  t.equal(set.leaving, 1)
  clock.now += 1
  await set.closeQuiet()
  t.equal(set.leaving, 0)
  await t.rejects(upstream.manifest(name, tag, signal), 'it is closed')
})

/** A mirror of a registry that hangs, and one that works with the same image. */
async function changing(t: Test, maxConnections: number) {
  const [dead, alive] = [await simulate(t), await simulate(t)]
  const held = image({ layers: [3_000_000, 3_000_001, 3_000, 4_000, 5_000], seed: 'changing' })
  for (const hub of [dead, alive]) hub.addImage('library/app', '1', held)
  const settings = { maxConnections, timeouts: { connect: '1s', headers: '60s', idle: '60s' } }
  const mirror = await startMirror(t, dead, { cache: { tagTtl: 0 }, upstream: settings, budgetMs: 60_000 })
  const reload = async (more: Record<string, unknown>): Promise<void> => {
    const upstreams = { 'docker.io': { url: alive.url, default: true, ...settings, ...more } }
    const server = { port: 0 }
    const text = JSON.stringify({ server, storage: { root: mirror.root }, cache: { tagTtl: 0 }, upstreams })
    await mirror.app.reload(loadConfig({ text, env: {} }).config)
  }
  const get = (what: string) => pull(`${mirror.url}/v2/library/app/${what}`)
  return { dead, alive, held, mirror, reload, get }
}

test('what nobody waits for is fetched no more from an upstream that was replaced', async (t) => {
  const { dead, alive, held, mirror, reload, get } = await changing(t, 4)
  const [first = '', second = '', third = ''] = held.layers.map(({ digest }) => digest)
  const fault = { hang: 'midBody', hangAfterBytes: 1_500_000 } as const
  const rules = [first, second].map((ref) => dead.fault({ ref }, fault))
  await get('manifests/1')
  await settled(mirror)
  const followed = [first, second].map((it) => get(`blobs/${it}`))
  // Two connections are for manifests.
  await dead.log.until(() => rules.every(({ hits }) => hits === 1))
  const fills = async () => (await mirror.app.metrics.fillsInFlight.get()).values[0]?.value
  await eventually('the rest is queued', async () => (await fills()) === 5)
  const waiting = get(`blobs/${third}`)
  await eventually('somebody waits', async () => {
    const { body } = await pull(`${mirror.url}/_entrepot/explain?ref=app:1`)
    const { image: told } = JSON.parse(body.toString()) as Explanation
    return told?.parts.find(({ digest }) => digest === third)?.fetching?.followed === true
  })
  await reload({ offline: true })
  await eventually('it is given up', async () => (await fills()) === 3)
  for (const rule of rules) rule.remove()
  await dead.stop()
  await dead.start()
  for (const [at, { body }] of (await Promise.all([...followed, waiting])).entries()) {
    t.ok(body.equals(held.layers[at]!.bytes), 'a pull comes to its end, and so does one that waited')
  }
  const asked = dead.log.of({ kind: 'blob', method: 'GET' }).map(({ ref }) => ref)
  t.same(new Set(asked), new Set([held.config.digest, first, second, third]))
  t.equal(alive.log.count(), 0)
})

test('who comes after a change joins nobody who waits for the upstream of before', async (t) => {
  const { dead, held, reload, get } = await changing(t, 8)
  const { digest } = held.layers[0]!
  for (const ref of [digest, '1']) dead.fault({ ref }, { hang: 'headers' })
  void get('manifests/1').catch(() => undefined)
  void get(`blobs/${digest}`).catch(() => undefined)
  await dead.log.until((log) => log.inFlight('manifest') === 1 && log.inFlight('blob') === 1)
  await reload({})
  t.match(await get('manifests/1'), { status: 200, cache: 'miss' })
  const blob = await get(`blobs/${digest}`)
  t.match(blob, { status: 200, cache: 'miss' })
  t.ok(blob.body.equals(held.layers[0]!.bytes))
})
