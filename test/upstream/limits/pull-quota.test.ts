/** What an upstream tells of the pulls that are left: figures, for how long they are good, and whom to tell. */
import { test } from 'tap'
import { createMetrics } from '../../../src/telemetry/metrics.ts'
import { parseRatelimit, PullQuota } from '../../../src/upstream/limits/pull-quota.ts'
import type { PullBudget } from '../../../src/upstream/status.ts'
import { valueOf } from '../../support/upstream-client.ts'

const HOUR = 3_600_000

function budget() {
  const clock = { now: 1_000 }
  const warned: object[] = []
  const metrics = createMetrics()
  const log = { warn: (fields: object, message: string) => void warned.push({ ...fields, message }) }
  const it = new PullQuota({ key: 'docker.io', account: '2', metrics, log, now: () => clock.now })
  const tell = (remaining: number, limit = 100): void =>
    it.read({ 'ratelimit-limit': `${limit};w=21600`, 'ratelimit-remaining': `${remaining};w=21600` })
  return { it, clock, warned, metrics, tell }
}

void test('a figure, with its window or without', (t) => {
  for (const [header, count, windowMs] of [
    ['97;w=21600', 97, 6 * HOUR],
    ['0;w=21600', 0, 6 * HOUR],
    ['12', 12, undefined],
    [' 12 ; w=1', 12, 1000],
    ['100, 100;w=60', 100, undefined],
    ['-1;w=1', undefined, undefined],
    ['many', undefined, undefined],
    [undefined, undefined, undefined],
  ] as const) {
    const expected = count === undefined ? undefined : { count, windowMs }
    t.same(parseRatelimit(header), expected, String(header))
  }
  t.end()
})

void test('nothing is known before something is told, and an answer without figures changes nothing', (t) => {
  const { it, tell, clock } = budget()
  t.equal(it.current, undefined)
  tell(97)
  clock.now += 500
  it.read({ 'docker-ratelimit-source': '192.0.2.1' })
  const known: PullBudget = { limit: 100, remaining: 97, windowMs: 6 * HOUR, toldMsAgo: 500 }
  t.same(it.current, known)
  it.read({ 'ratelimit-remaining': '7' })
  t.same(it.current, { limit: undefined, remaining: 7, windowMs: undefined, toldMsAgo: 0 })
  t.end()
})

void test('what is older than its window is forgotten, in the metrics as well', async (t) => {
  const { it, tell, clock, metrics } = budget()
  const labels = { upstream: 'docker.io', account: '2' }
  tell(3)
  t.equal(await valueOf(metrics.upstreamRatelimitRemaining, labels), 3)
  t.equal(await valueOf(metrics.upstreamRatelimitLimit, labels), 100)
  clock.now += 6 * HOUR
  t.equal(it.current?.remaining, 3)
  clock.now += 1
  t.notMatch(await metrics.scrape(), /ratelimit_(remaining|limit)\{/)
  t.equal(it.current, undefined)
  it.read({ 'ratelimit-remaining': '5' })
  clock.now += 6 * HOUR + 1
  t.equal(it.current, undefined, 'without a window, as Docker Hub would')
})

void test('the log hears once of less than 20 %, once of less than 5 %, and again when it had recovered', (t) => {
  const { tell, warned } = budget()
  const told = (remaining: number): object[] => {
    tell(remaining)
    return warned.splice(0)
  }
  t.same(told(20), [])
  t.match(told(19), [{ account: '2', remaining: 19, limit: 100, message: /20 %/ }])
  for (const remaining of [18, 20, 19, 5]) t.same(told(remaining), [], `${remaining} is no news`)
  t.match(told(4), [{ message: /less than 5 %/ }])
  for (const remaining of [0, 5, 4]) t.same(told(remaining), [], `${remaining} is no news`)
  t.same(told(90), [])
  t.match(told(2), [{ message: /less than 5 %/ }], 'all at once')
  t.same(told(10), [])
  t.match(told(1), [{ message: /less than 5 %/ }])
  t.end()
})

void test('who is gone has no figures', async (t) => {
  const { it, tell, metrics } = budget()
  tell(50)
  it.close()
  t.notMatch(await metrics.scrape(), /ratelimit_remaining\{/)
  t.equal(metrics.beforeScrape.size, 0)
})

void test('one that is closed leaves the figures of who came in its place', async (t) => {
  const { it, tell, metrics, clock } = budget()
  tell(3)
  const next = new PullQuota({ key: 'docker.io', account: '2', metrics, now: () => clock.now })
  next.read({ 'ratelimit-limit': '100;w=21600', 'ratelimit-remaining': '50;w=21600' })
  it.close()
  const text = await metrics.scrape()
  t.match(text, /ratelimit_remaining\{[^}]*\} 50\n/)
  t.match(text, /ratelimit_limit\{[^}]*\} 100\n/)
  next.close()
  t.notMatch(await metrics.scrape(), /ratelimit_(remaining|limit)\{/)
})
