import { cpSync } from 'node:fs'
import path from 'node:path'
import { test } from 'tap'
import { digestOf } from '../../../src/oci/digest.ts'
import type { UploadSession } from '../../../src/registry/local/push-target.ts'
import type { Files } from '../../../src/storage/files/files.ts'
import { StorageError } from '../../../src/storage/storage-error.ts'
import { KiB, MiB, openStore, randomBytes, readAll } from '../../support/stores.ts'
import { FaultyFiles } from '../../support/faulty-files.ts'
import { standstill } from '../../support/stalled.ts'
import {
  APP,
  body,
  brokenBody,
  LARGE,
  openUploads,
  OTHER,
  push,
  uploadsOf,
} from '../../support/upload-sessions.ts'

/** Gives its one piece, and then nothing until it is told to end. */
function slowBody(content: Buffer) {
  const asked = Promise.withResolvers<undefined>()
  const end = Promise.withResolvers<undefined>()
  async function* pieces(): AsyncGenerator<Buffer> {
    yield content
    asked.resolve(undefined)
    await end.promise
  }
  return { pieces: pieces(), asked: asked.promise, end: () => end.resolve(undefined) }
}

function part(session: UploadSession, content: Buffer, first: number, last: number): Promise<void> {
  return session.append(body(content.subarray(first, last + 1)), { first, last })
}

test('a blob that comes in pieces over several requests is whole and linked', async (t) => {
  const { uploads, store, names, linked } = await openUploads(t)
  const content = randomBytes(LARGE)
  let id: string
  {
    await using session = await uploads.start(APP)
    id = session.id
    t.match(id, /^0\.[\w-]{22}$/)
    t.equal(session.offset, 0)
    await part(session, content, 0, MiB - 1)
  }
  {
    await using session = await uploads.open(APP, id)
    t.equal(session.offset, MiB)
    await session.append(body(content.subarray(MiB)), undefined)
    t.equal(names.size, 0, 'no repository yet')
    await session.finish(digestOf(content))
  }
  t.ok(await linked(APP, content))
  t.notOk(await linked(OTHER, content))
  t.same([...names], [APP])
  await using reader = await store.blobs.open(digestOf(content))
  t.ok((await readAll(reader!, LARGE + 1)).equals(content))
  t.same(store.partials(), [])
  await t.rejects(uploads.open(APP, id), { code: 'BLOB_UPLOAD_UNKNOWN' })
})

test('a name is known to be local before the index says so', async (t) => {
  const { uploads, names } = await openUploads(t, {
    transaction: () => {
      t.ok(names.has(APP))
      return Promise.resolve()
    },
  })
  await push(uploads, APP, randomBytes(10))
  t.equal(names.size, 1)
})

test('with another digest than its own the session ends, and nothing is left', async (t) => {
  const { uploads, store, names } = await openUploads(t)
  for (const size of [0, 10, LARGE]) {
    await using session = await uploads.start(APP)
    await session.append(body(randomBytes(size)), undefined)
    await t.rejects(session.finish(digestOf(randomBytes(9))), { code: 'DIGEST_INVALID', status: 400 })
    await t.rejects(uploads.open(APP, session.id), { code: 'BLOB_UPLOAD_UNKNOWN' })
    await t.rejects(session.append(body(randomBytes(1)), undefined), { code: 'BLOB_UPLOAD_UNKNOWN' })
  }
  t.same(store.partials(), [])
  t.equal(names.size, 0)
})

test('a cancelled session is gone', async (t) => {
  const { uploads, store } = await openUploads(t)
  await using session = await uploads.start(APP)
  await session.append(body(randomBytes(LARGE)), undefined)
  await session.cancel()
  t.same(store.partials(), [])
  await t.rejects(uploads.open(APP, session.id), { code: 'BLOB_UPLOAD_UNKNOWN' })
})

test('a session is known to its own repository only', async (t) => {
  const { uploads } = await openUploads(t)
  await using session = await uploads.start(APP)
  await t.rejects(uploads.open(OTHER, session.id), { code: 'BLOB_UPLOAD_UNKNOWN', status: 404 })
  await t.rejects(uploads.open(APP, '0.aaaaaaaaaaaaaaaaaaaaaa'), { code: 'BLOB_UPLOAD_UNKNOWN' })
  await t.rejects(uploads.open(APP, 'nonsense'), { code: 'BLOB_UPLOAD_UNKNOWN' })
})

