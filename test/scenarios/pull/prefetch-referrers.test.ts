/** Fetch-ahead of attestations and referrers: what sets it in motion, what does not, and where it ends. */
import { test, type Test } from 'tap'
import {
  ownFolder,
  pull,
  settled,
  simulate,
  startMirror,
  type MirrorOptions,
  type Pulled,
} from '../../support/app.ts'
import {
  artifact,
  attestedIndex,
  bundleOf,
  fallbackIndex,
  fallbackTag,
  sbomOf,
  SPDX,
} from '../../support/artifacts.ts'
import { image, type Content, type Image } from '../../support/images.ts'
import type { UpstreamOptions } from '../../support/upstream.ts'

const AMD64 = image({ layers: [2_000, 1_000], seed: 'amd64' })
const ARM64 = image({ layers: [1_000], architecture: 'arm64', seed: 'arm64' })
const APP = attestedIndex({ amd64: AMD64, arm64: ARM64 })
const [ATTESTATION, OTHER] = APP.attestations as [Image, Image]
const SIGNATURE = bundleOf(ATTESTATION.manifest)
const SBOM = sbomOf(AMD64.manifest)

async function setUp(
  t: Test,
  { hub = {}, ...options }: MirrorOptions & { hub?: UpstreamOptions } = {},
  referrers: readonly Image[] = [SIGNATURE, SBOM],
) {
  const upstream = await simulate(t, hub)
  upstream.addImage('library/app', '1', APP)
  for (const it of referrers) upstream.addImage('library/app', undefined, it)
  const mirror = await startMirror(t, upstream, options)
  const get = (path: string, repository = 'library/app'): Promise<Pulled> =>
    pull(`${mirror.url}/v2/${repository}/${path}`)
  /** As containerd pulls: nothing but the image. */
  const pullImage = async (repository = 'library/app'): Promise<void> => {
    for (const path of [
      'manifests/1',
      ...[APP, AMD64].map(({ manifest }) => `manifests/${manifest.digest}`),
    ]) {
      t.equal((await get(path, repository)).status, 200, path)
    }
    for (const { digest } of AMD64.blobs) t.equal((await get(`blobs/${digest}`, repository)).status, 200)
    await settled(mirror)
  }
  const count = (subject: Content, kind: 'referrers' | 'manifest' | 'blob'): number =>
    upstream.log.count({ kind, ref: subject.digest })
  return { upstream, mirror, get, pullImage, count }
}

test('with the platform that is pulled come its attestation, and what refers to all of them', async (t) => {
  const { upstream, get, pullImage, count } = await setUp(t)
  await pullImage()
  for (const subject of [ATTESTATION, AMD64, APP]) t.equal(count(subject.manifest, 'referrers'), 1)
  for (const it of [OTHER, ARM64]) {
    t.equal(upstream.log.count({ ref: it.manifest.digest }), 0, 'nothing of another platform')
  }
  for (const { manifest, blobs } of [ATTESTATION, SIGNATURE, SBOM]) {
    t.equal(count(manifest, 'manifest'), 1)
    for (const blob of blobs) t.equal(count(blob, 'blob'), 1)
  }
  const asked = upstream.log.count()
  await pullImage()
  t.equal(upstream.log.count(), asked, 'once')
  await upstream.stop()
  for (const { manifest, blobs } of [ATTESTATION, SIGNATURE, SBOM]) {
    t.equal((await get(`manifests/${manifest.digest}`)).cache, 'hit')
    for (const { digest } of blobs) t.equal((await get(`blobs/${digest}`)).cache, 'hit')
    t.equal((await get(`referrers/${AMD64.manifest.digest}`)).cache, 'hit')
  }
})

test('an index, or a manifest alone, brings no referrers', async (t) => {
  const { mirror, upstream, get } = await setUp(t)
  await get('manifests/1')
  await get(`manifests/${ARM64.manifest.digest}`)
  await settled(mirror)
  t.equal(upstream.log.count({ kind: 'referrers', ref: APP.manifest.digest }), 0)
  t.equal(upstream.log.count({ kind: 'referrers', ref: ARM64.manifest.digest }), 0)
  t.equal(upstream.log.count({ kind: 'referrers', ref: OTHER.manifest.digest }), 1, 'but of its attestation')
})

test('what refers to an image is asked for also where its layers came under another name', async (t) => {
  const { upstream, pullImage } = await setUp(t)
  await pullImage()
  upstream.addImage('team/app', '1', APP)
  upstream.addImage('team/app', undefined, SBOM)
  const of = { kind: 'referrers', repo: 'team/app', ref: AMD64.manifest.digest } as const
  await pullImage('team/app')
  t.equal(upstream.log.count(of), 1)
  t.equal(upstream.log.count({ kind: 'manifest', repo: 'team/app', ref: SBOM.manifest.digest }) > 0, true)
})

