/** Large layers come over several connections, and every byte of them once. */
import { test } from 'tap'
import { SegmentPolicy } from '../../../src/cache/download/segment-policy.ts'
import { UpstreamError } from '../../../src/upstream/upstream.ts'
import { eventually, isWhole, pull, settled } from '../../support/app.ts'
import { image } from '../../support/images.ts'
import { inside, LARGE, large, layerOf, prepare, ranges } from '../../support/segments.ts'

const MiB = 2 ** 20

test('a large layer comes in pieces, several at once, none of them twice', async (t) => {
  const it = large(1)
  const { upstream, mirror, blobUrl } = await prepare(t, [it], { bytesPerSecond: 8 * MiB })
  const pulled = await pull(blobUrl(0))
  t.ok(isWhole(pulled, layerOf(it)))
  t.equal(pulled.headers['content-length'], String(LARGE))
  await settled(mirror)
  t.ok(upstream.log.maxConcurrent('blob') >= 3, `${upstream.log.maxConcurrent('blob')} at once`)
  t.ok(upstream.log.maxConcurrent('blob') <= 4)
  t.equal(upstream.log.bytesSent('blob'), LARGE, 'every byte once')
  t.equal(ranges(upstream)[0], 'bytes=0-262143', 'the first is small, so that the others can begin')
})

test('a layer of less than two pieces comes in one', async (t) => {
  const it = large(2, 2 * MiB - 1)
  const { upstream, blobUrl } = await prepare(t, [it])
  t.ok(isWhole(await pull(blobUrl(0)), layerOf(it)))
  t.same(ranges(upstream), ['all'])
})

test('an upstream that ignores ranges sends each layer whole, once, and is not asked for parts again', async (t) => {
  const images = [large(3), large(4)]
  const { upstream, blobUrl } = await prepare(t, images)
  upstream.fault({ kind: 'blob' }, { ignoreRange: true })
  for (const [at, it] of images.entries()) t.ok(isWhole(await pull(blobUrl(at)), layerOf(it)))
  t.same(ranges(upstream), ['bytes=0-262143', 'all'])
  t.equal(upstream.log.bytesSent('blob'), 2 * LARGE)
})

test('an upstream that stops honouring ranges in the middle costs no byte of what is here', async (t) => {
  const it = large(5)
  const { upstream, mirror, blobUrl } = await prepare(t, [it], { bytesPerSecond: 8 * MiB })
  let asked = 0
  upstream.fault({ kind: 'blob', when: () => ++asked > 3 }, { ignoreRange: true })
  t.ok(isWhole(await pull(blobUrl(0)), layerOf(it)))
  await settled(mirror)
  t.ok(isWhole(await pull(blobUrl(0)), layerOf(it)))
})

test('a limit that pieces meet is theirs alone', async (t) => {
  const it = large(21)
  const { upstream, mirror, blobUrl } = await prepare(t, [it], { bytesPerSecond: 16 * MiB })
  upstream.addImage('library/other', '1', image({ layers: [1000], seed: 22 }))
  upstream.fault({ kind: 'blob', when: inside(), times: 3 }, { status: 429, retryAfter: 60 })
  const pulled = pull(blobUrl(0))
  await upstream.log.until((log) => log.count({ kind: 'blob', status: 429 }) === 3)
  t.equal((await pull(`${mirror.url}/v2/library/other/manifests/1`)).status, 200, 'upstream is asked as ever')
  t.ok(isWhole(await pulled, layerOf(it)))
})

test('a layer whose parts come is not given up, however often something fails in between', async (t) => {
  const it = large(23)
  const { upstream, blobUrl } = await prepare(
    t,
    [it],
    {},
    // One turn: whatever comes is a part of the main run.
    { upstream: { segments: { size: '1MiB', parallel: 4 }, maxConnections: 3 } },
  )
  upstream.fault({ kind: 'blob', every: 2 }, { status: 500 })
  t.ok(isWhole(await pull(blobUrl(0)), layerOf(it)))
  t.ok(upstream.log.count({ kind: 'blob', status: 500 }) > 6)
})