test('of a body that breaks off, what came is kept', async (t) => {
  const { uploads, linked } = await openUploads(t)
  const content = randomBytes(LARGE)
  await using session = await uploads.start(APP)
  await t.rejects(session.append(brokenBody(content.subarray(0, MiB)), undefined), { message: 'ECONNRESET' })
  t.equal(session.offset, MiB)
  await session.append(body(content.subarray(MiB)), undefined)
  await session.finish(digestOf(content))
  t.ok(await linked(APP, content))
})

test('a chunk that begins elsewhere is not even read', async (t) => {
  const { uploads } = await openUploads(t)
  const content = randomBytes(100)
  await using session = await uploads.start(APP)
  await part(session, content, 0, 49)
  for (const first of [0, 49, 51]) {
    const chunk = body(content)
    await t.rejects(session.append(chunk, { first, last: 99 }), { code: 'RANGE_INVALID', status: 416 })
    t.notOk((await chunk.next()).done, 'its beginning is still there')
  }
  await part(session, content, 50, 99)
  await session.finish(digestOf(content))
})

test('a chunk that is longer or shorter than it said leaves no byte, and the session goes on', async (t) => {
  for (const { size, chunk } of [
    { size: 100, chunk: 50 },
    { size: LARGE, chunk: 2 * MiB },
  ]) {
    const { uploads, linked } = await openUploads(t)
    const content = randomBytes(size)
    const wrong = randomBytes(size)
    await using session = await uploads.start(APP)
    for (const first of [0, chunk]) {
      for (const length of [chunk - 10, size]) {
        const last = first + chunk - 1
        await t.rejects(session.append(body(wrong.subarray(0, length)), { first, last }), {
          code: 'SIZE_INVALID',
        })
        t.equal(session.offset, first)
      }
      await part(session, content, first, Math.min(first + chunk, size) - 1)
    }
    await session.finish(digestOf(content))
    t.ok(await linked(APP, content))
  }
})

test('what was taken back stays so after a restart, and what came instead is whole', async (t) => {
  const folder = t.testdir({ before: {} })
  const limits = { saveEvery: 64 * KiB } as const
  const before = await openUploads(t, { root: path.join(folder, 'before'), limits })
  const content = randomBytes(MiB)
  await using session = await before.uploads.start(APP)
  await part(session, content, 0, 100 * KiB - 1)
  const wrong = session.append(body(randomBytes(MiB)), { first: 100 * KiB, last: 200 * KiB - 1 })
  await t.rejects(wrong, { code: 'SIZE_INVALID' })
  for (const { name, ...boot } of [{ name: 'killed' }, { name: 'power cut', boot: 'another' }]) {
    const root = path.join(folder, name)
    cpSync(before.store.root, root, { recursive: true })
    const { ingests } = await openStore(t, { root, ...boot })
    const ingest = await ingests.openUpload(session.id, APP)
    t.equal(ingest?.prefix, 100 * KiB)
    await ingest?.write([content.subarray(100 * KiB)], 100 * KiB)
    t.ok(await ingest?.verifyAs(digestOf(content)))
  }
})

test('a second client of a session waits for the first, and sees how far it is', async (t) => {
  const { uploads } = await openUploads(t)
  const content = randomBytes(200)
  const first = await uploads.start(APP)
  const slow = slowBody(content.subarray(0, 100))
  const appending = first.append(slow.pieces, undefined)
  await slow.asked
  await using second = await uploads.open(APP, first.id)
  const order: string[] = []
  const waiting = second.append(body(content.subarray(100)), undefined).then(() => order.push('second'))
  while (second.offset < 100) await new Promise((resolve) => setImmediate(resolve))
  slow.end()
  await appending
  order.push('first')
  t.equal(second.offset, 100, 'not before the first has let go')
  await first[Symbol.asyncDispose]()
  await waiting
  t.same(order, ['first', 'second'])
  await second.finish(digestOf(content))
})

