/** Uploads on a disk that ends somewhere. */
import { test } from 'tap'
import { PushSpace } from '../../../src/cache/eviction/push-space.ts'
import { digestOf } from '../../../src/oci/digest.ts'
import { KiB, MiB, randomBytes } from '../../support/stores.ts'
import { APP, body, LARGE, openUploads, uploadsOf } from '../../support/upload-sessions.ts'

const FULL = { code: 'INSUFFICIENT_STORAGE', status: 507 }

function roomOf(disk: { headroom: number }): PushSpace {
  return new PushSpace({
    headroom: () => Promise.resolve(disk.headroom),
    canFree: () => Promise.resolve(false),
    makeRoom: () => Promise.resolve(false),
  })
}

test('a body that cannot fit is refused before it is read, and what came before goes first then', async (t) => {
  const disk = { headroom: 2 * MiB }
  const { uploads, store, linked } = await openUploads(t, { room: roomOf(disk) })
  const content = randomBytes(LARGE)
  await using session = await uploads.start(APP)
  await session.append(body(content.subarray(0, MiB)), undefined, { length: MiB })
  disk.headroom -= MiB
  const rest = body(content.subarray(MiB))
  await t.rejects(session.append(rest, undefined, { told: MiB, length: LARGE - MiB }), FULL)
  t.notOk((await rest.next()).done, 'its beginning is still there')
  t.match(store.ingests.uploads(), [{ session: session.id, bytes: MiB, stranded: true }])
  {
    await using again = await uploads.open(APP, session.id)
    t.equal(again.offset, MiB)
    t.match(
      store.ingests.uploads(),
      [{ stranded: false, idleSince: undefined }],
      'not while somebody goes on',
    )
    // Sent again from its beginning, only what is new needs room.
    disk.headroom = LARGE - MiB
    await again.append(body(content), undefined, { told: 0, length: LARGE })
    await again.finish(digestOf(content))
  }
  t.ok(await linked(APP, content))
})

test('of a body whose length nobody tells, what fits is kept and goes first then', async (t) => {
  const disk = { headroom: 10 * MiB }
  const { uploads, store } = await openUploads(t, { room: roomOf(disk) })
  async function* endless(): AsyncGenerator<Buffer> {
    for (;;) {
      disk.headroom -= 64 * KiB
      yield randomBytes(64 * KiB)
    }
  }
  await using session = await uploads.start(APP)
  await t.rejects(session.append(endless(), undefined), FULL)
  t.ok(disk.headroom > -8 * MiB)
  t.match(store.ingests.uploads(), [{ stranded: true }])
  t.equal(await store.ingests.dropUpload(session.id), store.ingests.bytes || session.offset)
  t.same(store.partials(), [])
  await t.rejects(uploads.start(APP), FULL, 'not even begun')
})

test('a thousand uploads may be unfinished, whether they have bytes or not', async (t) => {
  const clock = { now: 1_700_000_000_000 }
  const { store, metadata } = await openUploads(t)
  const uploads = uploadsOf(store, metadata, { now: () => clock.now })
  const many = { code: 'TOOMANYREQUESTS', status: 429 }
  for (let nth = 0; nth < 1000; nth++) {
    await using session = await uploads.start(APP)
    if (nth < 5) await session.append(body(randomBytes(10)), undefined)
    if (nth === 999) await t.rejects(uploads.start(APP), many)
    if (nth === 999) await session.cancel()
  }
  await using last = await uploads.start(APP)
  await t.rejects(uploads.start(APP), many)
  const content = randomBytes(10)
  await last.append(body(content), undefined)
  await last.finish(digestOf(content))
  await using _again = await uploads.start(APP)
  // Those without bytes cost nothing, and are counted only while somebody may be about to send some.
  clock.now += 600_001
  for (let nth = 5; nth < 1000; nth++) await (await uploads.start(APP))[Symbol.asyncDispose]()
  await t.rejects(uploads.start(APP), many)
})
