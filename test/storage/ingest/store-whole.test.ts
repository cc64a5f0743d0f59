import { test } from 'tap'
import { digestOf } from '../../../src/oci/digest.ts'
import { storeWhole } from '../../../src/storage/ingest/store-whole.ts'
import { openStore, randomBytes, readAll } from '../../support/stores.ts'

test('bytes that are whole become a blob', async (t) => {
  const { ingests, blobs } = await openStore(t)
  for (const content of [randomBytes(100), Buffer.alloc(0)]) {
    const digest = digestOf(content)
    await storeWhole({ ingests, store: blobs }, { source: 'local', digest }, content)
    await using reader = await blobs.open(digest)
    t.ok(reader !== undefined && (await readAll(reader, content.length)).equals(content))
  }
  t.same(ingests.downloads(), [])
})

test('bytes of another digest leave nothing behind', async (t) => {
  const { ingests, blobs } = await openStore(t)
  const digest = digestOf(Buffer.from('these'))
  await t.rejects(storeWhole({ ingests, store: blobs }, { source: 'local', digest }, Buffer.from('others')))
  t.equal(await blobs.stat(digest), undefined)
  t.same(ingests.downloads(), [])
})
