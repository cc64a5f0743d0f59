/** Whose the bytes are, and in which order they were pulled, as the index tells it. */
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { parseManifest } from '../../../../src/oci/manifest.ts'
import { parseRepositoryName, parseTag } from '../../../../src/oci/reference.ts'
import type { ColdPlace } from '../../../../src/storage/metadata/eviction-index.ts'
import {
  LOCAL,
  type MetadataStore,
  type MetadataTransaction,
  type RepositoryKey,
} from '../../../../src/storage/metadata/metadata.ts'
import { openMetadata } from '../../../../src/storage/metadata/sqlite/open.ts'
import { image, index, type Image } from '../../../support/images.ts'
import '../../../support/folders-last.ts'

const HUB: RepositoryKey = { registry: 'docker.io', name: parseRepositoryName('library/app') }
const QUAY: RepositoryKey = { registry: 'quay.io', name: parseRepositoryName('team/app') }
const OWN: RepositoryKey = { registry: LOCAL, name: parseRepositoryName('team/own') }

const amd64 = image({ layers: [100, 200], seed: 'amd64' })
const both = index({ images: { amd64, arm64: image({ layers: [300], seed: 'arm64' }) } })
const [layer] = amd64.layers as [(typeof amd64.layers)[0]]

async function openIndex(t: Test): Promise<MetadataStore> {
  const metadata = await openMetadata(join(t.testdir(), 'metadata.sqlite'))
  t.teardown(() => metadata.close())
  return metadata
}

function putImage(
  tx: MetadataTransaction,
  key: RepositoryKey,
  { manifests, blobs }: Image,
  at: number,
): void {
  tx.putRepository(key, at)
  for (const { digest, bytes } of blobs) {
    if (key.registry !== LOCAL) tx.recordDelivery(key.registry, digest, bytes.length, at)
    tx.linkBlob(key, digest, bytes.length, at)
  }
  for (const { digest, bytes, mediaType } of manifests) {
    if (key.registry !== LOCAL) tx.recordDelivery(key.registry, digest, bytes.length, at)
    tx.putManifest(key, digest, bytes.length, parseManifest(bytes, mediaType), at)
  }
}

function sizeOf({ manifests, blobs }: Image): number {
  return [...manifests, ...blobs].reduce((sum, { bytes }) => sum + bytes.length, 0)
}

test('bytes are reckoned to who gave them first, and to nobody once they were pushed', async (t) => {
  const metadata = await openIndex(t)
  const stored = async (): Promise<[Record<string, number>, number]> => {
    const { mirrored, pushed } = await metadata.eviction.stored()
    return [Object.fromEntries(mirrored), pushed]
  }
  t.same(await stored(), [{}, 0])
  const all = sizeOf(amd64)
  await metadata.transaction((tx) => putImage(tx, QUAY, amd64, 2000))
  await metadata.transaction((tx) => putImage(tx, HUB, amd64, 3000))
  t.same(await stored(), [{ 'quay.io': all }, 0])

  await metadata.transaction((tx) => tx.linkBlob(OWN, layer.digest, 100, 4000))
  t.same(await stored(), [{ 'quay.io': all - 100 }, 100])
  t.equal(await metadata.eviction.mirrored(layer.digest), undefined)
  await metadata.transaction((tx) => tx.unlinkBlob(OWN, layer.digest))
  t.same(await stored(), [{ 'quay.io': all }, 0])
  await metadata.transaction((tx) => putImage(tx, OWN, amd64, 5000))
  t.same(await stored(), [{}, all])
  await metadata.transaction((tx) => tx.deleteManifest(OWN, amd64.manifest.digest, 6000))
  t.same(await stored(), [{ 'quay.io': amd64.manifest.bytes.length }, all - amd64.manifest.bytes.length])
  await metadata.transaction((tx) => tx.buryRepository(OWN, 7000))
  t.same(await stored(), [{ 'quay.io': all }, 0])

  const stray = image({ seed: 'stray' }).config
  await metadata.transaction((tx) => tx.recordBlob(stray.digest, 77, 8000))
  t.same(await stored(), [{ 'quay.io': all, '': 77 }, 0])
  await metadata.transaction((tx) => tx.forgetBlob(stray.digest))
  t.same(await stored(), [{ 'quay.io': all }, 0])
})

test('images and what belongs to none come in the order of their pulls, in parts', async (t) => {
  const metadata = await openIndex(t)
  const { eviction } = metadata
  const many = Array.from({ length: 600 }, (_, at) => image({ layers: [], seed: `many ${at}` }).config)
  await metadata.transaction((tx) => {
    for (const [at, { digest, bytes }] of many.entries())
      tx.recordDelivery('quay.io', digest, bytes.length, at + 1)
    putImage(tx, HUB, both, 10_000)
    tx.putTag(HUB, {
      ...{ tag: parseTag('1'), digest: both.manifest.digest, size: 1, mediaType: 'x', checkedAt: 1 },
      deletedAt: undefined,
    })
  })
  await metadata.transaction((tx) => {
    tx.markPulled(many[0]!.digest, 20_000)
    tx.markPulled(many[1]!.digest, 1)
  })
  const found: string[] = []
  let parts = 0
  for (let after: ColdPlace | undefined; ;) {
    const part = await eviction.coldest(after)
    found.push(...part.found.map(({ digest }) => digest))
    parts += 1
    if (part.next === undefined) break
    after = part.next
  }
  t.ok(parts > 2)
  const expected = [...many.slice(1), both.manifest, many[0]!].map(({ digest }) => digest)
  t.same(found, expected, 'of an image its root alone, and what was pulled earlier does not count')
  const named = new Set(
    (await eviction.coldestParts({ pulledAt: 9_999, digest: '' as never })).found.map((it) => it.digest),
  )
  t.same(named, new Set(both.blobs.map(({ digest }) => digest)))

  t.same((await eviction.contents(both.manifest.digest, 'manifest')).length, 2)
  t.same(await eviction.referencedBy(layer.digest, { limit: 10 }), [amd64.manifest.digest])
  t.same(await eviction.referencedBy(amd64.manifest.digest, { limit: 10 }), [both.manifest.digest])
  t.same(await eviction.taggedManifests(both.manifest.digest, 0), [
    { repository: HUB, manifest: both.manifest.digest, tags: ['1'] },
  ])
})