test('who waited for a session that was finished meanwhile is told that it is gone', async (t) => {
  const { uploads } = await openUploads(t)
  const content = randomBytes(100)
  const first = await uploads.start(APP)
  await first.append(body(content), undefined)
  await using second = await uploads.open(APP, first.id)
  const waiting = second.append(body(content), undefined)
  await first.finish(digestOf(content))
  await first[Symbol.asyncDispose]()
  await t.rejects(waiting, { code: 'BLOB_UPLOAD_UNKNOWN' })
})

test('while the disk stands still little more than half a MiB is read', async (t) => {
  const gate = Promise.withResolvers<undefined>()
  const disk = new FaultyFiles()
  let open = false
  const files = {
    ...disk.files,
    write: async (...args: Parameters<Files['write']>) => {
      if (!open && args[1].some((chunk) => chunk.length === 64 * KiB)) await gate.promise
      return await disk.files.write(...args)
    },
  }
  const { uploads } = await openUploads(t, { files })
  const content = randomBytes(LARGE)
  let read = 0
  async function* counted(): AsyncGenerator<Buffer> {
    for await (const piece of body(content)) {
      read += piece.length
      yield piece
    }
  }
  await using session = await uploads.start(APP)
  const appending = session.append(counted(), undefined)
  await standstill(() => read)
  t.ok(read <= 640 * KiB, `${read} bytes`)
  open = true
  gate.resolve(undefined)
  await appending
  await session.finish(digestOf(content))
})

test('a full disk is told as it is, and the session goes on when there is room', async (t) => {
  const disk = new FaultyFiles()
  const { uploads, linked } = await openUploads(t, { files: disk.files })
  const content = randomBytes(LARGE)
  let id: string
  {
    await using session = await uploads.start(APP)
    id = session.id
    disk.room = MiB
    const refused = { code: 'INSUFFICIENT_STORAGE', status: 507 }
    await t.rejects(session.append(body(content), undefined), refused)
    await using other = await uploads.start(APP)
    await t.rejects(other.append(body(content), undefined), refused)
  }
  disk.heal()
  await using session = await uploads.open(APP, id)
  t.ok(session.offset > 0 && session.offset <= MiB)
  await session.append(body(content.subarray(session.offset)), undefined)
  await session.finish(digestOf(content))
  t.ok(await linked(APP, content))
  t.equal(disk.opened, 0, 'nothing stays open')
})

test('when the blob cannot be adopted the bytes stay, and finishing again works', async (t) => {
  const disk = new FaultyFiles()
  const { uploads, names, linked } = await openUploads(t, { files: disk.files })
  const content = randomBytes(LARGE)
  let id: string
  {
    await using session = await uploads.start(APP)
    id = session.id
    await session.append(body(content), undefined)
    disk.failing.set('rename', 'EIO')
    await t.rejects(session.finish(digestOf(content)), { code: 'EIO' })
  }
  t.equal(names.size, 0)
  disk.heal()
  await using session = await uploads.open(APP, id)
  t.equal(session.offset, LARGE)
  await session.finish(digestOf(content))
  t.ok(await linked(APP, content))
})

test('when the index does not take it nothing is acknowledged, and the same push works later', async (t) => {
  let broken = true
  const { uploads, metadata, linked } = await openUploads(t, {
    transaction: (fill) =>
      broken
        ? Promise.reject(new StorageError('WRITE_FAILED', 'disk I/O error'))
        : metadata.transaction(fill),
  })
  const content = randomBytes(10)
  await t.rejects(push(uploads, APP, content), { code: 'UNAVAILABLE', status: 503 })
  t.notOk(await linked(APP, content))
  broken = false
  await push(uploads, APP, content)
  t.ok(await linked(APP, content))
})

