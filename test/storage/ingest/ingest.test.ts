import { appendFileSync, existsSync, readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'tap'
import { digestOf } from '../../../src/oci/digest.ts'
import { nodeFiles, type Files } from '../../../src/storage/files/files.ts'
import { identityOf, KiB, land, MiB, openStore, pour, randomBytes, readAll } from '../../support/stores.ts'
import { standstill } from '../../support/stalled.ts'

const SMALL = 100 * KiB
const LARGE = 5 * MiB + 17

for (const size of [0, 1, SMALL, MiB, MiB + 1, LARGE]) {
  test(`a body of ${size} bytes is verified and becomes a blob`, async (t) => {
    const store = await openStore(t)
    const content = randomBytes(size)
    await land(store, content)
    t.same(await store.blobs.stat(digestOf(content)), { digest: digestOf(content), size })
    await using reader = await store.blobs.open(digestOf(content))
    t.ok(reader && (await readAll(reader, size)).equals(content))
    t.same(store.partials(), [])
    t.equal(store.ingests.bytes, 0)
  })
}

test('sha512 is verified as well, small and large', async (t) => {
  const store = await openStore(t)
  for (const size of [SMALL, LARGE]) {
    const content = randomBytes(size)
    const digest = digestOf(content, 'sha512')
    const ingest = await store.ingests.open({ source: 'docker.io', digest })
    await pour(ingest, content)
    const file = await ingest.verify(size)
    t.equal(file?.digest, digest)
    await ingest.discard()
  }
})

for (const size of [SMALL, LARGE]) {
  test(`one wrong bit of ${size} bytes is noticed, and nothing becomes a blob`, async (t) => {
    const store = await openStore(t)
    const content = randomBytes(size)
    const identity = identityOf(content)
    const wrong = Buffer.from(content)
    wrong[size - 1]! ^= 1
    const ingest = await store.ingests.open(identity)
    await pour(ingest, wrong)
    t.equal(await ingest.verify(size), undefined)
    await ingest.discard()
    t.equal(await store.blobs.stat(identity.digest), undefined)
    t.same(store.partials(), [])
  })
}

test('extents come in any order and from several writers at once', async (t) => {
  const store = await openStore(t)
  const content = randomBytes(LARGE)
  const ingest = await store.ingests.open(identityOf(content))
  const middle = 2 * MiB
  await pour(ingest, content, middle)
  t.equal(ingest.prefix, 0)
  t.equal(ingest.readableTo(middle), LARGE)
  t.equal(ingest.readableTo(middle - 1), middle - 1)
  t.equal(ingest.nextExtent(0), middle)
  t.equal(ingest.nextExtent(middle + 1), Infinity)
  t.equal(await ingest.read(Buffer.alloc(10), middle - 5), 0, 'a hole has no bytes')
  const part = (from: number, to: number): Promise<void> => ingest.write([content.subarray(from, to)], from)
  await Promise.all([part(MiB, middle), part(0, MiB)])
  t.equal(ingest.prefix, LARGE)
  t.ok(await ingest.verify(LARGE))
})

test('bytes that are there are not written again, whatever comes', async (t) => {
  const store = await openStore(t)
  const content = randomBytes(SMALL)
  const ingest = await store.ingests.open(identityOf(content))
  await ingest.write([content.subarray(10, 20)], 10)
  await ingest.write([content.subarray(40, 50)], 40)
  const other = Buffer.concat([content.subarray(0, 10), randomBytes(10), content.subarray(20, 40)])
  await ingest.write([other.subarray(0, 7), other.subarray(7, 15), other.subarray(15)], 0)
  await pour(ingest, content, 45)
  t.equal(ingest.prefix, SMALL)
  t.ok(await ingest.verify(SMALL))
})

test('a body of more or fewer bytes than it was to have is not verified', async (t) => {
  const store = await openStore(t)
  const content = randomBytes(SMALL)
  const ingest = await store.ingests.open(identityOf(content))
  await pour(ingest, content)
  await t.rejects(ingest.verify(SMALL - 1))
  await t.rejects(ingest.verify(SMALL + 1))
  await ingest.write([content.subarray(0, 1)], SMALL + 1)
  await t.rejects(ingest.verify(SMALL), 'with something behind a hole')
})

test('once verification has begun nothing is written any more', async (t) => {
  const store = await openStore(t)
  const content = randomBytes(LARGE)
  const ingest = await store.ingests.open(identityOf(content))
  await pour(ingest, content)
  const verifying = ingest.verify(LARGE)
  await t.rejects(ingest.write([content.subarray(0, 1)], LARGE))
  t.ok(await verifying)
})

test('whoever retains it reads on while it is adopted, and after', async (t) => {
  const store = await openStore(t)
  const content = randomBytes(LARGE)
  const ingest = await store.ingests.open(identityOf(content))
  await pour(ingest, content)
  const retained = ingest.retain()
  const file = await ingest.verify(LARGE)
  const [early] = await Promise.all([readAll(ingest, LARGE), store.blobs.adopt(file!)])
  t.ok(early.equals(content))
  await store.blobs.delete(file!.digest)
  t.ok((await readAll(ingest, LARGE)).equals(content))
  retained[Symbol.dispose]()
  await t.rejects(ingest.read(Buffer.alloc(1), 0))
  t.throws(() => ingest.retain())
})

test('whoever retains it reads on after it was discarded', async (t) => {
  const store = await openStore(t)
  const content = randomBytes(SMALL)
  const ingest = await store.ingests.open(identityOf(content))
  await pour(ingest, content)
  const retained = ingest.retain()
  await ingest.discard()
  t.same(store.partials(), [])
  t.ok((await readAll(ingest, SMALL)).equals(content))
  retained[Symbol.dispose]()
})

test('a kept ingest goes on in this process where it stopped', async (t) => {
  const store = await openStore(t)
  const content = randomBytes(LARGE)
  const first = await store.ingests.open(identityOf(content))
  await first.write([content.subarray(0, 3 * MiB)], 0)
  await first.write([content.subarray(4 * MiB, 5 * MiB)], 4 * MiB)
  await first.keep()
  await t.rejects(first.write([content.subarray(3 * MiB, 4 * MiB)], 3 * MiB))
  t.equal(store.ingests.bytes, 4 * MiB)
  const second = await store.ingests.open(identityOf(content))
  t.equal(second.inherited, 4 * MiB)
  t.equal(second.prefix, 3 * MiB)
  t.equal(second.nextExtent(second.prefix), 4 * MiB)
  await pour(second, content, 3 * MiB)
  const file = await second.verify(LARGE)
  t.ok(file)
  await store.blobs.adopt(file!)
  t.same(store.partials(), [])
})

test('an ingest without bytes leaves nothing when it is kept', async (t) => {
  const store = await openStore(t)
  const ingest = await store.ingests.open(identityOf(randomBytes(10)))
  await ingest.keep()
  t.same(store.partials(), [])
})

test('a kept ingest goes on in the next process, its prefix hashed again', async (t) => {
  const content = randomBytes(LARGE)
  const before = await openStore(t)
  const first = await before.ingests.open(identityOf(content))
  await pour(first, content.subarray(0, 3 * MiB))
  await before.ingests.close()
  t.equal(before.partials().length, 2)

  const after = await openStore(t, { root: before.root })
  t.equal(after.ingests.bytes, 3 * MiB)
  const second = await after.ingests.open(identityOf(content))
  t.equal(second.prefix, 3 * MiB)
  await pour(second, content, 3 * MiB)
  t.ok(await second.verify(LARGE))
})

test('a prefix that was changed on the disk is noticed after a resume', async (t) => {
  const content = randomBytes(LARGE)
  const before = await openStore(t)
  const first = await before.ingests.open(identityOf(content))
  await pour(first, content.subarray(0, 3 * MiB))
  await first.keep()
  const part = path.join(
    before.root,
    'ingest',
    before.partials().find((name) => name.endsWith('.part'))!,
  )
  const bytes = readFileSync(part)
  bytes[MiB]! ^= 1
  writeFileSync(part, bytes)
  const after = await openStore(t, { root: before.root })
  const second = await after.ingests.open(identityOf(content))
  await pour(second, content, second.prefix)
  t.equal(await second.verify(LARGE), undefined)
})

test('another upstream, a running ingest and a fresh one inherit nothing', async (t) => {
  const store = await openStore(t)
  const content = randomBytes(LARGE)
  const first = await store.ingests.open(identityOf(content))
  await pour(first, content.subarray(0, 2 * MiB))
  await first.keep()
  const foreign = await store.ingests.open(identityOf(content, 'quay.io'))
  t.equal(foreign.inherited, 0)
  const resumed = await store.ingests.open(identityOf(content))
  t.equal(resumed.inherited, 2 * MiB)
  const beside = await store.ingests.open(identityOf(content))
  t.equal(beside.inherited, 0)
  await beside.write([content.subarray(0, 5)], 0)
  await resumed.keep()
  await beside.keep()
  t.equal((await store.ingests.open(identityOf(content), { fresh: true })).inherited, 0)
  t.equal(store.partials().filter((name) => name.endsWith('.json')).length, 0, 'the doubted bytes are gone')
})

test('of two partials of one identity the longer one stays', async (t) => {
  const store = await openStore(t)
  const content = randomBytes(LARGE)
  const long = await store.ingests.open(identityOf(content))
  const short = await store.ingests.open(identityOf(content))
  await pour(long, content.subarray(0, 2 * MiB))
  await pour(short, content.subarray(0, MiB))
  await long.keep()
  await short.keep()
  t.equal(store.partials().length, 2)
  t.equal((await store.ingests.open(identityOf(content))).inherited, 2 * MiB)
})

test('the sidecar follows the bytes by itself, and mentions none that is not in the file', async (t) => {
  const store = await openStore(t, { limits: { saveEvery: MiB } })
  const content = randomBytes(LARGE)
  const ingest = await store.ingests.open(identityOf(content))
  await pour(ingest, content.subarray(0, 4 * MiB))
  // The ingest is still open: this is what a crash would leave, as soon as the first save is through.
  let sidecar: string | undefined
  while (sidecar === undefined) {
    await new Promise((resolve) => setImmediate(resolve))
    sidecar = store.partials().find((name) => name.endsWith('.json'))
  }
  const { extents } = JSON.parse(readFileSync(path.join(store.root, 'ingest', sidecar), 'utf8')) as {
    extents: [number, number][]
  }
  t.equal(extents.length, 1)
  t.equal(extents[0]![0], 0)
  t.ok(extents[0]![1] >= MiB && extents[0]![1] <= 4 * MiB)
})

test('what a start finds and cannot vouch for is removed, what is not ours stays', async (t) => {
  const content = randomBytes(LARGE)
  const before = await openStore(t)
  const first = await before.ingests.open(identityOf(content))
  await pour(first, content.subarray(0, 2 * MiB))
  await first.keep()
  const folder = path.join(before.root, 'ingest')
  const good = before.partials()
  const hex = digestOf(randomBytes(5)).slice('sha256:'.length)
  const junk = {
    [`sha256-${hex}.aa.part`]: 'without a sidecar',
    [`sha256-${hex}.ab.json`]: '{"version":1}',
    [`sha256-${hex}.ac.part`]: 'with half a sidecar',
    [`sha256-${hex}.ac.json`]: '{"version":1,"source":"docker.io","dig',
    [`sha256-${hex}.ad.part`]: 'with a sidecar of another digest',
    [`sha256-${hex}.ad.json`]: readFileSync(path.join(folder, good[0]!), 'utf8'),
    [`sha256-${hex}.ae.json.tmp`]: '{}',
    [`sha256-${hex}.af.part`]: 'with a sidecar of the future',
    [`sha256-${hex}.af.json`]: JSON.stringify({
      version: 2,
      source: 'docker.io',
      digest: `sha256:${hex}`,
      extents: [[0, 5]],
    }),
  }
  for (const [name, text] of Object.entries(junk)) writeFileSync(path.join(folder, name), text)
  writeFileSync(path.join(folder, 'notes.txt'), 'not ours')
  const after = await openStore(t, { root: before.root })
  t.same(after.partials(), ['notes.txt', ...good].sort())
})

test('a sidecar never vouches beyond the end of the file, nor the file beyond the sidecar', async (t) => {
  const content = randomBytes(LARGE)
  const before = await openStore(t)
  const first = await before.ingests.open(identityOf(content))
  await pour(first, content.subarray(0, 3 * MiB))
  await first.keep()
  const [sidecar, part] = before.partials().map((name) => path.join(before.root, 'ingest', name))
  const text = readFileSync(sidecar!, 'utf8')
  writeFileSync(sidecar!, text.replace(String(3 * MiB), String(4 * MiB)))
  const claimed = await openStore(t, { root: before.root })
  t.equal(claimed.ingests.bytes, 3 * MiB)
  writeFileSync(sidecar!, text)
  appendFileSync(part!, randomBytes(4 * MiB))
  const after = await openStore(t, { root: before.root })
  const second = await after.ingests.open(identityOf(content))
  t.equal(second.inherited, 3 * MiB)
  t.equal(statSync(part!).size, 3 * MiB, 'or it would hang on behind the blob')
})

test('a partial of more than a day ago is removed, at a start and while running', async (t) => {
  const day = 24 * 3600 * 1000
  let now = Date.now()
  const content = randomBytes(SMALL)
  const before = await openStore(t, { now: () => now })
  const first = await before.ingests.open(identityOf(content))
  await pour(first, content.subarray(0, KiB))
  await first.keep()
  now += day + 1000
  const other = await before.ingests.open(identityOf(content, 'quay.io'))
  t.equal(before.ingests.bytes, 0)
  await pour(other, content.subarray(0, KiB))
  await other.keep()
  const part = path.join(before.root, 'ingest', before.partials()[1]!)
  utimesSync(part, new Date(now - day - 1000), new Date(now - day - 1000))
  const after = await openStore(t, { root: before.root, now: () => now })
  t.same(after.partials(), [])
  t.notOk(existsSync(part))
})

test('ending it a second time changes nothing', async (t) => {
  const store = await openStore(t)
  const ingest = await store.ingests.open(identityOf(randomBytes(10)))
  await ingest.discard()
  await ingest.discard()
  await ingest.keep()
  await t.rejects(ingest.verify(0))
})

test('an ingest ends only when nothing of it is being written any more', async (t) => {
  const gate = Promise.withResolvers<undefined>()
  const files: Files = {
    ...nodeFiles,
    write: async (file, chunks, position) => {
      if (position > 0) await gate.promise
      return await nodeFiles.write(file, chunks, position)
    },
  }
  const store = await openStore(t, { files })
  const content = randomBytes(SMALL)
  const ingest = await store.ingests.open(identityOf(content))
  await ingest.write([content.subarray(0, 10)], 0)
  const writing = ingest.write([content.subarray(10, 20)], 10)
  let kept = false
  const keeping = ingest.keep().then(() => {
    kept = true
  })
  await new Promise((resolve) => setImmediate(resolve))
  t.equal(kept, false)
  t.equal((await store.ingests.open(identityOf(content))).inherited, 0, 'nobody else gets the file meanwhile')
  gate.resolve(undefined)
  await Promise.all([writing, keeping])
  t.equal((await store.ingests.open(identityOf(content))).inherited, 20)
})

test('a writer does not run away from the hasher, nor from the disk', async (t) => {
  const gate = Promise.withResolvers<undefined>()
  const files: Files = {
    ...nodeFiles,
    datasync: async (file) => {
      await gate.promise
      await nodeFiles.datasync(file)
    },
  }
  const limits = { saveEvery: 256 * KiB, maxUnsynced: 512 * KiB, maxUnhashed: 2 * MiB }
  const store = await openStore(t, { files, limits })
  const content = randomBytes(LARGE)
  const ingest = await store.ingests.open(identityOf(content))
  const pouring = pour(ingest, content)
  await standstill(() => ingest.prefix)
  t.ok(ingest.prefix >= 256 * KiB && ingest.prefix <= 2 * MiB, 'it waits for the sync')
  gate.resolve(undefined)
  await pouring
  t.ok(await ingest.verify(LARGE), 'and then goes on')
})

test('what is disowned is read to its end, and leaves nothing, neither when it is kept nor for the next process', async (t) => {
  const store = await openStore(t, { limits: { saveEvery: 64 * KiB } })
  const content = randomBytes(MiB)
  const killed = randomBytes(MiB)
  const before = await store.ingests.open(identityOf(content))
  await pour(before, content)
  t.not(store.partials().length, 0)
  using _reader = before.retain()
  before.disown()
  await before.keep()
  t.same(store.partials(), [])
  t.ok((await readAll(before, MiB)).equals(content))
  t.equal((await store.ingests.open(identityOf(content))).inherited, 0)

  const ingest = await store.ingests.open(identityOf(killed))
  await pour(ingest, killed.subarray(0, MiB / 2))
  while (!store.partials().some((name) => name.endsWith('.json')))
    await new Promise((resolve) => setImmediate(resolve))
  ingest.disown()
  await pour(ingest, killed, MiB / 2)
  while (store.partials().some((name) => name.endsWith('.json')))
    await new Promise((resolve) => setImmediate(resolve))
  const next = await openStore(t, { root: store.root })
  t.notOk(next.partials().some((name) => name.includes(identityOf(killed).digest.slice('sha256:'.length))))
})

test('a download that was begun near its end has no more of the disk than what came', async (t) => {
  const store = await openStore(t)
  const content = randomBytes(64 * KiB)
  const ingest = await store.ingests.open(identityOf(content))
  await ingest.write([content.subarray(60 * KiB)], 60 * KiB)
  t.match(store.ingests.downloads(), [{ bytes: 4 * KiB }])
  await ingest.keep()
  t.match(store.ingests.downloads(), [{ bytes: 4 * KiB }])
  t.equal(await store.ingests.dropDownload(identityOf(content)), 4 * KiB)
})
