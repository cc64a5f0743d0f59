/** Manifests whose descriptors have no size, or a wrong one: as directly, the digest decides. */
import { test, type Test } from 'tap'
import { lookAtRest } from '../../support/at-rest.ts'
import { isWhole, pull, settled, simulate, startMirror, type Mirror } from '../../support/app.ts'
import { content, image, index, type Content, type Image } from '../../support/images.ts'
import type { UpstreamOptions, UpstreamSimulator } from '../../support/upstream.ts'
import { eventually, type MirrorOptions } from '../../support/app.ts'
import { FaultyFiles } from '../../support/faulty-files.ts'

const REPO = 'library/odd'
const PLAIN = image({ layers: [5, 300_000, 70_000], seed: 'odd sizes' })

/** The same with other sizes in its manifest. */
function withSizes(sizes: (size: number) => number | undefined): Image {
  const document = JSON.parse(PLAIN.manifest.bytes.toString()) as Record<string, unknown> & {
    config: { size: number }
    layers: { size: number }[]
  }
  const changed = (it: { size: number }): object => ({ ...it, size: sizes(it.size) })
  const { config, layers } = document
  const text = JSON.stringify({ ...document, config: changed(config), layers: layers.map(changed) })
  const manifest = content(PLAIN.manifest.mediaType, Buffer.from(text))
  return { ...PLAIN, manifest, manifests: [manifest] }
}

const ROWS: readonly (readonly [string, (size: number) => number | undefined])[] = [
  ['none', () => undefined],
  ['zero', () => 0],
  ['too small', (size) => size - 1],
  ['far too small', (size) => Math.ceil(size / 1000)],
  ['too large', (size) => size + 1],
  ['far too large', (size) => size * 1000],
]

async function begin(
  t: Test,
  held: Image,
  options: UpstreamOptions = {},
  mirrored: MirrorOptions = {},
): Promise<{ upstream: UpstreamSimulator; mirror: Mirror; base: string }> {
  const upstream = await simulate(t, options)
  upstream.addImage(REPO, '1', held)
  const mirror = await startMirror(t, upstream, mirrored)
  return { upstream, mirror, base: `${mirror.url}/v2/${REPO}` }
}

async function assertPulls(t: Test, base: string, held: Image, cache?: string): Promise<void> {
  const manifest = await pull(`${base}/manifests/1`)
  t.ok(manifest.body.equals(held.manifest.bytes), 'the manifest, verbatim')
  for (const blob of held.blobs) {
    const pulled = await pull(`${base}/blobs/${blob.digest}`)
    t.match(pulled, { status: 200, broken: undefined, ...(cache === undefined ? {} : { cache }) })
    t.ok(isWhole(pulled, blob), `${blob.bytes.length} bytes`)
  }
}

