/** Credentials that have run out: who is told, and what is served meanwhile. */
import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'tap'
import { createMetrics } from '../../../src/telemetry/metrics.ts'
import { Account, FixedCredentials } from '../../../src/upstream/login/credentials.ts'
import { everythingSaid, guard, ROBOT, type Guarded } from '../../support/guarded.ts'
import { codeOf } from '../../support/two-upstreams.ts'

const REJECTED = 'entrepot_upstream_credentials_rejected'

/** What `/readyz` says of the credentials, beside its verdict. */
async function told({ readyz }: Guarded): Promise<{ status: string; credentials: unknown }> {
  const { status, upstreams } = await readyz()
  return { status, credentials: upstreams[0]?.['credentials'] }
}

void test('credsExpired: a password of ECR that has run out is told, and the cached is served', async (t) => {
  const world = await guard(t, { basic: ROBOT }, { upstream: ROBOT })
  const { upstream, mirror, clock, grownStale, get, pullAll, metric } = world
  t.equal(await metric(REJECTED), 0)
  await grownStale()
  t.same(await told(world), { status: 'ok', credentials: undefined })
  upstream.set({ credsExpired: true })
  upstream.log.clear()

  const stale = await get()
  t.same([stale.status, stale.cache], [200, 'stale'])
  t.match(stale.headers['warning'], /^299 /)
  t.ok(await pullAll())
  t.equal(await metric(REJECTED), 1)
  const since = new Date(clock.now).toISOString()
  t.match(await told(world), {
    status: 'degraded',
    credentials: new RegExp(`^rejected since ${since}: docker\\.io says that they have expired`),
  })
  const uncached = await get('manifests/2')
  t.same([uncached.status, codeOf(uncached)], [403, 'DENIED'])
  t.ok(upstream.log.count() < 10, 'nobody insists')

  for (const status of [500, 429]) {
    clock.now += 3_600_000
    const rule = upstream.fault({ kind: 'manifest' }, { status })
    await get()
    t.equal(await metric(REJECTED), 1, 'a stumble is no welcome')
    rule.remove()
  }
  clock.now += 3_600_000
  await get()
  t.match((await told(world)).credentials, since, 'for as long as it has lasted')
  upstream.set({ credsExpired: false })
  clock.now += 11_000
  t.equal((await get()).cache, 'hit')
  t.equal(await metric(REJECTED), 0)
  t.same(await told(world), { status: 'ok', credentials: undefined })
  t.notOk(everythingSaid(mirror).includes(ROBOT.password))
})

void test('credsExpired: a rotated passwordFile is used without a restart, within the same request', async (t) => {
  const dir = t.testdir({ password: 'first\n', data: {} })
  const file = path.join(dir, 'password')
  const account = { username: 'AWS', password: 'first' }
  const world = await guard(
    t,
    { basic: account },
    { upstream: { username: 'AWS', passwordFile: file }, root: path.join(dir, 'data') },
  )
  const { upstream, grownStale, get, metric } = world
  await grownStale()
  await writeFile(file, 'second')
  upstream.set({ basic: { username: 'AWS', password: 'second' } })
  t.equal((await get()).cache, 'hit', 'confirmed')
  t.equal(await metric(REJECTED), 0)
  upstream.set({ basic: { username: 'AWS', password: 'third' } })
  t.equal(await world.list(), 403)
  t.equal(await metric(REJECTED), 1)
  await writeFile(file, 'third\n')
  t.equal(await world.list(), 200)
  t.equal(await metric(REJECTED), 0)
})

void test('wrong credentials: Basic and token services that say 401 are told', async (t) => {
  for (const options of [{ basic: ROBOT }, { token: { credentials: ROBOT } }]) {
    const world = await guard(t, options, { upstream: { username: 'office', password: 'wrong' } })
    const refused = await world.get()
    t.same([refused.status, codeOf(refused)], [403, 'DENIED'])
    t.match(await told(world), { status: 'degraded', credentials: /^rejected since .*401/ })
    t.equal(await world.metric(REJECTED), 1)
    t.ok(world.upstream.log.count((it) => it.headers.authorization !== undefined) <= 1, 'after one try')
  }
})

void test('a repository that is denied says nothing against the credentials', async (t) => {
  const world = await guard(t, { basic: ROBOT }, { upstream: ROBOT })
  for (const code of ['DENIED', undefined]) {
    const body = code === undefined ? ('empty' as const) : ('json' as const)
    const rule = world.upstream.fault({ kind: 'tags' }, { status: 403, body })
    t.equal(await world.list(), 403)
    t.match(await told(world), { credentials: undefined })
    rule.remove()
  }
  // A token service that gives no token for one repository (ghcr.io).
  const other = await guard(t, { token: { credentials: ROBOT } }, { upstream: ROBOT })
  other.upstream.set({ tokenEndpoint: { status: 403 } })
  t.equal(await other.list(), 403)
  t.match(await told(other), { credentials: undefined })
})

void test('an upstream without credentials has none that could be rejected', async (t) => {
  const world = await guard(t, { basic: ROBOT })
  t.equal((await world.get()).status, 403)
  t.equal(await world.metric(REJECTED), undefined)
  t.match(await told(world), { credentials: undefined })
})

void test('an account that is closed takes its own figure away, and no other', async (t) => {
  const metrics = createMetrics()
  const source = new FixedCredentials({ username: 'robot', password: 'secret' })
  const open = (label: string): Account => new Account({ key: 'docker.io', label, source, metrics })
  const [before, gone] = [open('1'), open('2')]
  for (const it of [before, gone]) it.rejected('docker.io does not take them')
  // The one that replaces the first is not refused.
  open('1')
  for (const it of [before, gone]) it.close()
  const said = await metrics.scrape()
  t.match(said, `${REJECTED}{upstream="docker.io",account="1"} 0`)
  t.notMatch(said, 'account="2"')
})