test('a limit that a later part of the main run meets is one of several, too', async (t) => {
  const it = large(24, 12 * MiB)
  const { upstream, mirror, blobUrl } = await prepare(t, [it], { bytesPerSecond: 8 * MiB })
  upstream.addImage('library/other', '1', image({ layers: [1000], seed: 25 }))
  // The first four are pieces. While there are no further ones, the main run comes to where the last of them began.
  upstream.fault({ kind: 'blob', when: inside({ from: 4, to: 6 }) }, { status: 429 })
  const pulled = pull(blobUrl(0))
  await upstream.log.until((log) => log.count({ kind: 'blob', status: 429 }) === 3)
  t.equal((await pull(`${mirror.url}/v2/library/other/manifests/1`)).status, 200, 'upstream is asked as ever')
  t.ok(isWhole(await pulled, layerOf(it)))
})

test('wrong bytes in a piece are found, and never make a whole blob', async (t) => {
  const it = large(7)
  const { upstream, blobUrl } = await prepare(t, [it])
  upstream.fault({ kind: 'blob', times: 1 }, { corrupt: 1000 })
  const first = await pull(blobUrl(0))
  t.ok(first.broken !== undefined || isWhole(first, layerOf(it)), 'never whole and wrong')
  t.ok(isWhole(await pull(blobUrl(0)), layerOf(it)))
})

test('all layers at once take no more connections than they may, and each is whole', async (t) => {
  const images = [large(8), large(9), large(10), large(11)]
  const { upstream, blobUrl } = await prepare(
    t,
    images,
    { bytesPerSecond: 8 * MiB },
    { upstream: { segments: { size: '1MiB', parallel: 4 }, maxConnections: 6 } },
  )
  const pulled = await Promise.all(images.map((_it, at) => pull(blobUrl(at))))
  for (const [at, it] of images.entries()) t.ok(isWhole(pulled[at]!, layerOf(it)))
  t.ok(upstream.log.maxConcurrent('blob') <= 4, 'two of six are kept for manifests')
  t.equal(upstream.log.bytesSent('blob') <= 4.2 * LARGE, true)
})

test('whoever asks takes the turn of a further piece', async (t) => {
  const [slow, quick] = [large(12, 12 * MiB), image({ layers: [1000], seed: 13 })]
  const { upstream, blobUrl } = await prepare(
    t,
    [slow, quick],
    { bytesPerSecond: 1 * MiB },
    { upstream: { segments: { size: '1MiB', parallel: 4 }, maxConnections: 4 } },
  )
  const leave = new AbortController()
  const first = fetch(blobUrl(0), { signal: leave.signal }).then((answer) => answer.arrayBuffer())
  first.catch(() => undefined)
  await eventually('both turns are taken', () => upstream.log.maxConcurrent('blob') === 2)
  t.ok(isWhole(await pull(blobUrl(1)), layerOf(quick)))
  leave.abort()
})

test('the others wait until the first has been given the part that it asked for', async (t) => {
  const it = large(14)
  const { upstream, blobUrl } = await prepare(t, [it])
  upstream.fault({ kind: 'blob', method: 'GET', nth: 1 }, { latencyMs: 150 })
  t.ok(isWhole(await pull(blobUrl(0)), layerOf(it)))
  const [first, second] = upstream.log.of({ kind: 'blob', method: 'GET' }).map(({ startedAt }) => startedAt)
  t.ok(second! - first! >= 150)
})

test('pieces that are wrong are fetched once more in one, and that upstream gives no more pieces', async (t) => {
  const images = [large(15), large(16)]
  const { upstream, blobUrl } = await prepare(t, images)
  upstream.fault({ kind: 'blob', when: inside() }, { corrupt: 'tail' })
  t.ok(isWhole(await pull(blobUrl(0)), layerOf(images[0]!)))
  t.equal(ranges(upstream).at(-1), 'all')
  upstream.log.clear()
  t.ok(isWhole(await pull(blobUrl(1)), layerOf(images[1]!)))
  t.same(ranges(upstream), ['all'])
})

