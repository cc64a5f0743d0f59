/** What a restore takes from an archive, and what it finds here already. */
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'tap'
import { Removal } from '../../../src/cache/eviction/removal.ts'
import { digestOf } from '../../../src/oci/digest.ts'
import { parseRepositoryName } from '../../../src/oci/reference.ts'
import { DiskBlobAudit } from '../../../src/storage/blobs/disk-audit.ts'
import { openIngests } from '../../../src/storage/ingest/disk-ingest.ts'
import { DiskBlobStore } from '../../../src/storage/blobs/disk-blob-store.ts'
import { nodeFiles } from '../../../src/storage/files/files.ts'
import { Hashers } from '../../../src/storage/ingest/hasher.ts'
import { BlobHolds } from '../../../src/storage/locks/blob-holds.ts'
import { InProcessKeyedLocks } from '../../../src/storage/locks/keyed-locks.ts'
import type { MetadataStore } from '../../../src/storage/metadata/metadata.ts'
import { OutsideFile } from '../../../src/storage/files/atomic-file.ts'
import { openMetadata } from '../../../src/storage/metadata/sqlite/open.ts'
import { blobName, CONTENTS_FILE, contentsBytes } from '../../../src/admin/archive/format.ts'
import { Received } from '../../../src/admin/archive/read-archive.ts'
import { END_OF_ARCHIVE, tarHeader, tarPadding } from '../../../src/admin/archive/write-tar.ts'
import '../../support/folders-last.ts'

test('bytes that are just being taken away are not said to be here', async (t) => {
  const root = t.testdir()
  await using closing = new AsyncDisposableStack()
  const hashers = closing.adopt(new Hashers({ threads: 1 }), (it) => it.close())
  const ingests = closing.adopt(await openIngests({ root, hashers }), (it) => it.close())
  const index = closing.adopt(await openMetadata(path.join(root, 'metadata.sqlite')), (it) => it.close())
  const store = new DiskBlobStore(root)
  const [locks, holds] = [new InProcessKeyedLocks(), new BlobHolds()]
  const disk = new DiskBlobAudit({ root, files: nodeFiles, hashers })
  const { signal } = new AbortController()

  const bytes = Buffer.from('a base layer')
  const digest = digestOf(bytes)
  const ingest = await ingests.open({ source: 'docker.io', digest })
  await ingest.write([bytes], 0)
  const file = await ingest.verify(bytes.length)
  await store.adopt(file!)
  await index.transaction((tx) => tx.recordDelivery('docker.io', digest, bytes.length, 1))
  const row = (await index.eviction.mirrored(digest))!

  // It has looked at the holds, and forgets; the file is still there.
  const forgetting = Promise.withResolvers<undefined>()
  const goOn = Promise.withResolvers<undefined>()
  const metadata: Pick<MetadataStore, 'transaction'> = {
    transaction: async (fill) => {
      forgetting.resolve(undefined)
      await goOn.promise
      await index.transaction(fill)
    },
  }
  const removal = new Removal({ store, metadata, index: index.eviction, locks, holds, now: Date.now })
  const taken = removal.take({ is: 'blob', root: row, manifests: [], blobs: [row], pulledAt: 1 }, signal)
  await forgetting.promise

  const name = parseRepositoryName('team/app')
  const saved = { name, tags: [], manifests: [], blobs: [{ digest, size: bytes.length }] }
  const listing = contentsBytes({ repositories: [saved], lost: [] }, new Date(0))
  writeFileSync(
    path.join(root, 'backup.tar'),
    Buffer.concat([
      ...[tarHeader(blobName(digest), bytes.length, new Date(0)), bytes, tarPadding(bytes.length)],
      ...[tarHeader(CONTENTS_FILE, listing.length, new Date(0)), listing, tarPadding(listing.length)],
      END_OF_ARCHIVE,
    ]),
  )
  await using archive = await OutsideFile.open(nodeFiles, path.join(root, 'backup.tar'))
  const pushSpace = {
    expect: () => Promise.resolve({ arrive: () => Promise.resolve(), [Symbol.dispose]() {} }),
  }
  const tools = { disk, store, ingests, metadata: index, locks, holds, pushSpace, signal }
  await using received = new Received(tools, 'archive', archive)
  await received.look()
  const reading = received.read()
  goOn.resolve(undefined)
  await Promise.all([taken, reading])
  t.ok(received.has(digest))
  t.equal((await store.stat(digest))?.size, bytes.length, 'they were taken from the archive')
})
