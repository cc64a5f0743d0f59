/** Fetch-ahead: what sets it in motion, what does not, and that nobody who asks has to wait for it. */
import { test, type Test } from 'tap'
import {
  eventually,
  isWhole,
  pull,
  pullSome,
  settled,
  simulate,
  startMirror,
  type MirrorOptions,
  type Pulled,
} from '../../support/app.ts'
import { image, index, type Content, type Image } from '../../support/images.ts'
import type { UpstreamOptions } from '../../support/upstream.ts'

const SIX = [1000, 2000, 3000, 4000, 5000, 6000]

async function setUp(
  t: Test,
  app: Image,
  { hub = {}, ...options }: MirrorOptions & { hub?: UpstreamOptions } = {},
) {
  const upstream = await simulate(t, hub)
  upstream.addImage('library/app', '1', app)
  const mirror = await startMirror(t, upstream, options)
  const get = (path: string, headers = {}): Promise<Pulled> =>
    pull(`${mirror.url}/v2/library/app/${path}`, headers)
  const head = (path: string): Promise<Pulled> => pull(`${mirror.url}/v2/library/app/${path}`, {}, 'HEAD')
  const blob = (content: Content, headers = {}): Promise<Pulled> => get(`blobs/${content.digest}`, headers)
  /** Digests of the blobs that upstream was asked for, in that order. */
  const fetched = (): (string | undefined)[] =>
    upstream.log.of({ kind: 'blob', method: 'GET' }).map(({ ref }) => ref)
  /** Whatever was set in motion has begun by now, and come to its end. */
  const quiet = async (): Promise<void> => {
    for (let round = 0; round < 3; round += 1) {
      await pull(`${mirror.url}/v2/`)
      await settled(mirror)
    }
  }
  return { upstream, mirror, get, head, blob, fetched, quiet }
}

function digestsOf(contents: readonly Content[]): string[] {
  return contents.map(({ digest }) => digest)
}

test('when two cold layers have been asked for, the others follow', async (t) => {
  const app = image({ layers: SIX })
  const { upstream, get, blob, fetched, mirror } = await setUp(t, app)
  await get('manifests/1')
  for (const layer of app.layers.slice(0, 2)) t.equal((await blob(layer)).status, 200)
  await eventually('all of it is asked for', () => fetched().length === 7)
  t.same(new Set(fetched()), new Set(digestsOf(app.blobs)), 'each once')
  await settled(mirror)
  await upstream.stop()
  for (const content of app.blobs) {
    const pulled = await blob(content)
    t.equal(pulled.cache, 'hit')
    t.ok(isWhole(pulled, content))
  }
})

test('a manifest by digest, or from the cache, is as good as one by tag', async (t) => {
  const app = image({ layers: SIX })
  const { upstream, get, mirror } = await setUp(t, app, { cache: { prefetch: 'off' } })
  await eventually('it is kept', async () => (await get('manifests/1')).cache === 'hit')
  await mirror.close()
  upstream.log.clear()
  const again = await startMirror(t, upstream, { root: mirror.root })
  const base = `${again.url}/v2/library/app`
  t.equal((await pull(`${base}/manifests/${app.manifest.digest}`)).cache, 'hit')
  // What containerd 2.1 sends for a whole blob.
  for (const { digest } of app.layers.slice(4)) await pull(`${base}/blobs/${digest}`, { range: 'bytes=0-' })
  await eventually('all of it is here', async () => {
    await settled(again)
    return upstream.log.count({ kind: 'blob', method: 'GET' }) === 7
  })
})

test('one layer tells nothing, however often it is asked for', async (t) => {
  const app = image({ layers: SIX })
  const { get, blob, fetched, quiet } = await setUp(t, app)
  await get('manifests/1')
  await Promise.all([blob(app.layers[0]!), blob(app.layers[0]!), blob(app.layers[0]!)])
  await quiet()
  t.equal((await blob(app.layers[0]!)).cache, 'hit')
  t.same(new Set(fetched()), new Set([app.config.digest, app.layers[0]!.digest]))
})

test('layers that are here tell nothing', async (t) => {
  const app = image({ layers: SIX })
  const { get, blob, fetched, quiet } = await setUp(t, app)
  // Without their manifest nothing follows them.
  for (const layer of app.layers.slice(0, 3)) await blob(layer)
  await quiet()
  await get('manifests/1')
  for (const layer of app.layers.slice(0, 3)) t.equal((await blob(layer)).cache, 'hit')
  await blob(app.layers[3]!)
  await quiet()
  t.same(new Set(fetched()), new Set(digestsOf([app.config, ...app.layers.slice(0, 4)])))
  await blob(app.layers[4]!)
  await eventually('the last one follows', () => fetched().includes(app.layers[5]!.digest))
})

