/** Where a full disk is met, room is made and the write is made again. */
import { test, type Test } from 'tap'
import { nodeFiles, type Files } from '../../../src/storage/files/files.ts'
import { withDiskFullRetry, metadataWithDiskFullRetry } from '../../../src/storage/files/disk-full-retry.ts'
import type { MetadataStore } from '../../../src/storage/metadata/metadata.ts'
import { StorageError } from '../../../src/storage/storage-error.ts'
import { FaultyFiles } from '../../support/faulty-files.ts'
import {
  identityOf,
  KiB,
  land,
  MiB,
  openStore,
  pour,
  randomBytes,
  readAll,
  type Store,
} from '../../support/stores.ts'

/** A store whose disk can be told to be full, and who is asked for room then. */
async function open(t: Test, makeRoom: (bytes: number) => boolean) {
  const disk = new FaultyFiles()
  const asked: number[] = []
  const files = withDiskFullRetry(disk.files, (bytes) => {
    asked.push(bytes)
    return Promise.resolve(makeRoom(bytes))
  })
  const store = await openStore(t, { files, limits: { saveEvery: 64 * KiB } })
  return { disk, asked, store }
}

async function holds(store: Store, content: Buffer): Promise<boolean> {
  await using reader = await store.blobs.open(identityOf(content).digest)
  return (
    reader !== undefined &&
    (await readAll({ read: (...at) => reader.read(...at) }, content.length)).equals(content)
  )
}

test('wherever the disk is full once, a blob lands nevertheless, and is right', async (t) => {
  const { disk, asked, store } = await open(t, () => true)
  let places = 0
  for (; ; places += 1) {
    const content = randomBytes(300 * KiB)
    disk.untilFull = places
    asked.length = 0
    const landed = await land(store, content).then(
      () => true,
      (error: unknown) => {
        // Only what a sync could not bring to the disk is lost.
        t.match(error, { message: /ENOSPC: datasync/ })
        return false
      },
    )
    t.ok(asked.length <= 1)
    t.equal(await holds(store, content), landed, `after ${places} operations`)
    if (disk.untilFull !== Infinity) break
  }
  t.ok(places > 8, `${places} places`)
})

test('only what was not written is written again', async (t) => {
  const written: [number, number][] = []
  let room = 400 * KiB
  const tight: Files = {
    ...nodeFiles,
    write: async (file, chunks, position) => {
      const all = Buffer.concat(chunks)
      if (room === 0) throw Object.assign(new Error('full'), { code: 'EDQUOT' })
      const some = all.subarray(0, Math.min(room, 100_000, all.length))
      room -= some.length
      written.push([position, some.length])
      return nodeFiles.write(file, [some], position)
    },
  }
  const asked: number[] = []
  const files = withDiskFullRetry(tight, (bytes) => {
    asked.push(bytes)
    room += bytes
    return Promise.resolve(true)
  })
  const store = await openStore(t, { files })
  const content = randomBytes(MiB)
  const ingest = await store.ingests.open(identityOf(content))
  await ingest.write([content], 0)
  t.same(asked, [MiB - 400 * KiB], 'room for the rest')
  let end = 0
  for (const [position, length] of written) {
    t.equal(position, end)
    end += length
  }
  t.equal(end, MiB)
  t.ok(await ingest.verify(MiB))
  await ingest.discard()
})

test('where nothing may go the error goes up, and the room is asked for once', async (t) => {
  const { disk, asked, store } = await open(t, () => false)
  const content = randomBytes(MiB)
  const ingest = await store.ingests.open(identityOf(content))
  disk.room = 300 * KiB
  await t.rejects(pour(ingest, content), { code: 'ENOSPC' })
  t.same(asked, [256 * KiB])
  await ingest.discard()
})

test('who frees nothing real is not asked for ever', async (t) => {
  const { disk, asked, store } = await open(t, () => true)
  disk.failing.set('create', 'ENOSPC')
  await t.rejects(store.ingests.open(identityOf(randomBytes(1))), { code: 'ENOSPC' })
  t.ok(asked.length > 1 && asked.length < 20, `asked ${asked.length} times`)
})

test('other failures are nobody’s to make room for', async (t) => {
  const { disk, asked, store } = await open(t, () => true)
  for (const code of ['EROFS', 'EIO', 'EMFILE']) {
    disk.failing.set('create', code)
    await t.rejects(store.ingests.open(identityOf(randomBytes(1))), { code })
  }
  t.same(asked, [])
})

test('an index that is full is written again when there is room, a broken one is not', async (t) => {
  let failure: StorageError | undefined = new StorageError('FULL', 'full')
  let writes = 0
  const inner = {
    transaction: () => {
      writes += 1
      return failure === undefined ? Promise.resolve() : Promise.reject(failure)
    },
    close: () => Promise.resolve(),
  } as unknown as MetadataStore
  const none = metadataWithDiskFullRetry(inner, () => Promise.resolve(false))
  await t.rejects(
    none.transaction(() => undefined),
    { code: 'FULL' },
  )
  t.equal(writes, 1)
  const some = metadataWithDiskFullRetry(inner, () => {
    failure = undefined
    return Promise.resolve(true)
  })
  await some.transaction(() => undefined)
  t.equal(writes, 3)
  failure = new StorageError('WRITE_FAILED', 'broken')
  await t.rejects(
    some.transaction(() => undefined),
    { code: 'WRITE_FAILED' },
  )
  t.equal(writes, 4)
})
