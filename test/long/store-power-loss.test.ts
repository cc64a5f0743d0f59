import { appendFileSync, mkdirSync } from 'node:fs'
import path from 'node:path'
import { test, type Test } from 'tap'
import { digestOf } from '../../src/oci/digest.ts'
import { Hashers } from '../../src/storage/ingest/hasher.ts'
import { openIngests } from '../../src/storage/ingest/disk-ingest.ts'
import { DiskBlobStore } from '../../src/storage/blobs/disk-blob-store.ts'
import { luckOf, NO_LUCK, type Luck } from '../support/power-loss-luck.ts'
import { PowerLossFiles } from '../support/power-loss.ts'
import { identityOf, KiB, openStore, randomBytes, readAll, type Store } from '../support/stores.ts'
import type { Ingest } from '../../src/storage/ingest/ingest.ts'

interface Fill {
  readonly content: Buffer
  /** When its adoption had resolved. */
  adopted: number
}

/** Some fills at once, each in its own order, some with an extent far ahead, some left half-way. */
async function fillAll(store: Store, files: PowerLossFiles, sizes: readonly number[]): Promise<Fill[]> {
  return await Promise.all(
    sizes.map(async (size, i) => {
      const content = randomBytes(size)
      const fill: Fill = { content, adopted: Infinity }
      const ingest = await store.ingests.open(identityOf(content))
      const write = (from: number): Promise<void> =>
        ingest.write([content.subarray(from, Math.min(size, from + 48 * KiB))], from)
      if (i % 3 === 1) await write(Math.max(0, size - 40 * KiB))
      const stop = i % 3 === 2 ? size / 2 : size
      for (let at = 0; at < stop; at += 48 * KiB) await write(at)
      if (i % 3 === 2) {
        await ingest.keep()
        return fill
      }
      const file = await ingest.verify(size)
      await store.blobs.adopt(file!)
      fill.adopted = files.moment
      return fill
    }),
  )
}

async function finish(ingest: Ingest, content: Buffer): Promise<boolean> {
  for (let at = ingest.prefix; at < content.length; at = ingest.readableTo(at)) {
    const end = Math.min(content.length, ingest.nextExtent(at), at + 256 * KiB)
    await ingest.write([content.subarray(at, end)], at)
  }
  return (await ingest.verify(content.length)) !== undefined
}

/** What a start after the power loss may and must find. */
async function examine(t: Test, root: string, fills: readonly Fill[], moment: number): Promise<number> {
  const hashers = new Hashers({ threads: 1 })
  const ingests = await openIngests({ root, hashers })
  const blobs = new DiskBlobStore(root)
  const contents = new Map(fills.map(({ content }) => [digestOf(content), content]))
  let inherited = 0
  try {
    for await (const { digest } of blobs.list()) {
      await using reader = await blobs.open(digest)
      const content = contents.get(digest)
      if (!content || !(await readAll(reader!, content.length + 1)).equals(content)) t.fail('a torn blob')
    }
    for (const { content, adopted } of fills) {
      const there = await blobs.stat(digestOf(content))
      if (adopted <= moment && !there) t.fail('a blob whose adoption had resolved is lost')
      if (there) continue
      const ingest = await ingests.open(identityOf(content))
      inherited += ingest.inherited
      if (!(await finish(ingest, content))) t.fail('bytes that were vouched for are others')
      await ingest.discard()
    }
  } finally {
    await ingests.close()
    await hashers.close()
  }
  return inherited
}

const SIZES = [5, 200 * KiB, 700 * KiB, 1300 * KiB, 1500 * KiB, 2000 * KiB]

test('whenever the power goes, what is there is whole, and what was promised is there', async (t) => {
  const root = t.testdir()
  const files = new PowerLossFiles(path.join(root, 'before'))
  mkdirSync(path.join(root, 'before'))
  const store = await openStore(t, {
    root: path.join(root, 'before'),
    files,
    limits: { saveEvery: 128 * KiB },
  })
  const fills = await fillAll(store, files, SIZES)
  t.ok(files.moment > 100)
  let inherited = 0
  const CUTS = 25
  for (let cut = 0; cut <= CUTS; cut++) {
    const moment = Math.round((files.moment * cut) / CUTS)
    for (const luck of [NO_LUCK, luckOf(cut)]) {
      const after = path.join(root, `after-${cut}-${luck === NO_LUCK ? 'none' : 'some'}`)
      mkdirSync(after)
      files.leave(after, moment, luck)
      inherited += await examine(t, after, fills, moment)
    }
  }
  t.ok(inherited > 0, 'half ones go on from what was synced')
})

