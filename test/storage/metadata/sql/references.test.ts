/** What manifests reference, and by which a digest is referenced: in every repository, or in one. */
import { join } from 'node:path'
import { test } from 'tap'
import { parseManifest } from '../../../../src/oci/manifest.ts'
import { parseRepositoryName, parseTag } from '../../../../src/oci/reference.ts'
import { LOCAL, type RepositoryKey } from '../../../../src/storage/metadata/metadata.ts'
import { openMetadata } from '../../../../src/storage/metadata/sqlite/open.ts'
import { image, index } from '../../../support/images.ts'
import '../../../support/folders-last.ts'

const HUB: RepositoryKey = { registry: 'docker.io', name: parseRepositoryName('library/app') }
const OWN: RepositoryKey = { registry: LOCAL, name: parseRepositoryName('team/own') }

test('a digest is traced to the manifests that reference it, as far as asked', async (t) => {
  const metadata = await openMetadata(join(t.testdir(), 'metadata.sqlite'))
  t.teardown(() => metadata.close())
  const amd64 = image({ layers: [10, 20] })
  const both = index({ images: { amd64 } })
  const [top, child, layer] = [both.manifest.digest, amd64.manifest.digest, amd64.layers[1]!.digest]
  await metadata.transaction((tx) => {
    for (const key of [HUB, OWN]) {
      tx.putRepository(key, 1)
      for (const { digest, bytes, mediaType } of key === HUB ? both.manifests : amd64.manifests)
        tx.putManifest(key, digest, bytes.length, parseManifest(bytes, mediaType), 1)
    }
    const facts = { size: 1, mediaType: 'x', checkedAt: 1 }
    tx.putTag(HUB, { ...facts, tag: parseTag('1'), digest: top, deletedAt: undefined })
    tx.putTag(HUB, { ...facts, tag: parseTag('gone'), digest: top, deletedAt: 2 })
    tx.linkBlob(OWN, layer, 20, 1)
  })
  const graph = metadata.garbage
  t.same(
    (await graph.references(child)).map(({ role, digest }) => [role, digest]),
    [
      ['config', amd64.config.digest],
      ['layer', amd64.layers[0]!.digest],
      ['layer', layer],
    ],
  )

  t.same(await graph.referencedBy(layer, {}), [child], 'once, whatever number of repositories has it')
  t.same(await graph.referencedBy(layer, { role: 'manifest' }), [])
  t.same(await graph.referencedBy(layer, { limit: 0 }), [])
  t.same(await graph.referencedBy(child, { repository: HUB, role: 'manifest' }), [top])
  t.same(await graph.referencedBy(child, { repository: OWN }), [])

  const [root, inHub, inOwn] = [
    { repository: HUB, manifest: top, tags: ['1'] },
    { repository: HUB, manifest: child, tags: [] },
    { repository: OWN, manifest: child, tags: [] },
  ]
  t.same(await graph.taggedManifests(layer, 0), [], 'it is no manifest')
  t.same(await graph.taggedManifests(child, 0), [inHub, inOwn])
  t.same(new Set(await graph.taggedManifests(layer, 1)), new Set([inHub, inOwn]))
  t.same(new Set(await graph.taggedManifests(layer, 2)), new Set([root, inHub, inOwn]))
  t.equal((await graph.taggedManifests(layer, 2, 1)).length, 1)

  t.same(await graph.linkedIn(layer), [OWN])
  t.same(await graph.linkedIn(child), [])
})