test('a large layer leaves turns to another one', async (t) => {
  const images = [large(18, 8 * MiB), large(19, 8 * MiB)]
  const { upstream, blobUrl } = await prepare(
    t,
    images,
    { bytesPerSecond: 2 * MiB },
    { upstream: { segments: { size: '1MiB', parallel: 4 }, maxConnections: 6 } },
  )
  const running = (at: number): number =>
    upstream.log.of(({ kind, ref, endedAt }) => {
      return kind === 'blob' && ref === layerOf(images[at]!).digest && endedAt === undefined
    }).length
  const leave = new AbortController()
  const pulls = images.map((_it, at) => async () => {
    await fetch(blobUrl(at), { signal: leave.signal }).then((answer) => answer.arrayBuffer())
  })
  const first = pulls[0]!()
  first.catch(() => undefined)
  await upstream.log.until(() => running(0) === 4)
  const second = pulls[1]!()
  second.catch(() => undefined)
  await upstream.log.until(() => running(0) === 2 && running(1) === 2)
  t.pass('two each')
  leave.abort()
  await Promise.allSettled([first, second])
})

test('layers from where a registry sends us come in pieces, each by an address of its own', async (t) => {
  const it = large(20)
  const { upstream, mirror, blobUrl } = await prepare(t, [it], { bytesPerSecond: 16 * MiB, cdn: {} })
  t.ok(isWhole(await pull(blobUrl(0)), layerOf(it)))
  await settled(mirror)
  const asked = ranges(upstream)
  const given = upstream.log.of({ kind: 'cdn' }).map(({ headers }) => headers.range ?? 'all')
  t.ok(asked.length > 4)
  t.same(given.toSorted(), asked.toSorted())
  t.equal(upstream.log.bytesSent('cdn'), LARGE)
})

test('what an upstream cannot bear is asked of it no more, for a while', (t) => {
  let now = 0
  const segments = new SegmentPolicy({ size: MiB, parallel: 8, now: () => now })
  t.equal(segments.window, 8)
  t.ok(segments.cuts(2 * MiB))
  t.notOk(segments.cuts(2 * MiB - 1))
  t.notOk(segments.cuts(undefined))
  t.notOk(segments.failed(new Error('the disk'), now))
  t.notOk(segments.failed(new UpstreamError('unreachable', 'a.io', 'cut'), now))
  t.equal(segments.window, 8)
  const limited = new UpstreamError('busy', 'a.io', 'too many', { status: 429 })
  for (const left of [4, 2, 1, 1]) {
    now += 10
    t.ok(segments.failed(limited, now))
    t.equal(segments.window, left)
  }
  now += 60_000
  t.equal(segments.window, 3)
  now += 600_000
  t.equal(segments.window, 8)
  segments.refused()
  t.equal(segments.window, 1)
  t.notOk(segments.cuts(64 * MiB))
  now += 600_001
  t.ok(segments.cuts(64 * MiB))
  const lengths = (left: number): number[] =>
    [0, 1, 2, 3, 7, 8].map((at) => segments.lengthOf(at, left) / MiB)
  t.same(lengths(100 * MiB), [1 / 8, 2 / 8, 3 / 8, 4 / 8, 1, 1], 'the first ones grow')
  t.same(lengths(4 * MiB), [1 / 8, 2 / 8, 3 / 8, 4 / 8, 4 / 8, 4 / 8], 'the last ones shrink')
  t.same(lengths(MiB / 2), [1 / 8, 1 / 8, 1 / 8, 1 / 8, 1 / 8, 1 / 8])
  t.end()
})

test('pieces that were on their way at a complaint are part of it', (t) => {
  let now = 1000
  const segments = new SegmentPolicy({ size: MiB, parallel: 8, now: () => now })
  const limited = new UpstreamError('busy', 'a.io', 'too many', { status: 429 })
  for (const askedAt of [900, 950, 980]) t.ok(segments.failed(limited, askedAt))
  t.equal(segments.window, 4, 'three at once halve it once')
  now += 10
  t.ok(segments.failed(limited, 1005))
  t.equal(segments.window, 2)
  t.end()
})
