/** Large layers come over several connections, and every byte of them once. */
import { test, type Test } from 'tap'
import { Segments } from '../../src/cache/segments.ts'
import { UpstreamError } from '../../src/upstream/upstream.ts'
import {
  eventually,
  isWhole,
  pull,
  settled,
  simulate,
  startMirror,
  type MirrorOptions,
} from '../support/app.ts'
import { image, type Content, type Image } from '../support/images.ts'
import type { UpstreamOptions, UpstreamSimulator } from '../support/upstream.ts'

const MiB = 2 ** 20

function large(seed: number, size = 10 * MiB): Image {
  return image({ layers: [size], seed })
}

async function prepare(t: Test, images: Image[], options: UpstreamOptions = {}, more: MirrorOptions = {}) {
  const upstream = await simulate(t, options)
  const mirror = await startMirror(t, upstream, {
    cache: { prefetch: 'off' },
    upstream: { segments: { size: '1MiB', parallel: 4 } },
    ...more,
  })
  for (const [at, it] of images.entries()) {
    upstream.addImage(`library/large${at}`, '1', it)
    await pull(`${mirror.url}/v2/library/large${at}/manifests/1`)
  }
  const blobUrl = (at: number): string =>
    `${mirror.url}/v2/library/large${at}/blobs/${layerOf(images[at]!).digest}`
  return { upstream, mirror, blobUrl }
}

function layerOf({ blobs }: Image): Content {
  return blobs.toSorted((a, b) => b.bytes.length - a.bytes.length)[0]!
}

/** Requests that asked for a stretch of a blob, in the order of what they asked for. */
function ranges(upstream: UpstreamSimulator): string[] {
  return upstream.log.of({ kind: 'blob', method: 'GET' }).map(({ headers }) => headers.range ?? 'all')
}

test('a large layer comes in pieces, several at once, none of them twice', async (t) => {
  const it = large(1)
  const { upstream, mirror, blobUrl } = await prepare(t, [it], { bytesPerSecond: 8 * MiB })
  const pulled = await pull(blobUrl(0))
  t.ok(isWhole(pulled, layerOf(it)))
  t.equal(pulled.headers['content-length'], String(10 * MiB))
  await settled(mirror)
  t.ok(upstream.log.maxConcurrent('blob') >= 3, `${upstream.log.maxConcurrent('blob')} at once`)
  t.ok(upstream.log.maxConcurrent('blob') <= 4)
  t.equal(upstream.log.bytesSent('blob'), 10 * MiB, 'every byte once')
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
  t.equal(upstream.log.bytesSent('blob'), 20 * MiB)
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

test('pieces that are refused, cut or limited are fetched by those that go on', async (t) => {
  for (const behaviour of [
    { status: 503 },
    { status: 429 },
    { status: 416 },
    { dropAfterBytes: 100_000 },
    { status: 500 },
  ]) {
    const it = large(6)
    const { upstream, blobUrl } = await prepare(t, [it], { bytesPerSecond: 16 * MiB })
    let asked = 0
    upstream.fault({ kind: 'blob', times: 2, when: () => ++asked > 1 }, behaviour)
    const pulled = await pull(blobUrl(0))
    t.ok(isWhole(pulled, layerOf(it)), JSON.stringify(behaviour))
    t.ok(upstream.log.bytesSent('blob') <= 10 * MiB * 1.1, `${upstream.log.bytesSent('blob')} bytes`)
  }
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
  t.equal(upstream.log.bytesSent('blob') <= 42 * MiB, true)
})

test('whoever asks takes the turn of a further piece', async (t) => {
  const [slow, quick] = [large(12, 20 * MiB), image({ layers: [1000], seed: 13 })]
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

test('what an upstream cannot bear is asked of it no more, for a while', (t) => {
  let now = 0
  const segments = new Segments({ size: MiB, parallel: 8, now: () => now })
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
  const segments = new Segments({ size: MiB, parallel: 8, now: () => now })
  const limited = new UpstreamError('busy', 'a.io', 'too many', { status: 429 })
  for (const askedAt of [900, 950, 980]) t.ok(segments.failed(limited, askedAt))
  t.equal(segments.window, 4, 'three at once halve it once')
  now += 10
  t.ok(segments.failed(limited, 1005))
  t.equal(segments.window, 2)
  t.end()
})
