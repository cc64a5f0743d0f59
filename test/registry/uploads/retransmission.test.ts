/** Requests of an upload that come a second time, and what is remembered for them. */
import { test, type Test } from 'tap'
import { digestOf } from '../../../src/oci/digest.ts'
import type { UploadSessions } from '../../../src/registry/uploads/upload-sessions.ts'
import { StorageError } from '../../../src/storage/storage-error.ts'
import { KiB, MiB, openStore, randomBytes } from '../../support/stores.ts'
import {
  APP,
  body,
  brokenBody,
  DAY,
  LARGE,
  openUploads,
  OTHER,
  push,
  uploadsOf,
} from '../../support/upload-sessions.ts'

/** A session of that many bytes, which were told of, and what is needed to send more. */
async function standing(t: Test, content: Buffer, told: number) {
  const pushing = await openUploads(t)
  const session = await pushing.uploads.start(APP)
  t.teardown(() => session[Symbol.asyncDispose]())
  if (told > 0) await session.append(body(content.subarray(0, told)), undefined, { told: 0 })
  return { ...pushing, session }
}

for (const told of [0, MiB]) {
  test(`a request that begins at ${told} is sent again, whole or in part, and its bytes are taken once`, async (t) => {
    const content = randomBytes(LARGE)
    for (const came of [1, 64 * KiB, LARGE - told]) {
      for (const piece of [1000, 64 * KiB]) {
        const { session, linked } = await standing(t, content, told)
        const sent = content.subarray(told)
        if (came === sent.length) await session.append(body(sent), undefined, { told })
        else await t.rejects(session.append(brokenBody(sent.subarray(0, came)), undefined, { told }))
        // Once more in part, and that breaks off before it comes to anything new.
        await t.rejects(
          session.append(brokenBody(sent.subarray(0, Math.min(came, 500))), undefined, { told }),
        )
        t.equal(session.offset, told + came)
        await session.append(body(sent, piece), undefined, { told })
        t.equal(session.offset, LARGE)
        await session.finish(digestOf(content))
        t.ok(await linked(APP, content))
      }
    }
  })
}

test('a client that always uses its first location appends, and may repeat its last request too', async (t) => {
  const content = Buffer.concat([
    randomBytes(100 * KiB),
    Buffer.alloc(100 * KiB),
    Buffer.alloc(150 * KiB),
    randomBytes(100 * KiB),
  ])
  // What begins like the beginning, or like the last request.
  content.copy(content, 100 * KiB, 0, 80 * KiB)
  content.copy(content, 200 * KiB, 100 * KiB, 170 * KiB)
  const cuts = [0, 100, 200, 350, 450].map((cut) => cut * KiB)
  for (const repeated of [undefined, 1, 2, 3, 4]) {
    const { session, linked } = await standing(t, content, 0)
    for (const [nth, to] of cuts.entries()) {
      if (nth === 0) continue
      const sent = content.subarray(cuts[nth - 1], to)
      await session.append(body(sent), undefined, { told: 0 })
      if (nth === repeated) await session.append(body(sent), undefined, { told: 0 })
      t.equal(session.offset, to)
    }
    await session.finish(digestOf(content))
    t.ok(await linked(APP, content), `${repeated}`)
  }
})

test('what looks like a repetition and was none, the digest finds out', async (t) => {
  const zeros = Buffer.alloc(100 * KiB)
  const other = randomBytes(100 * KiB)
  for (const chunks of [
    [zeros, zeros],
    [other, zeros, zeros, zeros, other, other],
    [zeros, Buffer.concat([zeros, other]), zeros],
    [zeros, zeros.subarray(0, 1000), zeros.subarray(0, 1000), other],
  ]) {
    const { session, store, linked } = await standing(t, zeros, 0)
    for (const chunk of chunks) await session.append(body(chunk), undefined, { told: 0 })
    const content = Buffer.concat(chunks)
    await session.finish(digestOf(content))
    t.ok(await linked(APP, content))
    t.same(store.partials(), [])
  }
  const { session, store } = await standing(t, zeros, 0)
  for (const chunk of [zeros, zeros]) await session.append(body(chunk), undefined, { told: 0 })
  await t.rejects(session.finish(digestOf(other)), { code: 'DIGEST_INVALID' })
  t.same(store.partials(), [])
})

test('what was told and is not here is asked for again, not replaced by what follows', async (t) => {
  const content = randomBytes(1000)
  const { session, linked } = await standing(t, content, 400)
  const refused = { code: 'RANGE_INVALID', detail: { offset: 400 } }
  await t.rejects(session.append(body(content.subarray(500)), undefined, { told: 500 }), refused)
  await t.rejects(session.finish(digestOf(content), 1000), refused)
  await session.append(body(content.subarray(400)), undefined, { told: 400 })
  await session.finish(digestOf(content), 1000)
  t.ok(await linked(APP, content))
})

