import { test } from 'tap'
import { nodeFiles, type Files } from '../../../src/storage/files/files.ts'
import { identityOf, KiB, MiB, openStore, pour, randomBytes, readAll } from '../../support/stores.ts'

type Fault = 'open' | 'write' | 'datasync' | 'rename' | 'remove'

/** Fails as told, and counts what stays open. */
class FaultyFiles {
  readonly failing = new Map<Fault, string>()
  /** Writes of at most so many bytes get through before the disk is full. */
  room = Infinity
  open = 0
  /** Most bytes a write takes at once. */
  mouthful = Infinity

  get files(): Files {
    const check = (operation: Fault): void => {
      const code = this.failing.get(operation)
      if (code) throw Object.assign(new Error(`${code}: ${operation}`), { code })
    }
    return {
      ...nodeFiles,
      open: async (path, flags) => {
        check('open')
        const descriptor = await nodeFiles.open(path, flags)
        this.open++
        return descriptor
      },
      close: async (descriptor) => {
        this.open--
        await nodeFiles.close(descriptor)
      },
      write: async (descriptor, chunks, position) => {
        check('write')
        if (this.room <= 0) throw Object.assign(new Error('ENOSPC: write'), { code: 'ENOSPC' })
        const all = Buffer.concat(chunks)
        const some = all.subarray(0, Math.min(this.room, this.mouthful))
        this.room -= some.length
        return await nodeFiles.write(descriptor, [some], position)
      },
      datasync: async (descriptor) => {
        check('datasync')
        await nodeFiles.datasync(descriptor)
      },
      rename: async (from, to) => {
        check('rename')
        await nodeFiles.rename(from, to)
      },
      remove: async (path) => {
        check('remove')
        await nodeFiles.remove(path)
      },
    }
  }
}

test('a write that is taken in small parts is taken whole', async (t) => {
  const disk = new FaultyFiles()
  disk.mouthful = 1000
  const store = await openStore(t, { files: disk.files })
  const content = randomBytes(100 * KiB)
  const ingest = await store.ingests.open(identityOf(content))
  const chunks = Array.from({ length: 100 }, (_, i) => content.subarray(i * KiB, (i + 1) * KiB))
  await ingest.write(chunks, 0)
  t.ok((await readAll(ingest, content.length)).equals(content))
  t.ok(await ingest.verify(content.length))
})

test('when the disk is full the writer is told, again and again, and readers keep what is there', async (t) => {
  const disk = new FaultyFiles()
  const store = await openStore(t, { files: disk.files })
  const content = randomBytes(2 * MiB)
  const ingest = await store.ingests.open(identityOf(content))
  await ingest.write([content.subarray(0, MiB)], 0)
  disk.room = 1000
  await t.rejects(ingest.write([content.subarray(MiB)], MiB), { code: 'ENOSPC' })
  t.equal(ingest.prefix, MiB, 'half a write does not count')
  disk.room = Infinity
  await t.rejects(ingest.write([content.subarray(MiB)], MiB), { code: 'ENOSPC' })
  await t.rejects(ingest.verify(MiB), { code: 'ENOSPC' })
  t.ok((await readAll(ingest, MiB)).equals(content.subarray(0, MiB)))
  await ingest.keep()
  const again = await store.ingests.open(identityOf(content))
  t.equal(again.inherited, MiB)
  await pour(again, content, MiB)
  t.ok(await again.verify(content.length))
  await again.discard()
  t.equal(disk.open, 0)
})

test('on a disk that is full or read-only opening says so, and nothing stays open', async (t) => {
  const disk = new FaultyFiles()
  const store = await openStore(t, { files: disk.files })
  for (const code of ['ENOSPC', 'EROFS']) {
    disk.failing.set('open', code)
    await t.rejects(store.ingests.open(identityOf(randomBytes(1))), { code })
  }
  t.equal(disk.open, 0)
})

test('a disk that cannot sync fails the ingest, and nothing is vouched for', async (t) => {
  const disk = new FaultyFiles()
  const store = await openStore(t, { files: disk.files, limits: { saveEvery: 64 * KiB } })
  const content = randomBytes(MiB)
  const ingest = await store.ingests.open(identityOf(content))
  disk.failing.set('datasync', 'EIO')
  await ingest.write([content.subarray(0, 100 * KiB)], 0)
  while (store.reports.length === 0) await new Promise((resolve) => setImmediate(resolve))
  await t.rejects(ingest.write([content.subarray(100 * KiB)], 100 * KiB), { code: 'EIO' })
  // The pages are clean now, as far as the kernel is concerned: the next sync succeeds, and means nothing.
  disk.failing.clear()
  await ingest.keep()
  t.same(store.partials(), [])
  t.equal((await store.ingests.open(identityOf(content))).inherited, 0)
})

test('an adoption whose sync fails adopts nothing', async (t) => {
  const disk = new FaultyFiles()
  const store = await openStore(t, { files: disk.files })
  const content = randomBytes(10 * KiB)
  const ingest = await store.ingests.open(identityOf(content))
  await pour(ingest, content)
  const file = await ingest.verify(content.length)
  disk.failing.set('datasync', 'EIO')
  await t.rejects(store.blobs.adopt(file!), { code: 'EIO' })
  disk.failing.clear()
  await t.rejects(store.blobs.adopt(file!), 'a later sync means nothing')
  t.equal(await store.blobs.stat(file!.digest), undefined)
  await ingest.discard()
  t.equal(disk.open, 0)
})

test('when only the sidecar cannot be written, this process still resumes', async (t) => {
  const disk = new FaultyFiles()
  const store = await openStore(t, { files: disk.files })
  const content = randomBytes(10 * KiB)
  const ingest = await store.ingests.open(identityOf(content))
  await pour(ingest, content.subarray(0, KiB))
  disk.failing.set('rename', 'ENOSPC')
  await ingest.keep()
  t.equal(store.reports.length, 1)
  disk.failing.clear()
  t.equal((await store.ingests.open(identityOf(content))).inherited, KiB)
})

test('what cannot be removed fails nobody', async (t) => {
  const disk = new FaultyFiles()
  const store = await openStore(t, { files: disk.files })
  const content = randomBytes(10 * KiB)
  const discarded = await store.ingests.open(identityOf(content))
  const adopted = await store.ingests.open(identityOf(content))
  await pour(adopted, content)
  const file = await adopted.verify(content.length)
  disk.failing.set('remove', 'EROFS')
  await discarded.discard()
  await store.blobs.adopt(file!)
  t.ok(await store.blobs.stat(file!.digest))
  t.ok(store.reports.length > 0)
  t.equal(disk.open, 0)
})