test('with no luck at all a kept ingest still resumes with every byte it had', async (t) => {
  const root = t.testdir({ before: {}, after: {} })
  const files = new PowerLossFiles(path.join(root, 'before'))
  const store = await openStore(t, { root: path.join(root, 'before'), files })
  const content = randomBytes(2000 * KiB)
  const ingest = await store.ingests.open(identityOf(content))
  await ingest.write([content.subarray(0, 1200 * KiB)], 0)
  await ingest.keep()
  files.leave(path.join(root, 'after'), files.moment, NO_LUCK)
  const after = await openStore(t, { root: path.join(root, 'after') })
  const resumed = await after.ingests.open(identityOf(content))
  t.equal(resumed.inherited, 1200 * KiB)
  t.ok(await finish(resumed, content))
})

test('without a sync the recorder loses everything', async (t) => {
  const root = t.testdir({ before: {}, after: {} })
  const before = path.join(root, 'before')
  const files = new PowerLossFiles(before)
  const descriptor = await files.open(path.join(before, 'file'), 'wx+')
  await files.write(descriptor, [Buffer.from('bytes')], 0)
  await files.close(descriptor)
  const left = async (name: string, luck: Luck): Promise<string[]> => {
    const after = path.join(root, 'after', name)
    mkdirSync(after)
    files.leave(after, files.moment, luck)
    return (await files.list(after)) ?? []
  }
  t.same(await left('none', NO_LUCK), [])
  t.same(await left('all', () => 1), ['file'])
  await files.syncFolder(before)
  t.same(await left('name', NO_LUCK), ['file'])
  t.equal((await files.stat(path.join(root, 'after', 'name', 'file')))?.size, 0)
})

test('what was cut off a partial file stays off the blob that it becomes', async (t) => {
  const root = t.testdir({ before: {}, after: {} })
  const before = path.join(root, 'before')
  const content = randomBytes(300 * KiB)
  const killed = await openStore(t, { root: before })
  const ingest = await killed.ingests.open(identityOf(content))
  await ingest.write([content], 0)
  await ingest.keep()
  const [, part] = killed.partials()
  appendFileSync(path.join(before, 'ingest', part!), 'never vouched for')
  await killed.ingests.close()

  const files = new PowerLossFiles(before)
  const store = await openStore(t, { root: before, files })
  const resumed = await store.ingests.open(identityOf(content))
  const file = await resumed.verify(content.length)
  await store.blobs.adopt(file!)
  files.leave(path.join(root, 'after'), files.moment, NO_LUCK)
  const after = new DiskBlobStore(path.join(root, 'after'))
  t.equal((await after.stat(digestOf(content)))?.size, content.length)
})

test('a partial file that is a blob already, by half a rename, is not gone on with', async (t) => {
  const root = t.testdir({ before: {}, after: {} })
  const files = new PowerLossFiles(path.join(root, 'before'))
  const store = await openStore(t, {
    root: path.join(root, 'before'),
    files,
    limits: { saveEvery: 128 * KiB },
  })
  const content = randomBytes(300 * KiB)
  const ingest = await store.ingests.open(identityOf(content))
  await ingest.write([content.subarray(0, 200 * KiB)], 0)
  await ingest.keep()
  const whole = await store.ingests.open(identityOf(content))
  await whole.write([content.subarray(200 * KiB)], 200 * KiB)
  await store.blobs.adopt((await whole.verify(content.length))!)
  files.leave(path.join(root, 'after'), files.moment, NO_LUCK)

  const after = await openStore(t, { root: path.join(root, 'after') })
  const again = await after.ingests.open(identityOf(content))
  t.equal(again.inherited, 0)
  await again.discard()
  await using reader = await after.blobs.open(digestOf(content))
  t.ok((await readAll(reader!, content.length + 1)).equals(content))
})
