/** Fills and adopts blobs without end; says which ones were adopted. Their bytes follow from their number. */
import { DiskBlobStore } from '../../../src/storage/blobs/disk-blob-store.ts'
import { openIngests } from '../../../src/storage/ingest/disk-ingest.ts'
import { Hashers } from '../../../src/storage/ingest/hasher.ts'
import { identityOf, KiB, numbered } from '../stores.ts'

const [root = '', first = '0'] = process.argv.slice(2)
const hashers = new Hashers({ threads: 1 })
const ingests = await openIngests({ root, hashers, limits: { saveEvery: 256 * KiB } })
const blobs = new DiskBlobStore(root)
console.log('ready')

async function fill(number: number): Promise<void> {
  const content = numbered(number)
  const ingest = await ingests.open(identityOf(content))
  for (let at = ingest.prefix; at < content.length; at += 64 * KiB) {
    await ingest.write([content.subarray(at, at + 64 * KiB)], at)
  }
  const file = await ingest.verify(content.length)
  if (!file) throw new Error(`blob ${number} did not verify`)
  await blobs.adopt(file)
  console.log(String(number))
}

for (let number = Number(first); ; number += 3) {
  await Promise.all([fill(number), fill(number + 1), fill(number + 2)])
}