test('a session without bytes has no file, outlives the process, and ends in time', async (t) => {
  const clock = { now: 1_700_000_000_000 }
  const { uploads, store, metadata } = await openUploads(t)
  const again = (): UploadSessions => uploadsOf(store, metadata, { now: () => clock.now })
  const first = again()
  const sessions = await Promise.all(Array.from({ length: 500 }, () => first.start(APP, 'sha512')))
  t.equal(new Set(sessions.map(({ id }) => id)).size, 500)
  for (const session of sessions) await session[Symbol.asyncDispose]()
  t.same(store.partials(), [])
  const { id } = sessions[0]!
  await t.rejects(first.open(OTHER, id), { code: 'BLOB_UPLOAD_UNKNOWN' })
  await t.rejects(
    uploads.open(
      APP,
      id.replace(/.$/, (last) => (last === 'A' ? 'Q' : 'A')),
    ),
  )
  const second = again()
  {
    await using session = await second.open(APP, id)
    t.equal(session.offset, 0)
    const content = randomBytes(10)
    await session.append(body(content), undefined)
    await session.finish(digestOf(content, 'sha512'))
  }
  await t.rejects(again().open(APP, id), { code: 'BLOB_UPLOAD_UNKNOWN' }, 'it has ended')
  {
    await using session = await second.open(APP, sessions[1]!.id)
    await session.cancel()
  }
  await t.rejects(second.open(APP, sessions[1]!.id), { code: 'BLOB_UPLOAD_UNKNOWN' })
  clock.now += DAY + 1000
  await t.rejects(second.open(APP, sessions[2]!.id), { code: 'BLOB_UPLOAD_UNKNOWN' })
})

test('as which blob a session ended is known for as long as a session lasts', async (t) => {
  const clock = { now: 1_700_000_000_000 }
  const { store, metadata } = await openUploads(t)
  const again = (): UploadSessions => uploadsOf(store, metadata, { now: () => clock.now })
  const content = randomBytes(10)
  const digest = digestOf(content)
  const session = await again().start(APP)
  await session.append(body(content), undefined)
  t.notOk(await again().finishedAs(APP, session.id, digest))
  await session.finish(digest)
  for (const uploads of [again(), again()]) {
    t.ok(await uploads.finishedAs(APP, session.id, digest))
    t.notOk(await uploads.finishedAs(OTHER, session.id, digest))
    t.notOk(await uploads.finishedAs(APP, session.id, digestOf(randomBytes(9))))
  }
  clock.now += DAY + 1000
  t.notOk(await again().finishedAs(APP, session.id, digest))
  await push(again(), APP, randomBytes(11))
  t.equal(await metadata.finishedUploads.get(session.id), undefined, 'nor kept')
})

test('a closing request that failed at the index, or with the process, is made good by the same again', async (t) => {
  for (const killed of [false, true]) {
    let broken = true
    const { uploads, store, metadata, linked } = await openUploads(t, {
      root: t.testdir(),
      transaction: (fill) =>
        broken ? Promise.reject(new StorageError('BUSY', 'it takes too long')) : metadata.transaction(fill),
    })
    const content = randomBytes(LARGE)
    const digest = digestOf(content)
    await using session = await uploads.start(APP)
    await session.append(body(content), undefined)
    await t.rejects(session.finish(digest), { code: 'UNAVAILABLE' })
    t.equal(store.partials().length, 1, 'it is written down what it was to become')
    broken = false
    const another = await openStore(t, { root: store.root })
    const again = killed ? uploadsOf(another, metadata) : uploads
    await t.rejects(again.open(APP, session.id), { code: 'BLOB_UPLOAD_UNKNOWN' }, 'it is no empty session')
    t.notOk(await again.finishedAs(OTHER, session.id, digest))
    t.notOk(await again.finishedAs(APP, session.id, digestOf(randomBytes(1))))
    t.notOk(await linked(APP, content))
    t.ok(await again.finishedAs(APP, session.id, digest))
    t.ok(await linked(APP, content))
    t.same(store.partials(), [])
    t.ok(await uploadsOf(store, metadata).finishedAs(APP, session.id, digest))
  }
})

test('what it was to become has been collected: it is not here', async (t) => {
  const { uploads, store, linked } = await openUploads(t, {
    transaction: () => Promise.reject(new StorageError('BUSY', 'it takes too long')),
  })
  const content = randomBytes(10)
  await using session = await uploads.start(APP)
  await session.append(body(content), undefined)
  await t.rejects(session.finish(digestOf(content)), { code: 'UNAVAILABLE' })
  await store.blobs.delete(digestOf(content))
  t.notOk(await uploads.finishedAs(APP, session.id, digestOf(content)))
  t.notOk(await linked(APP, content))
  t.same(store.partials(), [])
})

test('what a process left that died in between is removed in time', async (t) => {
  const { uploads, store } = await openUploads(t, {
    transaction: () => Promise.reject(new StorageError('BUSY', 'it takes too long')),
  })
  for (let nth = 0; nth < 3; nth++) {
    await t.rejects(push(uploads, APP, randomBytes(10 + nth)), { code: 'UNAVAILABLE' })
  }
  t.equal(store.partials().length, 3)
  const now = (): number => Date.now() + DAY + 1000
  const later = await openStore(t, { root: store.root, now })
  t.same(later.partials(), [])
})