test('parts set nothing in motion', async (t) => {
  const app = image({ layers: SIX })
  const { get, blob, fetched, quiet } = await setUp(t, app)
  await get('manifests/1')
  for (const range of ['bytes=10-20', 'bytes=500-', 'bytes=-10', 'bytes=0-1,5-6']) {
    for (const layer of app.layers.slice(0, 3)) t.equal((await blob(layer, { range })).status, 206, range)
  }
  await quiet()
  const asked = new Set(fetched())
  for (const layer of app.layers.slice(3)) t.notOk(asked.has(layer.digest))
})

test('HEAD sets nothing in motion', async (t) => {
  const app = image({ layers: SIX })
  const { head, get, upstream, quiet, fetched } = await setUp(t, app)
  await head('manifests/1')
  await head(`manifests/${app.manifest.digest}`)
  await quiet()
  t.equal(upstream.log.count('blob'), 0, 'not even the config')
  await get('manifests/1')
  for (const { digest } of app.layers) t.equal((await head(`blobs/${digest}`)).status, 200)
  await quiet()
  t.same(fetched(), [app.config.digest])
})

test('an index sets nothing in motion', async (t) => {
  const amd64 = image({ layers: SIX, seed: 'amd64' })
  const both = index({ images: { amd64, arm64: image({ layers: SIX, seed: 'arm64' }) } })
  const { get, upstream, quiet, fetched } = await setUp(t, both)
  await get('manifests/1')
  await quiet()
  t.equal(upstream.log.count('blob'), 0)
  t.equal(upstream.log.count('manifest'), 1, 'nor are its children fetched')
  await get(`manifests/${amd64.manifest.digest}`)
  await quiet()
  t.same(fetched(), [amd64.config.digest], 'the config follows the manifest of the platform')
})

for (const [mode, ahead] of [
  ['layers', 7],
  ['config', 4],
  ['off', 3],
] as const) {
  test(`prefetch: ${mode}`, async (t) => {
    const app = image({ layers: SIX })
    const { get, blob, fetched, quiet } = await setUp(t, app, { cache: { prefetch: mode } })
    await get('manifests/1')
    for (const layer of app.layers.slice(0, 3)) await blob(layer)
    await quiet()
    t.equal(fetched().length, ahead)
    t.equal(fetched().includes(app.config.digest), mode !== 'off')
  })
}

