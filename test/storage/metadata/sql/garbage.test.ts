/** Lists of what nobody names: in parts, whole, and of local repositories alone. */
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { digestOf, type Digest } from '../../../../src/oci/digest.ts'
import { parseManifest } from '../../../../src/oci/manifest.ts'
import { parseRepositoryName } from '../../../../src/oci/reference.ts'
import {
  LOCAL,
  type GarbagePart,
  type GarbagePlace,
  type MetadataStore,
} from '../../../../src/storage/metadata/metadata.ts'
import { openMetadata } from '../../../../src/storage/metadata/sqlite/open.ts'
import { image } from '../../../support/images.ts'
import '../../../support/folders-last.ts'

const AT = 1_700_000_000_000
const key = (registry: string, name: string) => ({ registry, name: parseRepositoryName(name) })

async function open(t: Test): Promise<MetadataStore> {
  const metadata = await openMetadata(join(t.testdir(), 'metadata.sqlite'))
  t.teardown(() => metadata.close())
  return metadata
}

async function all(list: (from?: GarbagePlace) => Promise<GarbagePart>): Promise<string[]> {
  const told: string[] = []
  for (let from: GarbagePlace | undefined; ;) {
    const { found, next } = await list(from)
    told.push(...found.map(({ repository, digest }) => `${repository.registry}/${repository.name}@${digest}`))
    if (next === undefined) return told
    from = next
  }
}

test('links and bytes come in parts, each once, and all of them', async (t) => {
  const metadata = await open(t)
  const digests = Array.from({ length: 2_500 }, (_, at) => digestOf(Buffer.from(`blob ${at}`))).sort()
  const names = ['team/a', 'team/b']
  await metadata.transaction((tx) => {
    for (const name of names) {
      tx.putRepository(key(LOCAL, name), AT)
      for (const digest of digests) tx.linkBlob(key(LOCAL, name), digest, 1, AT)
    }
  })
  const links = await all((from) => metadata.garbage.links(AT, from))
  t.same(
    links.sort(),
    names.flatMap((name) => digests.map((digest) => `local/${name}@${digest}`)),
  )
  t.same(await all((from) => metadata.garbage.links(AT - 1, from)), [], 'none is too young')
  t.same((await metadata.garbage.blobs(AT)).found, [], 'they hold the bytes')

  await metadata.transaction((tx) => {
    for (const name of names) tx.releaseRepository(key(LOCAL, name))
  })
  const blobs: Digest[] = []
  for (let from: Digest | undefined; ;) {
    const { found, next } = await metadata.garbage.blobs(AT, from)
    blobs.push(...found.map(({ digest }) => digest))
    if (next === undefined) break
    from = next
  }
  t.same(blobs, digests)
  t.same((await metadata.garbage.blobs(AT - 1)).found, [], 'none is too young')
})

test('manifests that were let go come in parts, those that something names not at all', async (t) => {
  const metadata = await open(t)
  const images = Array.from({ length: 1_200 }, (_, seed) => image({ seed, layers: [] }).manifest)
  const repository = key(LOCAL, 'team/a')
  await metadata.transaction((tx) => {
    tx.putRepository(repository, AT)
    for (const [at, { digest, bytes, mediaType }] of images.entries()) {
      const size = bytes.length
      tx.putManifest(repository, digest, size, parseManifest(bytes, mediaType), AT)
      const tags = [`t${at}`, ...(at % 2 === 0 ? [`keep${at}`] : [])] as never[]
      for (const tag of tags) {
        tx.putTag(repository, { tag, digest, size, mediaType, checkedAt: AT, deletedAt: undefined })
      }
      tx.deleteTag(repository, `t${at}` as never, AT)
    }
  })
  t.same(
    (await all((from) => metadata.garbage.manifests(AT, from))).sort(),
    images
      .filter((_, at) => at % 2 === 1)
      .map(({ digest }) => `local/team/a@${digest}`)
      .sort(),
  )
})

test('what was mirrored is never listed, whatever its registry is called', async (t) => {
  const metadata = await open(t)
  const { digest, bytes, mediaType } = image().manifest
  const blob = digestOf(Buffer.from('blob'))
  await metadata.transaction((tx) => {
    for (const registry of ['docker.io', 'local-mirror', 'local.example', 'local0', 'localhost', 'zoo']) {
      const repository = key(registry, 'team/a')
      tx.putRepository(repository, AT)
      tx.linkBlob(repository, blob, 1, AT)
      tx.putManifest(repository, digest, bytes.length, parseManifest(bytes, mediaType), AT)
      const tag = 'gone' as never
      tx.putTag(repository, { tag, digest, size: 1, mediaType, checkedAt: AT, deletedAt: undefined })
      tx.deleteTag(repository, tag, AT)
    }
  })
  t.same(await all((from) => metadata.garbage.links(AT, from)), [])
  t.same(await all((from) => metadata.garbage.manifests(AT, from)), [])
  t.same((await metadata.garbage.blobs(AT)).found, [])
})
