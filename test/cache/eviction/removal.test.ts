/** What an eviction takes away: looked at once more under the locks, for what it knows may be old by then. */
import path from 'node:path'
import { test, type Test } from 'tap'
import { EvictionCandidates, type EvictionCandidate } from '../../../src/cache/eviction/candidates.ts'
import { Removal } from '../../../src/cache/eviction/removal.ts'
import { digestOf } from '../../../src/oci/digest.ts'
import { parseManifest } from '../../../src/oci/manifest.ts'
import { DiskBlobStore } from '../../../src/storage/blobs/disk-blob-store.ts'
import { openIngests } from '../../../src/storage/ingest/disk-ingest.ts'
import type { MirroredBlob } from '../../../src/storage/metadata/eviction-index.ts'
import { Hashers } from '../../../src/storage/ingest/hasher.ts'
import { BlobHolds } from '../../../src/storage/locks/blob-holds.ts'
import { InProcessKeyedLocks } from '../../../src/storage/locks/keyed-locks.ts'
import type { MetadataStore } from '../../../src/storage/metadata/metadata.ts'
import { openMetadata } from '../../../src/storage/metadata/sqlite/open.ts'
import { StorageError } from '../../../src/storage/storage-error.ts'
import { image } from '../../support/images.ts'
import '../../support/folders-last.ts'

const KEY = { registry: 'docker.io', name: 'library/app' as never }
const { manifest: MANIFEST } = image({ layers: [] })
const CONTENT = parseManifest(MANIFEST.bytes, MANIFEST.mediaType)
const never = new AbortController().signal

/** A folder and its index, which takes no writes while `full`. */
async function open(t: Test) {
  const root = t.testdir()
  const closing = new AsyncDisposableStack()
  t.teardown(() => closing.disposeAsync())
  const hashers = closing.adopt(new Hashers({ threads: 1 }), (it) => it.close())
  const ingests = closing.adopt(await openIngests({ root, hashers }), (it) => it.close())
  const index = closing.adopt(await openMetadata(path.join(root, 'metadata.sqlite')), (it) => it.close())
  const store = new DiskBlobStore(root)
  const locks = new InProcessKeyedLocks()
  const holds = new BlobHolds()
  const disk = { full: false }
  const metadata: Pick<MetadataStore, 'transaction'> = {
    transaction: (write) =>
      disk.full ? Promise.reject(new StorageError('FULL', 'no room')) : index.transaction(write),
  }
  const removal = new Removal({ store, metadata, index: index.eviction, locks, holds, now: () => 1 })
  const mirrored = async (text: string): Promise<MirroredBlob> => {
    const bytes = Buffer.from(text)
    const digest = digestOf(bytes)
    const ingest = await ingests.open({ source: 'docker.io', digest })
    await ingest.write([bytes], 0)
    await store.adopt((await ingest.verify(bytes.length))!)
    await index.transaction((tx) => tx.recordDelivery('docker.io', digest, bytes.length, 1))
    return (await index.eviction.mirrored(digest))!
  }
  return { index, store, locks, holds, disk, removal, mirrored }
}

/** As a manifest of a mirrored repository, with a tag. */
async function hold(index: MetadataStore, { digest, size }: MirroredBlob, content = CONTENT): Promise<void> {
  await index.transaction((tx) => {
    tx.putRepository(KEY, 1)
    tx.putManifest(KEY, digest, size, content, 1)
    tx.putTag(KEY, {
      ...{ tag: digest.slice(7, 17) as never, digest, size, mediaType: CONTENT.mediaType },
      ...{ checkedAt: 1, deletedAt: undefined },
    })
  })
}

function blob(root: MirroredBlob): EvictionCandidate {
  return { is: 'blob', root, manifests: [], blobs: [root], pulledAt: 1 }
}

test('what the index was not told is told later, and not while somebody brings it again', async (t) => {
  const { index, locks, holds, disk, removal, mirrored } = await open(t)
  const hot = await mirrored('hot')
  const cold = await mirrored('cold')
  disk.full = true
  for (const it of [hot, cold]) t.match(await removal.take(blob(it), never), [{ digest: it.digest }])
  disk.full = false
  const hold = holds.hold(hot.digest)
  const lock = await locks.exclusive(`blob ${hot.digest}`, never)
  // Whoever has this lock may be waiting for the room that is made behind this.
  await removal.settle(never)
  t.ok(await index.eviction.mirrored(hot.digest))
  t.notOk(await index.eviction.mirrored(cold.digest))
  lock[Symbol.dispose]()
  hold[Symbol.dispose]()
  await removal.settle(never)
  t.notOk(await index.eviction.mirrored(hot.digest))
})

test('an image that has gone already is not taken again', async (t) => {
  const { index, removal, mirrored } = await open(t)
  const root = await mirrored('{"an":"index"}')
  const child = await mirrored('{"a":"child"}')
  await hold(index, root)
  await hold(index, child)
  const both: EvictionCandidate = { is: 'image', root, manifests: [root, child], blobs: [], pulledAt: 1 }
  const told: string[] = []
  removal.onManifest((digest) => told.push(digest))
  t.match(await removal.take(both, never), { length: 2 })
  t.same(await removal.take(both, never), [])
  t.match(told, { length: 2 })
})

test('a blob that is a manifest by now goes only as one', async (t) => {
  const { index, store, removal, mirrored } = await open(t)
  const it = await mirrored('{"a":"manifest"}')
  const seen = blob(it)
  await hold(index, it)
  t.same(await removal.take(seen, never), [])
  t.ok(await store.stat(it.digest))
  t.ok(await index.manifests.get(KEY, it.digest))
})

test('a manifest that an image names as a layer does not go with it', async (t) => {
  const { index, mirrored } = await open(t)
  const named = await mirrored('{"a":"manifest"}')
  await hold(index, named)
  const root = await mirrored('{"an":"image"}')
  const layer = { digest: named.digest, size: named.size, mediaType: CONTENT.mediaType }
  await hold(index, root, { ...CONTENT, layers: [layer] })
  const images = new EvictionCandidates({
    index: index.eviction,
    accessTimes: { latest: (_, at) => at },
    pins: { by: () => Promise.resolve(undefined), byLink: () => Promise.resolve(undefined) },
  })
  const found = await images.closureOf(root.digest, new Set())
  t.equal(found?.manifests.length, 1)
  t.same(found?.blobs, [])
})
