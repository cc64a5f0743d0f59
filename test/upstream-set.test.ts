/** Upstreams of a configuration that changes: who stays, who is replaced, and when the old ones are closed. */
import { test, type Test } from 'tap'
import { loadConfig, type Config } from '../src/config.ts'
import { createLog } from '../src/telemetry/log.ts'
import { createMetrics } from '../src/telemetry/metrics.ts'
import { UpstreamSet } from '../src/upstream-set.ts'
import { simulate } from './support/app.ts'
import { image } from './support/images.ts'
import { parseRepositoryName, parseTag } from '../src/oci/reference.ts'
import type { Origin } from '../src/cache/origin.ts'

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
