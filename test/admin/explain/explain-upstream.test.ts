/** What `explain` says of the upstream behind a name, and that a pull then does what was said. */
import { test } from 'tap'
import type { Explanation } from '../../../src/admin/explain/explanation.ts'
import { eventually, pull, type Mirror } from '../../support/app.ts'
import { guard, ROBOT } from '../../support/guarded.ts'
import { image } from '../../support/images.ts'
import { MINUTE, REPO, startTagged } from '../../support/tagged.ts'

const second = image({ layers: [200], seed: 'second' })

async function explain({ url }: Pick<Mirror, 'url'>, ref = 'app:1'): Promise<Explanation> {
  const { body } = await pull(`${url}/_entrepot/explain?${new URLSearchParams({ ref }).toString()}`)
  return JSON.parse(body.toString()) as Explanation
}

test('immutable tags are never asked about again', async (t) => {
  const { mirror, warm, age, get, asked } = await startTagged(t, { upstream: { immutableTags: ['1*'] } })
  await warm()
  age()
  const told = await explain(mirror)
  t.match(told, { tag: { immutable: true, checkedMsAgo: MINUTE + 1 }, pull: { outcome: 'hit' } })
  t.notOk('oldForMs' in told.tag!)
  t.equal((await get()).cache, 'hit')
  t.equal(asked('HEAD'), 0)
})

test('a tag that is gone and kept goes on answering', async (t) => {
  const { mirror, warm, age, get, upstream } = await startTagged(t, { upstream: { on404: 'keep' } })
  await warm()
  age()
  upstream.deleteTag(REPO, '1')
  t.equal((await get()).cache, 'stale')
  const told = await explain(mirror)
  t.match(told.pull, { outcome: 'stale', sentences: [/docker\.io says that the tag is gone$/, /./] })
  t.equal((await get()).cache, 'stale')
})

test('the pulls that are left, and what happens when none are', async (t) => {
  const { mirror, warm, age, get, upstream, clock } = await startTagged(t, { cache: { prefetch: 'off' } })
  upstream.set({ rateLimit: { limit: 100, now: () => clock.now } })
  await warm()
  const plenty = await explain(mirror)
  t.match(plenty.upstream, {
    sentences: [/^99 of 100 pulls are left in \d+ (?:hours|minutes|seconds), as told /],
    status: { offline: false, accounts: [{ account: 'anonymous', pulls: { remaining: 99, limit: 100 } }] },
  })
  age()
  upstream.set({ rateLimit: { limit: 0, retryAfter: 'secs', retryAfterSeconds: 300 } })
  t.equal((await get('2')).status, 503)
  const refused = await explain(mirror, 'app:2')
  t.match(refused.pull, { outcome: 'unavailable', sentences: [/^503: .*pulls.*, and this is not cached$/] })
  t.match(
    refused.upstream!.sentences.join('\n'),
    /has had enough of our pulls: no manifest is fetched for another/,
  )
  t.equal((await get('2')).status, 503)

  upstream.moveTag(REPO, '1', second)
  t.match((await explain(mirror)).pull, {
    outcome: 'head',
    sentences: [
      /by HEAD/,
      /^would answer stale if docker\.io cannot say, and when the tag has moved, to spare/,
      /./,
    ],
  })
  t.equal((await get()).cache, 'stale')
  t.match((await explain(mirror)).pull, { outcome: 'stale', sentences: [/the tag has moved, but /, /./] })
  t.equal((await get()).cache, 'stale')
})

test('an upstream that is left alone', async (t) => {
  const { mirror, warm, age, get, upstream, clock } = await startTagged(t)
  await warm()
  age()
  await upstream.stop()
  await get()
  await eventually('the breaker is open', async () => {
    return (await explain(mirror)).upstream?.status?.accounts[0]?.breaker.state === 'open'
  })
  const open = await explain(mirror)
  t.match(open.upstream!.sentences[0], /^docker\.io cannot be reached \(.*\): tried again in \d+ seconds?$/)
  t.equal(open.pull.outcome, 'stale')
  t.equal((await explain(mirror, 'app:2')).pull.outcome, 'unavailable')
  t.equal((await get()).cache, 'stale')
  t.equal((await get('2')).status, 503)
  clock.now += 10 * MINUTE
  await upstream.start()
  t.equal((await explain(mirror)).pull.outcome, 'head')
})

test('credentials that are refused are told of without naming anybody', async (t) => {
  const { mirror, upstream, grownStale, get } = await guard(t, { basic: ROBOT }, { upstream: ROBOT })
  await grownStale()
  upstream.set({ credsExpired: true })
  await get()
  const told = await explain(mirror)
  t.match(told.upstream!.sentences.join('\n'), /docker\.io does not take our credentials: rejected since /)
  t.equal(told.pull.outcome, 'stale')
  const text = JSON.stringify(told)
  for (const secret of [ROBOT.username, ROBOT.password, 'robot', 'word'])
    t.notOk(text.includes(secret), secret)
})
