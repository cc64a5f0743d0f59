/** What was checked when, and what is in quarantine. */
import path from 'node:path'
import { test, type Test } from 'tap'
import { digestOf, type Digest } from '../../../../src/oci/digest.ts'
import { parseManifest } from '../../../../src/oci/manifest.ts'
import { parseRepositoryName } from '../../../../src/oci/reference.ts'
import { LOCAL, type MetadataTransaction } from '../../../../src/storage/metadata/metadata.ts'
import { openMetadata } from '../../../../src/storage/metadata/sqlite/open.ts'
import { image } from '../../../support/images.ts'
import '../../../support/folders-last.ts'

type Write = (tx: MetadataTransaction) => void

const KEY = { registry: LOCAL, name: parseRepositoryName('team/app') }
const named = (text: string): Digest => digestOf(Buffer.from(text))

async function open(t: Test) {
  const metadata = await openMetadata(path.join(t.testdir(), 'metadata.sqlite'))
  t.teardown(() => metadata.close())
  const { scrub, inventory } = metadata
  const isQuarantined = async (digest: Digest): Promise<boolean> =>
    (await inventory.quarantined([digest])).has(digest)
  return { metadata, scrub, isQuarantined }
}

test('those whose check is longest ago come first, until they are checked', async (t) => {
  const { metadata, scrub } = await open(t)
  t.equal(await scrub.oldestCheck(), undefined)
  await metadata.transaction((tx) => {
    tx.recordBlob(named('new'), 1, 30)
    tx.recordBlob(named('old'), 1, 10)
    tx.recordBlob(named('middle'), 1, 20)
  })
  const due = (before: number, limit = 9): Promise<unknown> => scrub.due({ before, after: 99 }, limit)
  const [old, middle] = [
    { digest: named('old'), checkedAt: 10 },
    { digest: named('middle'), checkedAt: 20 },
  ]
  t.same(await due(30), [old, middle])
  t.same(await due(30, 1), [old])
  t.same(await due(10), [])
  t.equal(await scrub.oldestCheck(), 10)
  await metadata.transaction((tx) => tx.markChecked([named('old'), named('unheard of')], 100))
  t.same(await due(30), [middle])
  t.same(await due(10), [{ digest: named('old'), checkedAt: 100 }], 'the clock was wrong')
  t.equal(await scrub.oldestCheck(), 20)
})

test('a quarantine is kept until the bytes are said to be here, by whoever says so', async (t) => {
  const { metadata, scrub, isQuarantined } = await open(t)
  const app = image()
  const { digest, bytes, mediaType } = app.manifest
  const content = parseManifest(bytes, mediaType)
  const ends: Write[] = [
    (tx) => tx.linkBlob(KEY, digest, 5, 2),
    (tx) => tx.recordDelivery('docker.io', digest, 5, 2),
    (tx) => tx.recordBlob(digest, 5, 2),
    (tx) => tx.putManifest(KEY, digest, 5, content, 2),
    (tx) => tx.forgetBlob(digest),
  ]
  for (const end of ends) {
    await metadata.transaction((tx) => tx.putQuarantine(digest, { size: 3, path: 'quarantine/x' }, 1))
    t.ok(await isQuarantined(digest))
    await metadata.transaction(end)
    t.notOk(await isQuarantined(digest))
    t.same(await scrub.quarantined(9), { count: 0, first: [] })
  }
})

test('a quarantine ends when the last who had it pushed lets go of it, and does not begin after that', async (t) => {
  const { metadata, isQuarantined } = await open(t)
  const other = { registry: LOCAL, name: parseRepositoryName('team/other') }
  const mirrored = { registry: 'docker.io', name: parseRepositoryName('library/app') }
  const { digest, bytes, mediaType } = image().manifest
  const content = parseManifest(bytes, mediaType)
  const quarantine: Write = (tx) => tx.putQuarantine(digest, { size: 3, path: undefined }, 1)
  const ways: Record<string, [hold: Write, letGo: Write]> = {
    blob: [(tx) => tx.linkBlob(KEY, digest, 5, 2), (tx) => tx.unlinkBlob(KEY, digest)],
    manifest: [(tx) => tx.putManifest(KEY, digest, 5, content, 2), (tx) => tx.deleteManifest(KEY, digest, 3)],
    buried: [(tx) => tx.linkBlob(KEY, digest, 5, 2), (tx) => tx.buryRepository(KEY, 3)],
    released: [(tx) => tx.putManifest(KEY, digest, 5, content, 2), (tx) => tx.releaseRepository(KEY)],
  }
  for (const [name, [hold, letGo]] of Object.entries(ways)) {
    await metadata.transaction((tx) => {
      tx.linkBlob(other, digest, 5, 2)
      tx.linkBlob(mirrored, digest, 5, 2)
      hold(tx)
    })
    await metadata.transaction(quarantine)
    await metadata.transaction(letGo)
    t.ok(await isQuarantined(digest), `${name}: somebody has it pushed still`)
    await metadata.transaction((tx) => tx.unlinkBlob(other, digest))
    t.notOk(await isQuarantined(digest), name)
    await metadata.transaction(quarantine)
    t.notOk(await isQuarantined(digest), `${name}: found after it was let go`)
  }
})

test('of a file that is gone as well nothing is forgotten', async (t) => {
  const { metadata, scrub } = await open(t)
  const put = (path: string | undefined, at: number): Promise<void> =>
    metadata.transaction((tx) => tx.putQuarantine(named('x'), { size: 3, path }, at))
  await put(undefined, 1)
  t.same((await scrub.quarantined(9)).first, [{ digest: named('x'), foundAt: 1, path: undefined }])
  await put('quarantine/x', 2)
  await put(undefined, 3)
  t.same((await scrub.quarantined(9)).first, [{ digest: named('x'), foundAt: 1, path: 'quarantine/x' }])
})

test('of many the oldest are told, and how many there are', async (t) => {
  const { metadata, scrub } = await open(t)
  await metadata.transaction((tx) => {
    for (let i = 9; i > 0; i--) tx.putQuarantine(named(`${i}`), { size: 0, path: undefined }, i)
  })
  const { count, first } = await scrub.quarantined(2)
  t.equal(count, 9)
  t.same(
    first.map(({ digest }) => digest),
    [named('1'), named('2')],
  )
})
