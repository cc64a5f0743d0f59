import { createHash, randomBytes } from 'node:crypto'
import { test } from 'tap'
import { MemoryIngest } from '../../../src/cache/blobs/memory-ingest.ts'
import { digestOf } from '../../../src/oci/digest.ts'

const KiB = 1024
const NEVER = new AbortController().signal
const content = randomBytes(600 * KiB)
const identity = { source: 'docker.io', digest: digestOf(content) }

function gone(): AbortSignal {
  return AbortSignal.abort(new Error('the reader has gone'))
}

async function take(ingest: MemoryIngest, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length)
  return buffer.subarray(0, await ingest.read(buffer))
}

test('a whole blob is read in order, and verified while its end waits', async (t) => {
  const ingest = new MemoryIngest({ identity, from: 0 })
  await ingest.write([content.subarray(0, 100), content.subarray(100, 300 * KiB)])
  t.equal(ingest.prefix, 300 * KiB)
  t.equal(ingest.readableTo(0), 300 * KiB)
  t.ok((await take(ingest, 200 * KiB)).equals(content.subarray(0, 200 * KiB)))
  t.equal(ingest.readableTo(0), 0, 'what was read has gone')
  await ingest.write([content.subarray(300 * KiB)])
  t.match(await ingest.verify(content.length, NEVER), { digest: identity.digest, size: content.length })
  t.ok((await take(ingest, content.length)).equals(content.subarray(200 * KiB)))
})

test('another digest is not vouched for', async (t) => {
  const ingest = new MemoryIngest({ identity, from: 0 })
  await ingest.write([content.subarray(1)])
  t.equal(await ingest.verify(content.length - 1, NEVER), undefined)
})

test('what a reader had from elsewhere counts, and what it skips is hashed all the same', async (t) => {
  const hash = createHash('sha256').update(content.subarray(0, 1000))
  const goesOn = new MemoryIngest({ identity, from: 1000, had: { hash, length: 1000 } })
  const skips = new MemoryIngest({ identity, from: 1000 })
  t.equal(goesOn.prefix, 1000)
  t.equal(skips.prefix, 0)
  await goesOn.write([content.subarray(1000)])
  await skips.write([content])
  for (const ingest of [goesOn, skips]) {
    t.ok((await take(ingest, 10)).equals(content.subarray(1000, 1010)))
    t.ok(await ingest.verify(content.length, NEVER))
  }
})

test('a second try gives out nothing that does not begin with what the reader has', async (t) => {
  const first = new MemoryIngest({ identity, from: 0 })
  await first.write([content.subarray(0, 2000)])
  await take(first, 1000)
  const same = first.again()
  await same.write([content.subarray(0, 500), content.subarray(500)])
  t.equal(same.readableTo(1000), content.length)
  t.ok((await take(same, 10)).equals(content.subarray(1000, 1010)))
  t.ok(await same.verify(content.length, NEVER))
  await t.rejects(first.again().write([Buffer.alloc(1000), content.subarray(1000)]), { code: 'BAD_GATEWAY' })
  const untaken = new MemoryIngest({ identity, from: 0 }).again()
  await untaken.write([content])
  t.ok(await untaken.verify(content.length, NEVER), 'who has nothing may have anything')
})

test('a part ends where it ends, and is never verified', async (t) => {
  const part = new MemoryIngest({ identity, from: 100, end: 200 })
  t.equal(part.prefix, 100)
  t.equal(part.nextExtent(), 200)
  await part.write([content.subarray(100, 200)])
  t.equal(part.prefix, Infinity)
  t.equal(part.readableTo(100), 200)
  t.ok((await take(part, 1000)).equals(content.subarray(100, 200)))
  await t.rejects(part.verify(200, gone()), { message: 'the reader has gone' })
})

test('a writer waits for a reader that is far behind, for as long as it is there', async (t) => {
  const ingest = new MemoryIngest({ identity, from: 0 })
  t.equal(await ingest.drained(NEVER), true)
  await ingest.write([content])
  const drained = ingest.drained(NEVER)
  await take(ingest, 100 * KiB)
  await take(ingest, 300 * KiB)
  t.equal(await drained, true)
  await ingest.write([content])
  await t.rejects(ingest.drained(gone()), { message: 'the reader has gone' })
})
