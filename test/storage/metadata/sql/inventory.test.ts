/** What is here, as the index tells people: by digest, and as a whole. */
import { join } from 'node:path'
import { test } from 'tap'
import { parseRepositoryName, type RepositoryName } from '../../../../src/oci/reference.ts'
import { openMetadata } from '../../../../src/storage/metadata/sqlite/open.ts'
import { inDatabase, seedMirrored } from '../../../support/folder.ts'
import { image, index, type Content } from '../../../support/images.ts'
import { seedLocal } from '../../../support/local.ts'
import '../../../support/folders-last.ts'

const amd64 = image({ seed: 'amd64', layers: [1000, 2000] })
const arm64 = image({ seed: 'arm64', layers: [3000] })
const both = index({ images: { amd64, arm64 } })
const own = image({ seed: 'own', layers: [{ size: 1000, seed: 'amd64/0' }, 500] })

const HUB = { registry: 'docker.io', name: parseRepositoryName('library/both') }
const sizeOf = (all: readonly Content[]): number => all.reduce((sum, { bytes }) => sum + bytes.length, 0)

test('the inventory', async (t) => {
  const root = t.testdir()
  const old = { registry: 'quay.io', name: 'a/copy', tag: 'old', image: amd64 }
  await seedMirrored(root, { ...HUB, tag: '1', image: both }, 1000)
  await seedMirrored(root, old, 2000)
  await seedLocal(root, [{ name: 'team/own', tags: { b: own, a: own }, images: [arm64] }], 3000)
  inDatabase(
    root,
    `update blob set pulled_at = 5000 where digest = '${arm64.manifest.digest}'`,
    `update blob set pulled_at = 9000 where digest = '${arm64.layers[0]!.digest}'`,
    `insert into quarantine values ('${own.config.digest}', 1, 77, 'quarantine/x')`,
  )
  const metadata = await openMetadata(join(root, 'metadata.sqlite'))
  t.teardown(() => metadata.close())
  const { inventory } = metadata

  await t.test('of digests: size, times, and whether somebody pushed them', async (t) => {
    const shared = amd64.layers[0]!.digest
    const only = amd64.layers[1]!.digest
    const unknown = image({ seed: 'nowhere' }).manifest.digest
    const found = await inventory.blobs([shared, only, own.manifest.digest, unknown])
    const byDigest = new Map(found.map((it) => [it.digest, it]))
    t.equal(found.length, 3)
    t.match(byDigest.get(shared), { size: 1000, storedAt: 1000, pulledAt: 1000, pushed: true })
    t.match(byDigest.get(only), { size: 2000, pushed: false })
    t.match(byDigest.get(own.manifest.digest), { storedAt: 3000, pushed: true })
    t.same([...(await inventory.quarantined([shared, own.config.digest]))], [[own.config.digest, 77]])
  })

  await t.test('who wants a digest: what is it, names it, or names what names it', async (t) => {
    const wanting = async (digest: (typeof both.manifest)['digest'], limit = 100) =>
      (await inventory.taggedManifests(digest, 2, limit)).map(
        ({ repository, manifest, tags }) =>
          [`${repository.registry}/${repository.name}`, manifest, tags] as const,
      )
    const [top, child] = [both.manifest.digest, amd64.manifest.digest]
    t.same(
      new Set(await wanting(amd64.layers[1]!.digest)),
      new Set([
        ['docker.io/library/both', top, ['1']],
        ['docker.io/library/both', child, []],
        ['quay.io/a/copy', child, ['old']],
      ]),
    )
    t.same(await wanting(top), [['docker.io/library/both', top, ['1']]])
    t.equal((await wanting(amd64.layers[1]!.digest, 1)).length, 1)
  })

  await t.test('how much was pulled longer ago, counted no further than asked', async (t) => {
    t.equal(await inventory.colder(1000, 100), 0)
    t.equal(
      await inventory.colder(1001, 100),
      4,
      'the index, an image, its config and the layer that nobody pushed',
    )
    t.equal(await inventory.colder(10_000, 3), 3)
  })

  await t.test('everything: repositories, tags, and what has no tag', async (t) => {
    t.same(await inventory.repositories('local', { limit: 10 }), [{ registry: 'local', name: 'team/own' }])
    const copy = { registry: 'quay.io', name: 'a/copy' as RepositoryName }
    t.same(await inventory.repositories('mirrored', { limit: 10 }), [HUB, copy])
    t.same(await inventory.repositories('mirrored', { limit: 1 }), [HUB])
    t.same(await inventory.repositories('mirrored', { last: 'docker.io/library/both', limit: 10 }), [copy])

    const team = { registry: 'local', name: parseRepositoryName('team/own') }
    const { digest } = own.manifest
    const tags = await inventory.tags(team, { limit: 10 })
    t.same(tags, [
      { tag: 'a', digest, checkedAt: 3000 },
      { tag: 'b', digest, checkedAt: 3000 },
    ])
    t.same(await inventory.tags(team, { last: 'a', limit: 10 }), tags.slice(1))
    t.same(await inventory.untagged(team, undefined), { found: [arm64.manifest.digest], next: undefined })
    t.same(await inventory.untagged(HUB, undefined), { found: [], next: undefined }, 'children are named')
  })

  await t.test('the weight of an image is all that it reaches and that is here, once', async (t) => {
    const all = [...both.manifests, ...both.blobs]
    const weights = await inventory.weights([both.manifest.digest, amd64.manifest.digest])
    const byDigest = new Map(weights.map((it) => [it.digest, it]))
    t.match(byDigest.get(both.manifest.digest), { bytes: sizeOf(all), pulledAt: 5000, storedAt: 1000 })
    t.match(byDigest.get(amd64.manifest.digest), {
      bytes: sizeOf([amd64.manifest, ...amd64.blobs]),
      pulledAt: 1000,
    })
    t.same(await inventory.weights([image({ seed: 'nowhere' }).manifest.digest]), [])
  })
})
