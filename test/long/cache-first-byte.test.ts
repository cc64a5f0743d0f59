/**
 * A head promises a body: until its first byte may follow, a client can still be told to go elsewhere.
 */
import { test, type Test } from 'tap'
import { isWhole, pull, simulate, startMirror } from '../support/app.ts'
import { image, layer } from '../support/images.ts'
import type { UpstreamSimulator } from '../support/upstream.ts'

const REPO = 'library/greeting'
const IMAGE = image({ layers: [200_000] })
const LARGE = IMAGE.layers[0]!
const SMALL = layer({ size: 3_000 })

interface Scene {
  upstream: UpstreamSimulator
  blobs: string
  clock: { ahead: number }
}

async function setUp(t: Test, budgetMs: number): Promise<Scene> {
  const clock = { ahead: 0 }
  const upstream = await simulate(t)
  upstream.addImage(REPO, '1', IMAGE)
  upstream.addBlob(REPO, SMALL)
  const mirror = await startMirror(t, upstream, {
    budgetMs,
    now: () => performance.now() + clock.ahead,
    upstream: { timeouts: { idle: '10m' } },
  })
  return { upstream, clock, blobs: `${mirror.url}/v2/${REPO}/blobs` }
}

for (const [name, blob] of [['large', LARGE] as const, ['small', SMALL] as const]) {
  test(`an upstream that sends heads without bodies is an error before any head: a ${name} blob`, async (t) => {
    const { upstream, blobs, clock } = await setUp(t, 2_000)
    const url = `${blobs}/${blob.digest}`
    const silence = upstream.fault({ kind: 'blob' }, { hang: 'midBody', hangAfterBytes: 0 })
    const [whole, part] = [pull(url), pull(url, { range: 'bytes=1000-' })]
    t.match(await whole, { status: 503, headers: { 'retry-after': /^\d+$/ } })
    t.match(await part, { status: 503 })
    t.equal(upstream.log.count({ kind: 'blob', method: 'GET' }), 1, 'both waited for one transfer')

    silence.remove()
    await upstream.stop()
    await upstream.start()
    // While it was gone it may have been asked, and then it is left alone for a while.
    clock.ahead += 11_000
    t.ok(isWhole(await pull(url), blob), 'the transfer goes on as soon as upstream does')
  })
}

test('what one client has waited for in vain, the next need not', async (t) => {
  const budgetMs = 4_000
  const { upstream, blobs } = await setUp(t, budgetMs)
  upstream.fault({ kind: 'blob' }, { hang: 'midBody', hangAfterBytes: 0 })
  t.match(await pull(`${blobs}/${LARGE.digest}`), { status: 503 })
  const askedAt = performance.now()
  t.match(await pull(`${blobs}/${LARGE.digest}`), { status: 503 })
  t.ok(performance.now() - askedAt < budgetMs, 'nor does it wait as long')
  t.equal(upstream.log.count({ kind: 'blob', method: 'GET' }), 1)
})
