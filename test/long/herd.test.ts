/** Many clients, one blob: what crosses the wire, and what may not. */
import { test } from 'tap'
import { image } from '../support/images.ts'
import {
  eventually,
  pull,
  pullSame,
  pullSome,
  settled,
  simulate,
  stall,
  startMirror,
} from '../support/app.ts'

const MiB = 1024 * 1024

test('thunderingHerd: a hundred clients on one cold 64 MiB layer cost one transfer and two tokens', async (t) => {
  const upstream = await simulate(t, { token: {}, cdn: {}, bytesPerSecond: 200 * MiB })
  const big = image({ layers: [64 * MiB] })
  upstream.addImage('library/big', '1', big)
  const mirror = await startMirror(t, upstream)
  const layer = big.layers[0]!
  const url = `${mirror.url}/v2/library/big/blobs/${layer.digest}`

  // Fifty at once, fifty when it is half-way through.
  const early = Array.from({ length: 50 }, () => pullSame(url, layer))
  await upstream.log.until((log) => log.bytesSent('cdn') > 32 * MiB)
  const late = Array.from({ length: 50 }, () => pullSame(url, layer))
  const pulled = await Promise.all([...early, ...late])

  t.ok(pulled.every(({ status, same }) => status === 200 && same))
  t.equal(upstream.log.count('cdn'), 1)
  t.ok(upstream.log.bytesSent('cdn') <= 1.02 * 64 * MiB)
  t.equal(upstream.log.authorizationSeenBy('cdn'), 0)
  t.ok(upstream.log.count('token') <= 2)
  t.equal(pulled.filter(({ cache }) => cache === 'miss').length, 1)
  t.ok(pulled.filter(({ cache }) => cache === 'join').length >= 50)
})

test('a hundred clients on one cold tag cost one manifest GET', async (t) => {
  const upstream = await simulate(t, { token: {}, latencyMs: 20 })
  const small = image({ layers: [10] })
  upstream.addImage('library/small', '1', small)
  const mirror = await startMirror(t, upstream)
  const url = `${mirror.url}/v2/library/small/manifests/1`
  const pulled = await Promise.all(Array.from({ length: 100 }, () => pull(url)))
  t.ok(pulled.every(({ status, body }) => status === 200 && body.equals(small.manifest.bytes)))
  t.equal(upstream.log.count({ kind: 'manifest', status: 200 }), 1)
  t.ok(upstream.log.count('token') <= 2)
})

test('sharedBlobAcrossRepos: two repositories that name the same layer share its transfer', async (t) => {
  const upstream = await simulate(t, { bytesPerSecond: 20 * MiB })
  const one = image({ layers: [{ size: 4 * MiB, seed: 'shared' }], seed: 'one' })
  const two = image({ layers: [{ size: 4 * MiB, seed: 'shared' }], seed: 'two' })
  upstream.addImage('library/one', '1', one)
  upstream.addImage('library/two', '1', two)
  const mirror = await startMirror(t, upstream)
  const { digest } = one.layers[0]!
  await pull(`${mirror.url}/v2/library/two/manifests/1`)
  const [first, second] = await Promise.all([
    pull(`${mirror.url}/v2/library/one/blobs/${digest}`),
    upstream.log
      .until((log) => log.bytesSent('blob') > 0)
      .then(() => pull(`${mirror.url}/v2/library/two/blobs/${digest}`)),
  ])
  t.equal(first.body.length, 4 * MiB)
  t.equal(second.body.length, 4 * MiB)
  t.equal(second.cache, 'join')
  t.equal(upstream.log.count({ kind: 'blob', method: 'GET', ref: digest }), 1)
  t.equal(upstream.log.count({ kind: 'blob', method: 'HEAD' }), 0, 'a manifest that names it is enough')
})

