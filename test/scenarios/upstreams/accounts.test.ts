/** Several accounts of one upstream, as the configuration lists them: what they bring, and what is told of each. */
import path from 'node:path'
import { test, type Test } from 'tap'
import { pull, simulate, type MirrorOptions } from '../../support/app.ts'
import { image } from '../../support/images.ts'
import { MINUTE, REPO, startTagged } from '../../support/tagged.ts'
import { basicOf } from '../../support/upstream-auth.ts'

const ANN = { username: 'ann-of-the-office', password: 'of ann' }
const BOB = { username: 'bob-of-the-office', password: 'of bob' }
const second = image({ layers: [200], seed: 'second' })

async function twoAccounts(t: Test, options: MirrorOptions = {}) {
  const folder = t.testdir({ password: `${BOB.password}\n`, data: {} })
  const passwordFile = path.join(folder, 'password')
  const credentials = [ANN, { username: BOB.username, passwordFile }]
  const world = await startTagged(
    t,
    {
      root: path.join(folder, 'data'),
      cache: { prefetch: 'off' },
      ...options,
      upstream: { credentials, ...options.upstream },
    },
    { basic: [ANN, BOB], rateLimit: { limit: 10, perAccount: true } },
  )
  const { upstream, mirror } = world
  return {
    ...world,
    /** GETs of manifests as one of them. */
    spent: (who: typeof ANN): number =>
      upstream.log.count(
        ({ kind, method, headers, status }) =>
          kind === 'manifest' && method === 'GET' && status === 200 && headers.authorization === basicOf(who),
      ),
    metrics: async (): Promise<string[]> => (await pull(`${mirror.url}/metrics`)).body.toString().split('\n'),
    readyz: async () =>
      JSON.parse((await pull(`${mirror.url}/readyz`)).body.toString()) as {
        status: string
        upstreams: Record<string, unknown>[]
      },
  }
}

test('they share the pulls, and when one has none left the other goes on', async (t) => {
  const { upstream, mirror, get, spent, metrics } = await twoAccounts(t)
  const pullCold = async (at: number): Promise<number> => {
    upstream.addImage(`library/cold${at}`, '1', second)
    // Another name of an image that is here costs no pull, so each is one of its own.
    const own = image({ layers: [10], seed: String(at) })
    upstream.addImage(`library/cold${at}`, '1', own)
    return (await get('1', `library/cold${at}`)).status
  }
  for (let at = 0; at < 12; at += 1) t.equal(await pullCold(at), 200)
  t.same([spent(ANN), spent(BOB)], [6, 6])
  const told = await metrics()
  for (const account of ['1', '2']) {
    t.ok(told.includes(`entrepot_upstream_ratelimit_remaining{upstream="docker.io",account="${account}"} 4`))
    t.ok(told.includes(`entrepot_upstream_ratelimit_limit{upstream="docker.io",account="${account}"} 10`))
  }
  for (let at = 12; at < 20; at += 1) t.equal(await pullCold(at), 200)
  t.same([spent(ANN), spent(BOB)], [10, 10])
  t.equal(await pullCold(20), 503, 'both are spent')
  t.equal(upstream.log.count({ status: 429 }), 2)
  await mirror.close()
})

test('the reserve is that of all of them together', async (t) => {
  const { upstream, mirror, get, warm, age, asked, spent } = await twoAccounts(t, {
    upstream: { reserve: 10 },
  })
  await warm()
  age()
  upstream.moveTag(REPO, '1', second)
  const gets = asked('GET')
  await warm()
  t.equal(asked('GET'), gets + 1, 'the other has all of them still')
  t.same([spent(ANN), spent(BOB)], [1, 1])
  age()
  upstream.moveTag(REPO, '1', image({ layers: [10], seed: 'third' }))
  t.equal((await get()).cache, 'stale')
  await mirror.close()
})

test('a private image of the second is pulled whole, though the first is denied it', async (t) => {
  const { upstream, mirror, get, blob, first, spent } = await twoAccounts(t)
  upstream.fault(
    { repo: REPO, when: ({ headers }) => headers.authorization === basicOf(ANN) },
    { status: 403, body: 'json', code: 'DENIED' },
  )
  t.equal((await get()).status, 200)
  for (const { digest, bytes } of first.blobs) t.ok((await blob(digest)).body.equals(bytes))
  t.same([spent(ANN), spent(BOB)], [0, 1])
  await mirror.close()
})

test('one whose password is not taken is told of, and the other answers', async (t) => {
  const { upstream, mirror, get, warm, blob, first, metrics, readyz, clock } = await twoAccounts(t)
  upstream.set({ basic: BOB })
  await warm()
  t.ok((await blob(first.layers[0]!.digest)).body.equals(first.layers[0]!.bytes))
  const rejected = (account: string, value: number): string =>
    `entrepot_upstream_credentials_rejected{upstream="docker.io",account="${account}"} ${value}`
  const told = await metrics()
  t.ok(told.includes(rejected('1', 1)))
  t.ok(told.includes(rejected('2', 0)))
  const { status, upstreams } = await readyz()
  t.equal(status, 'degraded')
  t.match(upstreams, [{ state: 'ok', credentials: /^account 1: rejected since / }])
  const said = JSON.stringify(mirror.lines) + JSON.stringify(upstreams) + told.join('\n')
  for (const secret of [ANN.password, BOB.password, ANN.username, basicOf(ANN)])
    t.notOk(said.includes(secret))

  upstream.set({ basic: [ANN, BOB] })
  clock.now += MINUTE + 1
  t.equal((await get()).cache, 'hit')
  t.equal((await readyz()).status, 'ok')
  await mirror.close()
})

test('under fallbacks the accounts are those of the upstream itself', async (t) => {
  const spare = await simulate(t)
  const { upstream, mirror, get, spent } = await twoAccounts(t, {
    upstream: { fallbacks: [spare.url] },
  })
  upstream.set({ rateLimit: { limit: 1, perAccount: true } })
  for (let at = 0; at < 3; at += 1) {
    const own = image({ layers: [10], seed: String(at) })
    for (const it of [upstream, spare]) it.addImage(`library/cold${at}`, '1', own)
    t.equal((await get('1', `library/cold${at}`)).status, 200)
  }
  t.same([spent(ANN), spent(BOB), spare.log.count({ method: 'GET' })], [1, 1, 1])
  t.equal(
    spare.log.count((it) => it.headers.authorization !== undefined),
    0,
  )
  await mirror.close()
})