test('layers that registries do not hold are never fetched ahead', async (t) => {
  const app = image({
    layers: [
      100,
      200,
      { size: 300, seed: 'urls', urls: ['https://elsewhere.example/layer'] },
      { size: 400, seed: 'foreign', mediaType: 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip' },
      500,
    ],
  })
  const { get, blob, fetched, quiet } = await setUp(t, app)
  await get('manifests/1')
  await blob(app.layers[0]!)
  await blob(app.layers[1]!)
  await quiet()
  t.same(new Set(fetched()), new Set(digestsOf([app.config, ...[0, 1, 4].map((at) => app.layers[at]!)])))
})

test('what was fetched ahead is joined by whoever asks for it meanwhile', async (t) => {
  const app = image({ layers: [1000, 2000, 3_000_000] })
  const { upstream, get, blob, fetched } = await setUp(t, app, { hub: { bytesPerSecond: 2_000_000 } })
  await get('manifests/1')
  await blob(app.layers[0]!)
  await blob(app.layers[1]!)
  const last = app.layers[2]!
  await upstream.log.until((log) => log.bytesSent({ kind: 'blob', ref: last.digest }) > 0)
  const pulled = await blob(last)
  t.equal(pulled.cache, 'join')
  t.ok(isWhole(pulled, last))
  t.equal(fetched().filter((ref) => ref === last.digest).length, 1)
})

test('a layer that a client asks for does not queue behind what is fetched ahead', async (t) => {
  const size = 1_000_000
  const app = image({ layers: [10, 20, size, size, size, size, size] })
  // Two transfers at a time.
  const { upstream, get, blob, quiet } = await setUp(t, app, { upstream: { maxConnections: 4 } })
  const bytesOf = (layer: Content): number => upstream.log.bytesSent({ kind: 'blob', ref: layer.digest })
  const countOf = (layer: Content): number => upstream.log.count({ kind: 'blob', ref: layer.digest })
  const [first, second, third, fourth, fifth, sixth, seventh] = app.layers as unknown as [
    Content,
    Content,
    Content,
    Content,
    Content,
    Content,
    Content,
  ]
  // At this pace either takes a minute, unless it is interrupted and asked for again.
  for (const { digest } of [third, fourth]) {
    upstream.fault({ kind: 'blob', ref: digest, times: 1 }, { bytesPerSecond: size / 60 })
  }
  await get('manifests/1')
  await blob(first)
  await blob(second)
  await upstream.log.until(() => bytesOf(third) > 0 && bytesOf(fourth) > 0)
  t.equal(countOf(seventh), 0, 'it waits its turn')

  const asked = [blob(seventh), blob(sixth)]
  await upstream.log.until(() => countOf(seventh) === 1 && countOf(sixth) === 1)
  t.equal(countOf(fifth), 0, 'what was before them in the queue still waits')
  t.ok(bytesOf(third) < size && bytesOf(fourth) < size, 'and those that were running gave way')
  for (const [at, pulled] of (await Promise.all(asked)).entries()) {
    t.ok(isWhole(pulled, at === 0 ? seventh : sixth))
  }
  await quiet()
  for (const layer of [third, fourth, fifth]) {
    const pulled = await blob(layer)
    t.equal(pulled.cache, 'hit', 'and came to their end afterwards')
    t.ok(isWhole(pulled, layer))
  }
  t.ok(upstream.log.maxConcurrent('blob') <= 4)
})

test('however much is asked for and fetched ahead, upstream has no more than maxConnections', async (t) => {
  const upstream = await simulate(t, { cdn: {}, bytesPerSecond: 2_000_000 })
  const apps = ['a', 'b', 'c'].map((seed) =>
    image({ layers: Array.from({ length: 8 }, () => 100_000).map((size, at) => size + at), seed }),
  )
  for (const [at, app] of apps.entries()) upstream.addImage(`library/app${at}`, '1', app)
  const mirror = await startMirror(t, upstream, { upstream: { maxConnections: 3 } })
  await Promise.all(
    apps.map(async (app, at) => {
      const base = `${mirror.url}/v2/library/app${at}`
      await pull(`${base}/manifests/1`)
      // As dockerd does: three at a time.
      const waiting = [...app.layers]
      await Promise.all(
        [1, 2, 3].map(async () => {
          for (let layer = waiting.shift(); layer !== undefined; layer = waiting.shift()) {
            const pulled = await pull(`${base}/blobs/${layer.digest}`)
            t.ok(isWhole(pulled, layer))
          }
        }),
      )
    }),
  )
  await settled(mirror)
  t.equal(upstream.log.count('cdn'), 27, 'each blob once')
  for (const listener of ['registry', 'cdn'] as const) {
    const marks = upstream.log
      .of({ listener })
      .flatMap(({ startedAt, endedAt }) => [
        { at: startedAt, step: 1 },
        { at: endedAt ?? Number.POSITIVE_INFINITY, step: -1 },
      ])
      .sort((one, other) => one.at - other.at || one.step - other.step)
    let open = 0
    let most = 0
    for (const { step } of marks) most = Math.max(most, (open += step))
    t.ok(most <= 3, `${listener}: ${String(most)}`)
  }
})

test('a fetch-ahead that failed is tried again with the next pull', async (t) => {
  const clock = { now: 1_700_000_000_000 }
  const app = image({ layers: SIX })
  const { upstream, get, blob, fetched, quiet } = await setUp(t, app, { now: () => clock.now })
  const late = new Set(digestsOf(app.layers.slice(2)))
  const fault = upstream.fault({ kind: 'blob', when: ({ ref }) => late.has(ref ?? '') }, { status: 404 })
  await get('manifests/1')
  await blob(app.layers[0]!)
  await blob(app.layers[1]!)
  await quiet()
  fault.remove()
  upstream.log.clear()
  clock.now += 60_001

  await get('manifests/1')
  await blob(app.layers[2]!)
  await blob(app.layers[3]!)
  await eventually('the others follow', () => fetched().length === 4)
})

test('the client that asked leaves; what was set in motion goes on', async (t) => {
  const app = image({ layers: [600_000, 700_000, 800_000] })
  const { mirror, get, blob, fetched, upstream } = await setUp(t, app, { hub: { bytesPerSecond: 2_000_000 } })
  await get('manifests/1')
  const url = (at: number): string => `${mirror.url}/v2/library/app/blobs/${app.layers[at]!.digest}`
  await Promise.all([pullSome(url(0), 1), pullSome(url(1), 1)])
  await upstream.log.until(() => fetched().length === 4)
  await settled(mirror)
  for (const layer of app.layers) t.equal((await blob(layer)).cache, 'hit')
})