for (const prefetch of ['config', 'off'] as const) {
  test(`prefetch: ${prefetch}: ${prefetch === 'off' ? 'nothing' : 'only attestations'}`, async (t) => {
    const { pullImage, count } = await setUp(t, { cache: { prefetch } })
    await pullImage()
    const once = prefetch === 'off' ? 0 : 1
    t.equal(count(ATTESTATION.manifest, 'manifest'), once)
    t.equal(count(ATTESTATION.manifest, 'referrers'), once)
    t.equal(count(ATTESTATION.config, 'blob'), 0)
    t.equal(count(AMD64.manifest, 'referrers'), 0)
  })
}

test('without a referrers API the tag that clients keep instead is followed', async (t) => {
  const { upstream, get, pullImage } = await setUp(t, { hub: { referrers: 'unsupported' } })
  const index = fallbackIndex([SBOM])
  const tag = fallbackTag(AMD64.manifest)
  upstream.addImage('library/app', tag, { ...SBOM, manifest: index, manifests: [...SBOM.manifests, index] })
  await pullImage()
  await upstream.stop()
  t.equal((await get(`referrers/${AMD64.manifest.digest}`)).status, 404)
  const found = await get(`manifests/${tag}`)
  t.equal(found.status, 200)
  t.ok(found.body.equals(index.bytes))
  t.equal((await get(`manifests/${SBOM.manifest.digest}`)).cache, 'hit')
})

test('no pull is spent on it where pulls are to be spared', async (t) => {
  const { upstream, pullImage, count } = await setUp(t, {
    hub: { rateLimit: { limit: 20 } },
    upstream: { reserve: 19 },
  })
  await pullImage()
  for (const { manifest } of [ATTESTATION, SIGNATURE, SBOM]) t.equal(count(manifest, 'manifest'), 0)
  t.equal(upstream.log.count({ kind: 'manifest', method: 'GET' }), 2, 'index and platform')
  t.equal(count(AMD64.manifest, 'referrers'), 1, 'a question costs none')
})

test('of many referrers some are brought, and of large ones so many bytes', async (t) => {
  const many = Array.from({ length: 40 }, (_, at) =>
    artifact({ artifactType: SPDX, layerType: SPDX, subject: AMD64.manifest, seed: `many ${String(at)}` }),
  )
  const large = Array.from({ length: 3 }, (_, at) =>
    artifact({
      ...{ artifactType: SPDX, layerType: SPDX, subject: APP.manifest, seed: `large ${String(at)}` },
      size: 20 * 1024 * 1024,
    }),
  )
  const { pullImage, count } = await setUp(t, {}, [...many, ...large])
  await pullImage()
  t.equal(many.filter(({ manifest }) => count(manifest, 'manifest') > 0).length, 16)
  t.equal(large.filter(({ layers }) => count(layers[0]!, 'blob') > 0).length, 1)
})

test('where pulls are counted few of them are spent ahead, and none of the last half', async (t) => {
  const many = Array.from({ length: 10 }, (_, at) =>
    artifact({ artifactType: SPDX, layerType: SPDX, subject: AMD64.manifest, seed: `many ${String(at)}` }),
  )
  for (const [limit, brought] of [
    [1_000, 4],
    [9, 1],
  ] as const) {
    const { pullImage, count } = await setUp(t, { hub: { rateLimit: { limit } } }, many)
    await pullImage()
    t.equal(count(ATTESTATION.manifest, 'manifest'), 1, 'what Docker needs comes')
    t.equal(many.filter(({ manifest }) => count(manifest, 'manifest') > 0).length, brought)
  }
})

test('what an index said before a restart is not forgotten', async (t) => {
  const root = ownFolder(t)
  const first = await setUp(t, { root })
  await first.get('manifests/1')
  await settled(first.mirror)
  await first.mirror.close()
  const mirror = await startMirror(t, first.upstream, { root })
  const get = (path: string): Promise<Pulled> => pull(`${mirror.url}/v2/library/app/${path}`)
  t.equal((await get(`manifests/${AMD64.manifest.digest}`)).status, 200)
  await settled(mirror)
  t.equal(first.count(ATTESTATION.manifest, 'manifest'), 1)
  t.equal(first.count(ATTESTATION.manifest, 'referrers'), 1)
})