for (const [name, sizes] of ROWS) {
  test(`descriptors with a size that is ${name}: the image comes whole, and stays`, async (t) => {
    const held = withSizes(sizes)
    const { upstream, mirror, base } = await begin(t, held)
    await assertPulls(t, base, held)
    await settled(mirror)
    await assertPulls(t, base, held, 'hit')
    for (const { digest, bytes } of held.blobs) {
      const head = await pull(`${base}/blobs/${digest}`, {}, 'HEAD')
      t.equal(head.headers['content-length'], String(bytes.length), 'of what is here')
    }
    await mirror.close()
    await upstream.stop()
    const again = await startMirror(t, upstream, { root: mirror.root })
    await assertPulls(t, `${again.url}/v2/${REPO}`, held, 'hit')
    await again.close()
    const contents = new Map([held.manifest, ...held.blobs].map((it) => [String(it.digest), it]))
    t.same(lookAtRest(mirror.root, contents).faults, [])
  })

  test(`descriptors with a size that is ${name}: parts, a CDN, cuts and Range`, async (t) => {
    const held = withSizes(sizes)
    const { upstream, base } = await begin(t, held, { cdn: {} })
    upstream.fault({ kind: 'cdn', every: 2 }, { dropAfterBytes: 40_000 })
    t.equal((await pull(`${base}/manifests/1`)).status, 200)
    const [, large] = held.layers as [Content, Content, Content]
    const part = await pull(`${base}/blobs/${large.digest}`, { range: 'bytes=100-199' })
    t.same([part.status, part.body.equals(large.bytes.subarray(100, 200))], [206, true])
    await assertPulls(t, base, held)
  })

  test(`descriptors with a size that is ${name}: what came by another name is read offline, too`, async (t) => {
    const held = withSizes(sizes)
    const { upstream, mirror, base } = await begin(t, held, {}, { cache: { prefetch: 'off' } })
    const other = `${mirror.url}/v2/library/other`
    upstream.addImage('library/other', '1', PLAIN)
    await assertPulls(t, other, PLAIN)
    await settled(mirror)
    t.equal((await pull(`${base}/manifests/1`)).status, 200)
    await eventually('it is kept', async () => (await pull(`${base}/manifests/1`)).cache === 'hit')
    await upstream.stop()
    for (const { digest, bytes } of held.blobs) {
      const head = await pull(`${base}/blobs/${digest}`, {}, 'HEAD')
      t.same([head.status, head.headers['content-length']], [200, String(bytes.length)])
    }
    await assertPulls(t, base, held, 'hit')
  })

  for (const operation of ['create', 'write'] as const) {
    test(`descriptors with a size that is ${name}: past a disk that fails to ${operation}`, async (t) => {
      const held = withSizes(sizes)
      const disk = new FaultyFiles()
      const cache = { prefetch: 'off' }
      const { upstream, mirror, base } = await begin(t, held, {}, { files: disk.files, cache })
      t.equal((await pull(`${base}/manifests/1`)).status, 200)
      await eventually('it is kept', async () => (await pull(`${base}/manifests/1`)).cache === 'hit')
      disk.failing.set(operation, 'ENOSPC')
      for (const noContentLength of operation === 'create' ? [false, true] : [false]) {
        upstream.fault({ kind: 'blob', method: 'GET' }, { noContentLength })
        await assertPulls(t, base, held)
        for (const { digest, bytes } of held.layers) {
          const part = await pull(`${base}/blobs/${digest}`, { range: 'bytes=1-3' })
          t.same([part.status, part.body.equals(bytes.subarray(1, 4))], [206, true])
        }
      }
      await settled(mirror)
    })
  }
}

test('descriptors with a wrong size: bytes that are not the digest are still refused', async (t) => {
  const held = withSizes((size) => size + 1)
  const { upstream, mirror, base } = await begin(t, held)
  upstream.fault({ kind: 'blob' }, { corrupt: 'tail' })
  t.equal((await pull(`${base}/manifests/1`)).status, 200)
  for (const { digest, bytes } of held.layers) {
    const pulled = await pull(`${base}/blobs/${digest}`)
    t.notOk(pulled.body.equals(bytes))
    t.equal(pulled.status, 502)
  }
  await settled(mirror)
})

test('descriptors without a size: a HEAD asks upstream, of blobs and of the manifests of an index', async (t) => {
  const child = withSizes(() => undefined)
  const whole = index({ images: { amd64: child } })
  const document = JSON.parse(whole.manifest.bytes.toString()) as { manifests: object[] }
  const manifests = document.manifests.map((it) => ({ ...it, size: undefined }))
  const top = content(whole.manifest.mediaType, Buffer.from(JSON.stringify({ ...document, manifests })))
  const { base } = await begin(t, { ...whole, manifest: top, manifests: [child.manifest, top] })
  const head = (path: string) => pull(`${base}/${path}`, {}, 'HEAD')
  t.ok((await pull(`${base}/manifests/1`)).body.equals(top.bytes))
  const { digest, bytes } = child.manifest
  t.equal((await head(`manifests/${digest}`)).headers['content-length'], String(bytes.length))
  t.ok((await pull(`${base}/manifests/${digest}`)).body.equals(bytes))
  for (const blob of child.blobs) {
    t.equal((await head(`blobs/${blob.digest}`)).headers['content-length'], String(blob.bytes.length))
  }
})