test("when the disk is too full for the index the bytes stay the session's, and finishing again works", async (t) => {
  let full = true
  const { uploads, store, metadata, linked } = await openUploads(t, {
    transaction: (fill) =>
      full ? Promise.reject(new StorageError('FULL', 'no room')) : metadata.transaction(fill),
  })
  const content = randomBytes(LARGE)
  let id: string
  {
    await using session = await uploads.start(APP)
    id = session.id
    await session.append(body(content), undefined)
    await t.rejects(session.finish(digestOf(content)), { code: 'INSUFFICIENT_STORAGE' })
  }
  t.equal(await store.blobs.stat(digestOf(content)), undefined, 'nobody would know of it')
  full = false
  await using session = await uploads.open(APP, id)
  t.equal(session.offset, LARGE)
  await session.finish(digestOf(content))
  t.ok(await linked(APP, content))
  t.ok(await store.blobs.stat(digestOf(content)))
})

test('clients that push the same blob at once all succeed, and there is one of it', async (t) => {
  const { uploads, store, linked } = await openUploads(t)
  const content = randomBytes(LARGE)
  await Promise.all([APP, APP, OTHER, OTHER].map((name) => push(uploads, name, content)))
  await push(uploads, APP, content)
  t.ok((await linked(APP, content)) && (await linked(OTHER, content)))
  const blobs = []
  for await (const blob of store.blobs.list()) blobs.push(blob.digest)
  t.same(blobs, [digestOf(content)])
  t.same(store.partials(), [])
})

test('a blob is adopted and linked under the lock that its collector would hold', async (t) => {
  const { uploads, store, locks, linked } = await openUploads(t)
  const content = randomBytes(10)
  const key = `blob ${digestOf(content)}`
  const held = await locks.exclusive(key, new AbortController().signal)
  const asked = Promise.withResolvers<undefined>()
  const exclusive = locks.exclusive.bind(locks)
  locks.exclusive = (wanted, signal) => {
    if (wanted === key) asked.resolve(undefined)
    return exclusive(wanted, signal)
  }
  const pushing = push(uploads, APP, content)
  await asked.promise
  t.equal(await store.blobs.stat(digestOf(content)), undefined)
  held[Symbol.dispose]()
  await pushing
  t.ok(await linked(APP, content))
})

test('however many sessions there are, few files stay open, and every session goes on', async (t) => {
  const disk = new FaultyFiles()
  const { uploads } = await openUploads(t, { files: disk.files })
  const contents = Array.from({ length: 150 }, () => randomBytes(1000))
  const ids: string[] = []
  for (const content of contents) {
    await using session = await uploads.start(APP)
    await part(session, content, 0, 499)
    ids.push(session.id)
  }
  while (disk.opened > 64) await new Promise((resolve) => setImmediate(resolve))
  await Promise.all(
    contents.map(async (content, i) => {
      await using session = await uploads.open(APP, ids[i]!)
      t.equal(session.offset, 500)
      await part(session, content, 500, 999)
      await session.finish(digestOf(content))
    }),
  )
  t.equal(disk.opened, 0)
})

test('a session that was just being closed is opened again by who comes then', async (t) => {
  const { uploads } = await openUploads(t)
  const content = randomBytes(1000)
  const sessions = await Promise.all(Array.from({ length: 70 }, () => uploads.start(APP)))
  const [first] = sessions
  await part(first!, content, 0, 499)
  // The oldest ones are closed at once.
  for (const session of sessions) await session[Symbol.asyncDispose]()
  const again = await Promise.all([uploads.open(APP, first!.id), uploads.open(APP, first!.id)])
  t.same(
    again.map(({ offset }) => offset),
    [500, 500],
  )
  await part(again[0], content, 500, 999)
  await again[0].finish(digestOf(content))
  for (const session of again) await session[Symbol.asyncDispose]()
})

test('a session of an earlier process goes on', async (t) => {
  const content = randomBytes(LARGE)
  const before = await openUploads(t)
  await using session = await before.uploads.start(APP)
  await part(session, content, 0, 2 * MiB - 1)
  const store = await openStore(t, { root: before.store.root })
  const uploads = uploadsOf(store, before.metadata)
  await using again = await uploads.open(APP, session.id)
  t.equal(again.offset, 2 * MiB)
  await again.append(body(content.subarray(2 * MiB)), undefined)
  await again.finish(digestOf(content))
  t.ok(await before.linked(APP, content))
})
