/** A manifest that is asked for as a blob, as registries give it out: never a blob here. */
import { test } from 'tap'
import { MEDIA_TYPES } from '../../../src/oci/descriptor.ts'
import { isWhole, pull, settled, startMirror } from '../../support/app.ts'
import { content, image, index, type Content } from '../../support/images.ts'
import { codeOf, startTwoUpstreams } from '../../support/two-upstreams.ts'
import type { UpstreamSimulator } from '../../support/upstream.ts'
import { FaultyFiles } from '../../support/faulty-files.ts'

const REPO = 'library/app'
const CHILD = image({ layers: [1000, 300_000], seed: 'disguised' })
const BOTH = index({ images: { amd64: CHILD, arm64: image({ seed: 'disguised, too' }) } })
const LARGE = image({ pad: 200_000, seed: 'disguised and large' })
const SIGNATURE = image({
  subject: BOTH.manifest,
  artifactType: 'application/vnd.example',
  seed: 'signature',
})
const ALL: readonly Content[] = [...BOTH.manifests, LARGE.manifest, SIGNATURE.manifest]

/** As distribution does it. */
function hold(upstream: UpstreamSimulator): void {
  upstream.addImage(REPO, '1', BOTH)
  upstream.addImage(REPO, 'large', LARGE)
  upstream.addImage(REPO, 'signature', SIGNATURE)
  for (const manifest of ALL) upstream.addBlob(REPO, manifest)
}

test('a manifest asked for as a blob: cold, hot, named by an index, offline and after a restart', async (t) => {
  const { hub, mirror, get, head } = await startTwoUpstreams(t, { cache: { prefetch: 'off' } })
  hold(hub)
  const assertNone = async (when: string): Promise<void> => {
    for (const { digest, bytes } of ALL) {
      const path = `${REPO}/blobs/${digest}`
      t.equal((await head(path)).status, 404, `${when}: HEAD, ${bytes.length} bytes`)
      const got = await get(path)
      t.same([got.status, codeOf(got)], [404, 'BLOB_UNKNOWN'], `${when}: GET`)
      t.equal((await get(path, { range: 'bytes=0-9' })).status, 404, `${when}: a part`)
    }
  }
  await assertNone('cold')
  await settled(mirror)
  await assertNone('its bytes are here')
  t.equal((await get(`${REPO}/manifests/1`)).status, 200)
  await assertNone('the index was pulled')
  for (const { digest } of ALL) t.equal((await get(`${REPO}/manifests/${digest}`)).status, 200)
  await settled(mirror)
  await assertNone('hot')
  await hub.stop()
  await assertNone('offline')
  await mirror.close()
  const again = await startMirror(t, hub, { root: mirror.root })
  for (const { digest } of ALL) {
    t.equal((await pull(`${again.url}/v2/${REPO}/blobs/${digest}`, {}, 'HEAD')).status, 404, 'restarted')
    t.equal((await pull(`${again.url}/v2/${REPO}/blobs/${digest}`)).status, 404, 'restarted')
  }
})

test('blobs of JSON that no manifest here names stay blobs', async (t) => {
  const { hub, get, head } = await startTwoUpstreams(t)
  hold(hub)
  const texts = ['{}', '{"config":{"Labels":{}}}', '{"layers":[]}', '{', '{"schemaVersion":2}', ' {}', '']
  for (const text of [...texts, `{"x":"${'y'.repeat(100_000)}"}`]) {
    const blob = content('application/json', Buffer.from(text))
    hub.addBlob(REPO, blob)
    for (const round of ['cold', 'hot']) {
      t.equal((await head(`${REPO}/blobs/${blob.digest}`)).status, 200, `${round}: ${text.slice(0, 40)}`)
      const got = await get(`${REPO}/blobs/${blob.digest}`)
      t.ok(got.status === 200 && isWhole(got, blob), `${round}: ${text.slice(0, 40)}`)
    }
  }
  t.ok(isWhole(await get(`${REPO}/blobs/${CHILD.config.digest}`), CHILD.config))
})

test('layers that an index lists as its manifests, and layers that are manifests, are blobs', async (t) => {
  const { hub, get, head } = await startTwoUpstreams(t, { cache: { prefetch: 'off' } })
  hold(hub)
  const cached = index({ images: { a: CHILD } })
  const [small, large] = CHILD.layers as [Content, Content]
  const listed = [small, large].map(({ digest, bytes, mediaType }) => ({
    digest,
    size: bytes.length,
    mediaType,
  }))
  const cache = content(
    MEDIA_TYPES.ociIndex,
    Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests: listed })),
  )
  const packed = image({ seed: 'packed' })
  const odd = JSON.parse(packed.manifest.bytes.toString()) as { layers: object[] }
  const inner = cached.manifest
  odd.layers = [{ mediaType: inner.mediaType, digest: inner.digest, size: inner.bytes.length }]
  const pack = content(packed.manifest.mediaType, Buffer.from(JSON.stringify(odd)))
  hub.holdings.addManifest(REPO, 'cache', cache)
  hub.holdings.addManifest(REPO, 'pack', pack)
  hub.addBlob(REPO, inner)
  for (const tag of ['cache', 'pack']) t.equal((await get(`${REPO}/manifests/${tag}`)).status, 200)
  for (const blob of [small, large, inner]) {
    t.equal((await head(`${REPO}/blobs/${blob.digest}`)).status, 200)
    const got = await get(`${REPO}/blobs/${blob.digest}`)
    t.ok(got.status === 200 && isWhole(got, blob))
  }
})

test('a manifest asked for as a blob: by HEAD and in part, while another client asks for all of it', async (t) => {
  const { hub, get, head } = await startTwoUpstreams(t, { cache: { prefetch: 'off' } })
  hold(hub)
  hub.fault({ kind: 'blob', method: 'GET' }, { bytesPerSecond: 200_000 })
  const path = `${REPO}/blobs/${LARGE.manifest.digest}`
  const over = new AbortController()
  const whole = get(path).finally(() => over.abort())
  const part = get(path, { range: 'bytes=0-9' })
  while (!over.signal.aborted) t.equal((await head(path)).status, 404)
  t.same([(await whole).status, (await part).status], [404, 404])
})

for (const operation of ['create', 'write'] as const) {
  test(`a manifest asked for as a blob: past a disk that fails to ${operation}`, async (t) => {
    const disk = new FaultyFiles()
    const { hub, get, head } = await startTwoUpstreams(t, { cache: { prefetch: 'off' }, files: disk.files })
    hold(hub)
    disk.failing.set(operation, 'ENOSPC')
    for (const { digest, bytes } of ALL) {
      const path = `${REPO}/blobs/${digest}`
      for (const round of [1, 2]) {
        t.equal((await get(path)).status, 404, `${bytes.length} bytes, ${round}`)
        t.equal((await head(path)).status, 404)
        t.equal((await get(path, { range: 'bytes=0-9' })).status, 404)
      }
    }
    t.ok(isWhole(await get(`${REPO}/blobs/${CHILD.config.digest}`), CHILD.config))
  })
}
