import { mkdirSync, readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'tap'
import { digestOf } from '../../../src/oci/digest.ts'
import { parseRepositoryName } from '../../../src/oci/reference.ts'
import { nodeFiles, type Descriptor, type Files } from '../../../src/storage/files/files.ts'
import type { UploadIdentity, UploadIngest } from '../../../src/storage/ingest/ingest.ts'
import { FaultyFiles } from '../../support/faulty-files.ts'
import { luckOf, NO_LUCK, SHORT_FILES, ZEROS } from '../../support/power-loss-luck.ts'
import { PowerLossFiles } from '../../support/power-loss.ts'
import {
  identityOf,
  KiB,
  MiB,
  openStore,
  pour,
  randomBytes,
  readAll,
  type Store,
} from '../../support/stores.ts'

const SMALL = 100 * KiB
const LARGE = 5 * MiB + 17
const DAY = 24 * 3600 * 1000

const APP = parseRepositoryName('team/app')

function sessionOf(number: number): string {
  return `0.${String(number).padStart(22, '_')}`
}

function upload(number: number, algorithm: UploadIdentity['algorithm'] = 'sha256'): UploadIdentity {
  return { session: sessionOf(number), repository: APP, algorithm }
}

async function append(ingest: UploadIngest, content: Buffer, to = content.length): Promise<void> {
  for (let at = ingest.prefix; at < to; at += 48 * KiB) {
    await ingest.write([content.subarray(at, Math.min(to, at + 48 * KiB))], at)
  }
}

/** As after a SIGKILL: another process on the same folder, of which the first never took leave. */
function restart(t: Parameters<typeof openStore>[0], { root }: Store, options = {}): Promise<Store> {
  return openStore(t, { root, ...options })
}

for (const algorithm of ['sha256', 'sha512'] as const) {
  for (const size of [0, 1, SMALL, MiB, MiB + 1, LARGE]) {
    test(`${size} bytes become the blob of their ${algorithm} digest, whatever was expected`, async (t) => {
      const store = await openStore(t)
      const content = randomBytes(size)
      const digest = digestOf(content, algorithm)
      for (const [i, expected] of (['sha256', 'sha512'] as const).entries()) {
        const ingest = await store.ingests.createUpload(upload(i, expected))
        await append(ingest, content)
        const file = await ingest.verifyAs(digest)
        t.same([file?.digest, file?.size], [digest, size])
        await store.blobs.adopt(file!)
      }
      await using reader = await store.blobs.open(digest)
      t.ok(reader && (await readAll(reader, size + 1)).equals(content))
      t.same(store.partials(), [])
      t.equal(store.ingests.bytes, 0)
    })
  }
}

test('a digest that is not theirs verifies no bytes, by either algorithm', async (t) => {
  const store = await openStore(t)
  for (const [i, size] of [0, SMALL, LARGE].entries()) {
    for (const [j, algorithm] of (['sha256', 'sha512'] as const).entries()) {
      const ingest = await store.ingests.createUpload(upload(10 * i + j))
      await append(ingest, randomBytes(size))
      t.equal(await ingest.verifyAs(digestOf(randomBytes(10), algorithm)), undefined)
      await ingest.discard()
    }
  }
  t.same(store.partials(), [])
})

test('every byte written outlives a killed process, without a sync', async (t) => {
  const content = randomBytes(LARGE)
  const killed = await openStore(t)
  const first = await killed.ingests.createUpload(upload(1))
  await append(first, content, 3 * MiB)
  await killed.ingests.createUpload(upload(2))

  const after = await restart(t, killed)
  t.equal(after.ingests.bytes, 3 * MiB)
  const second = await after.ingests.openUpload(sessionOf(1), APP)
  t.equal(second?.prefix, 3 * MiB)
  await append(second!, content)
  const file = await second!.verifyAs(digestOf(content))
  t.ok(file, 'what was there is hashed again')
  const empty = await after.ingests.openUpload(sessionOf(2), APP)
  t.equal(empty?.prefix, 0)
  await append(empty!, content, SMALL)
  t.ok(await empty!.verifyAs(digestOf(content.subarray(0, SMALL))))
})

test('after a power cut only what was synced counts, and the session goes on from there', async (t) => {
  const content = randomBytes(LARGE)
  const before = await openStore(t, { boot: 'one' })
  const cut = await before.ingests.createUpload(upload(1))
  await append(cut, content, MiB)
  const kept = await before.ingests.createUpload(upload(2))
  await append(kept, content, 2 * MiB)
  await kept.keep()

  const after = await restart(t, before, { boot: 'two' })
  t.equal(after.ingests.bytes, 2 * MiB)
  t.equal((await after.ingests.openUpload(sessionOf(1), APP))?.prefix, 0)
  const resumed = await after.ingests.openUpload(sessionOf(2), APP)
  t.equal(resumed?.prefix, 2 * MiB)
  await append(resumed!, content, 4 * MiB)

  const again = await restart(t, before, { boot: 'two' })
  const last = await again.ingests.openUpload(sessionOf(2), APP)
  t.equal(last?.prefix, 4 * MiB, 'of a second kill, in the same run of the machine, nothing is lost')
  await append(last!, content)
  t.ok(await last!.verifyAs(digestOf(content)))
})

test('what an earlier process wrote is synced before it becomes a blob', async (t) => {
  const content = randomBytes(LARGE)
  const killed = await openStore(t)
  await append(await killed.ingests.createUpload(upload(1)), content)

  const done: string[] = []
  const paths = new Map<Descriptor, string>()
  const files: Files = {
    ...nodeFiles,
    open: async (name, flags) => {
      const descriptor = await nodeFiles.open(name, flags)
      paths.set(descriptor, path.extname(name))
      return descriptor
    },
    datasync: async (descriptor) => {
      await nodeFiles.datasync(descriptor)
      done.push(`synced ${paths.get(descriptor)}`)
    },
    rename: async (from, to) => {
      await nodeFiles.rename(from, to)
      done.push(`renamed ${path.extname(from)}`)
    },
  }
  const after = await restart(t, killed, { files })
  const resumed = await after.ingests.openUpload(sessionOf(1), APP)
  await after.blobs.adopt((await resumed!.verifyAs(digestOf(content)))!)
  t.ok(done.indexOf('synced .part') >= 0)
  t.ok(done.indexOf('synced .part') < done.indexOf('renamed .part'))
})

test('whenever the power goes, a session has a true beginning of its bytes, or is gone', async (t) => {
  const root = t.testdir({ before: {} })
  const files = new PowerLossFiles(path.join(root, 'before'))
  const store = await openStore(t, {
    root: path.join(root, 'before'),
    files,
    boot: 'one',
    limits: { saveEvery: 128 * KiB },
  })
  const content = randomBytes(1500 * KiB)
  let kept = Infinity
  let adopted = Infinity
  await Promise.all([
    (async () => {
      const first = await store.ingests.createUpload(upload(1))
      await append(first, content, 700 * KiB)
      await first.keep()
      kept = files.moment
    })(),
    (async () => {
      const whole = await store.ingests.createUpload(upload(2))
      await append(whole, content)
      await store.blobs.adopt((await whole.verifyAs(digestOf(content)))!)
      adopted = files.moment
    })(),
  ])
  let sessions = 0
  const CUTS = 12
  for (let cut = 0; cut <= CUTS; cut++) {
    const moment = Math.round((files.moment * cut) / CUTS)
    for (const [i, luck] of [NO_LUCK, SHORT_FILES, ZEROS, luckOf(cut)].entries()) {
      const left = path.join(root, `after-${cut}-${i}`)
      mkdirSync(left)
      files.leave(left, moment, luck)
      const after = await openStore(t, { root: left, boot: 'two' })
      for (const number of [1, 2]) {
        const ingest = await after.ingests.openUpload(sessionOf(number), APP)
        if (ingest === undefined) continue
        sessions++
        const part = path.join(left, 'ingest', `upload-${sessionOf(number)}.part`)
        if (!readFileSync(part).equals(content.subarray(0, ingest.prefix)))
          t.fail('other bytes are vouched for')
        if (number === 1 && kept <= moment) t.equal(ingest.prefix, 700 * KiB)
        await ingest.discard()
      }
      if (adopted <= moment) t.equal((await after.blobs.stat(digestOf(content)))?.size, content.length)
    }
  }
  t.ok(sessions > 10, `${sessions} sessions go on`)
})

test('a session is opened by one at a time, and only for its repository', async (t) => {
  const store = await openStore(t)
  const ingest = await store.ingests.createUpload(upload(1))
  await append(ingest, randomBytes(SMALL))
  t.equal(await store.ingests.openUpload(sessionOf(1), APP), undefined, 'while it is in use')
  await ingest.keep()
  t.equal(await store.ingests.openUpload(sessionOf(1), parseRepositoryName('team/other')), undefined)
  t.equal(await store.ingests.openUpload(sessionOf(2), APP), undefined)
  const again = await store.ingests.openUpload(sessionOf(1), APP)
  t.equal(again?.prefix, SMALL)
  await again?.discard()
  t.equal(await store.ingests.openUpload(sessionOf(1), APP), undefined)
  await t.rejects(store.ingests.createUpload({ ...upload(3), session: '../../etc/passwd' }))
})

test('a session that cannot be opened at the moment is there when it can be', async (t) => {
  const disk = new FaultyFiles()
  const { ingests } = await openStore(t, { files: disk.files })
  const ingest = await ingests.createUpload(upload(1))
  await append(ingest, randomBytes(SMALL))
  await ingest.keep()
  disk.failing.set('create', 'EMFILE')
  await t.rejects(ingests.openUpload(sessionOf(1), APP), { code: 'EMFILE' })
  disk.heal()
  const again = await ingests.openUpload(sessionOf(1), APP)
  t.equal(again?.prefix, SMALL)
  await again?.discard()
})

test('a session without bytes is kept too', async (t) => {
  const store = await openStore(t)
  await (await store.ingests.createUpload(upload(1))).keep()
  t.equal((await store.ingests.openUpload(sessionOf(1), APP))?.prefix, 0)
})

test('bytes that were changed on the disk are noticed when the session goes on', async (t) => {
  const content = randomBytes(LARGE)
  const before = await openStore(t)
  const first = await before.ingests.createUpload(upload(1))
  await append(first, content, 3 * MiB)
  await first.keep()
  const part = path.join(before.root, 'ingest', `upload-${sessionOf(1)}.part`)
  const bytes = readFileSync(part)
  bytes[MiB]! ^= 1
  writeFileSync(part, bytes)
  const after = await restart(t, before)
  const second = await after.ingests.openUpload(sessionOf(1), APP)
  await append(second!, content)
  t.equal(await second!.verifyAs(digestOf(content)), undefined)
})

test('sidecars that are not of their file are removed with it', async (t) => {
  const before = await openStore(t)
  await (await before.ingests.createUpload(upload(1))).keep()
  const folder = path.join(before.root, 'ingest')
  const good = before.partials()
  const sidecar = readFileSync(path.join(folder, `upload-${sessionOf(1)}.json`), 'utf8')
  const junk = {
    [`upload-${sessionOf(2)}.json`]: sidecar,
    [`upload-${sessionOf(3)}.json`]: sidecar
      .replaceAll(sessionOf(1), sessionOf(3))
      .replace('team/app', '../../..'),
    [`upload-${sessionOf(4)}.json`]: '',
    [`upload-${sessionOf(5)}.json`]: sidecar.replaceAll(sessionOf(1), sessionOf(5)).replace('sha256', 'md5'),
  }
  for (const [name, text] of Object.entries(junk)) {
    writeFileSync(path.join(folder, name), text)
    writeFileSync(path.join(folder, name.replace('.json', '.part')), 'bytes')
  }
  writeFileSync(path.join(folder, `upload-${sessionOf(6)}.part`), 'without one')
  writeFileSync(path.join(folder, `upload-short.part`), 'not ours')
  const after = await restart(t, before)
  t.same(after.partials(), [...good, 'upload-short.part'].sort())
})

test('sessions that nobody goes on with end after their time, downloads after theirs', async (t) => {
  let now = Date.now()
  const options = { now: () => now, sessionTtlMs: 2 * DAY }
  const store = await openStore(t, options)
  const content = randomBytes(SMALL)
  const download = await store.ingests.open(identityOf(content))
  await pour(download, content.subarray(0, KiB))
  await download.keep()
  const abandoned = await store.ingests.createUpload(upload(1))
  await append(abandoned, content)
  await abandoned.keep()
  const used = await store.ingests.createUpload(upload(2))
  await append(used, content)

  now += DAY + 1000
  await store.ingests.createUpload(upload(3))
  t.equal(store.ingests.bytes, 2 * SMALL, 'the download is gone, the session is not')
  now += DAY + 1000
  t.equal(await store.ingests.openUpload(sessionOf(1), APP), undefined)
  t.equal(store.ingests.bytes, SMALL)
  await append(used, Buffer.concat([content, content]))
  await used.keep()
  t.ok(await store.ingests.openUpload(sessionOf(2), APP), 'one in use never ends')

  const age = (session: number, ms: number): void => {
    const part = path.join(store.root, 'ingest', `upload-${sessionOf(session)}.part`)
    utimesSync(part, new Date(now - ms), new Date(now - ms))
  }
  age(2, 2 * DAY - 1000)
  age(3, 2 * DAY + 1000)
  const restarted = await restart(t, store, options)
  t.same(
    restarted.partials().map((name) => name.includes(sessionOf(2))),
    [true, true],
    'also at a start',
  )
})

test('on a full disk a session keeps what it has, and goes on when there is room again', async (t) => {
  let full = false
  const files: Files = {
    ...nodeFiles,
    write: async (file, chunks, position) => {
      if (!full) return await nodeFiles.write(file, chunks, position)
      // As a disk does: it takes some, and then nothing.
      await nodeFiles.write(file, [chunks[0]!.subarray(0, 1000)], position)
      throw Object.assign(new Error('ENOSPC: write'), { code: 'ENOSPC' })
    },
  }
  const store = await openStore(t, { files })
  const content = randomBytes(LARGE)
  const first = await store.ingests.createUpload(upload(1))
  await append(first, content, 2 * MiB)
  full = true
  await t.rejects(first.write([randomBytes(SMALL)], 2 * MiB), { code: 'ENOSPC' })
  await first.keep()
  full = false
  const second = await store.ingests.openUpload(sessionOf(1), APP)
  t.equal(second?.prefix, 2 * MiB)
  t.equal(statSync(path.join(store.root, 'ingest', `upload-${sessionOf(1)}.part`)).size, 2 * MiB)
  await append(second!, content)
  t.ok(await second!.verifyAs(digestOf(content)))
})