test('a repository that no manifest gives the blob asks upstream before it joins or hits', async (t) => {
  const upstream = await simulate(t)
  const one = image({ layers: [3 * MiB], seed: 'one' })
  upstream.addImage('library/one', '1', one)
  upstream.addImage('library/two', '1', image({ layers: [10], seed: 'two' }))
  const mirror = await startMirror(t, upstream)
  const { digest } = one.layers[0]!
  t.equal((await pull(`${mirror.url}/v2/library/one/blobs/${digest}`)).status, 200)
  await settled(mirror)
  const other = await pull(`${mirror.url}/v2/library/two/blobs/${digest}`)
  t.equal(other.status, 404)
  t.equal(upstream.log.count({ kind: 'blob', method: 'HEAD', repo: 'library/two' }), 1)
  upstream.addBlob('library/two', one.layers[0]!)
  const granted = await pull(`${mirror.url}/v2/library/two/blobs/${digest}`)
  t.equal(granted.cache, 'hit')
  await upstream.stop()
  const again = await pull(`${mirror.url}/v2/library/two/blobs/${digest}`)
  t.equal(again.cache, 'hit', 'upstream was believed for good')
})

test('clientAborts: all: a fill goes on when its only client leaves', async (t) => {
  const upstream = await simulate(t, { bytesPerSecond: 20 * MiB })
  const big = image({ layers: [4 * MiB] })
  upstream.addImage('library/big', '1', big)
  const mirror = await startMirror(t, upstream)
  const layer = big.layers[0]!
  const url = `${mirror.url}/v2/library/big/blobs/${layer.digest}`
  await pullSome(url, 1)
  await eventually('it is here', async () => (await pull(url, {}, 'HEAD')).cache === 'hit')
  t.equal((await pull(url)).cache, 'hit')
  t.equal(upstream.log.count({ kind: 'blob', method: 'GET' }), 1)
})

test('clientAborts: all, finishAbandoned never: the transfer ends, and the next pull goes on from there', async (t) => {
  const upstream = await simulate(t, { bytesPerSecond: 4 * MiB })
  const big = image({ layers: [8 * MiB] })
  upstream.addImage('library/big', '1', big)
  const mirror = await startMirror(t, upstream, { cache: { finishAbandoned: 'never' } })
  const layer = big.layers[0]!
  const url = `${mirror.url}/v2/library/big/blobs/${layer.digest}`
  await pullSome(url, 2 * MiB)
  await upstream.log.until((log) => log.inFlight('blob') === 0)
  await settled(mirror)
  upstream.set({ bytesPerSecond: undefined })
  const pulled = await pullSame(url, layer)
  t.ok(pulled.same)
  const ranges = upstream.log.of({ kind: 'blob', method: 'GET' }).map(({ headers }) => headers.range)
  t.equal(ranges.length, 2)
  t.match(ranges[1], /^bytes=[1-9]\d+-/)
})

test('clientAborts: leader, follower: whoever leaves, the others get the one transfer whole', async (t) => {
  const upstream = await simulate(t, { bytesPerSecond: 8 * MiB })
  const big = image({ layers: [4 * MiB] })
  upstream.addImage('library/big', '1', big)
  const mirror = await startMirror(t, upstream)
  const layer = big.layers[0]!
  const url = `${mirror.url}/v2/library/big/blobs/${layer.digest}`
  const leader = pullSome(url, MiB)
  await upstream.log.until((log) => log.inFlight('blob') === 1)
  const [one, two] = [pullSame(url, layer), pullSame(url, layer)]
  const follower = pullSome(url, 2 * MiB)
  await leader
  await follower
  for (const { same } of [await one, await two, await pullSame(url, layer)]) t.ok(same)
  t.equal(upstream.log.count({ kind: 'blob', method: 'GET' }), 1)
})

test('the slowest client does not slow the fill', async (t) => {
  const upstream = await simulate(t)
  const big = image({ layers: [16 * MiB] })
  upstream.addImage('library/big', '1', big)
  const mirror = await startMirror(t, upstream)
  const layer = big.layers[0]!
  const url = `${mirror.url}/v2/library/big/blobs/${layer.digest}`
  const leave = await stall(url)
  const quick = await pullSame(url, layer)
  t.ok(quick.same)
  leave()
})
