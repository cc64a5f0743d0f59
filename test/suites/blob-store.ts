/**
 * What every BlobStore must do. `make` gives an empty one, and a way to verified files.
 */
import type { Test } from 'tap'
import { digestOf, type Digest } from '../../src/oci/digest.ts'
import type { BlobInfo, BlobReader, BlobStore } from '../../src/storage/blobs/blob-store.ts'
import type { VerifiedFile } from '../../src/storage/ingest/ingest.ts'

export interface BlobStoreUnderTest {
  readonly blobs: BlobStore
  /** Through a real ingest; each call makes another file. */
  readonly verified: (content: Buffer, digest: Digest) => Promise<VerifiedFile>
}

const content = Buffer.from('some bytes of a layer')
const digest = digestOf(content)

async function readWhole(reader: BlobReader | undefined): Promise<string | undefined> {
  if (!reader) return undefined
  const buffer = Buffer.alloc(reader.size)
  let length = 0
  while (length < buffer.length) length += await reader.read(buffer.subarray(length), length)
  return buffer.toString()
}

async function all(blobs: BlobStore): Promise<BlobInfo[]> {
  const found: BlobInfo[] = []
  for await (const { digest, size, writtenAt } of blobs.list()) {
    if (Math.abs(writtenAt - Date.now()) > 60_000) throw new Error(`it was not written at ${writtenAt}`)
    found.push({ digest, size })
  }
  return found.sort((a, b) => (a.digest < b.digest ? -1 : 1))
}

export function blobStoreSuite(t: Test, make: (t: Test) => Promise<BlobStoreUnderTest>): void {
  void t.test('an empty store has nothing', async (t) => {
    const { blobs } = await make(t)
    t.equal(await blobs.stat(digest), undefined)
    t.equal(await blobs.open(digest), undefined)
    t.same(await all(blobs), [])
    await blobs.delete(digest)
  })

  void t.test('an adopted file is a blob, and its file is consumed', async (t) => {
    const { blobs, verified } = await make(t)
    t.same(await blobs.adopt(await verified(content, digest)), { digest, size: content.length })
    t.same(await blobs.stat(digest), { digest, size: content.length })
    await using reader = await blobs.open(digest)
    t.equal(reader?.size, content.length)
    t.equal(await readWhole(reader), content.toString())
  })

  void t.test('reads are positional, short at the end and nothing after it', async (t) => {
    const { blobs, verified } = await make(t)
    await blobs.adopt(await verified(content, digest))
    await using reader = await blobs.open(digest)
    const buffer = Buffer.alloc(10)
    t.equal(await reader?.read(buffer, content.length - 5), 5)
    t.equal(buffer.toString('utf8', 0, 5), 'layer')
    t.equal(await reader?.read(buffer, content.length), 0)
    t.equal(await reader?.read(buffer, content.length + 100), 0)
  })

  void t.test('an empty blob is a blob', async (t) => {
    const { blobs, verified } = await make(t)
    const empty = digestOf(Buffer.alloc(0))
    await blobs.adopt(await verified(Buffer.alloc(0), empty))
    t.same(await blobs.stat(empty), { digest: empty, size: 0 })
    await using reader = await blobs.open(empty)
    t.equal(await reader?.read(Buffer.alloc(1), 0), 0)
  })

  void t.test('the same digest is adopted any number of times, at once and again', async (t) => {
    const { blobs, verified } = await make(t)
    const files = await Promise.all([1, 2, 3].map(() => verified(content, digest)))
    const infos = await Promise.all(files.map((file) => blobs.adopt(file)))
    t.same(
      infos,
      files.map(() => ({ digest, size: content.length })),
    )
    await blobs.adopt(await verified(content, digest))
    t.equal((await all(blobs)).length, 1)
    await using reader = await blobs.open(digest)
    t.equal(await readWhole(reader), content.toString())
  })

  void t.test('a reader survives the deletion of its blob', async (t) => {
    const { blobs, verified } = await make(t)
    await blobs.adopt(await verified(content, digest))
    await using reader = await blobs.open(digest)
    await blobs.delete(digest)
    t.equal(await blobs.stat(digest), undefined)
    t.equal(await blobs.open(digest), undefined)
    t.equal(await readWhole(reader), content.toString())
  })

  void t.test('a deleted blob can be adopted again', async (t) => {
    const { blobs, verified } = await make(t)
    await blobs.adopt(await verified(content, digest))
    await blobs.delete(digest)
    await blobs.adopt(await verified(content, digest))
    t.ok(await blobs.stat(digest))
  })

  void t.test('whichever comes last of a deletion and an adoption is what holds', async (t) => {
    const { blobs, verified } = await make(t)
    await blobs.adopt(await verified(content, digest))
    const file = await verified(content, digest)
    await Promise.all([blobs.delete(digest), blobs.adopt(file)])
    t.ok(await blobs.stat(digest))
    const again = await verified(content, digest)
    await Promise.all([blobs.adopt(again), blobs.delete(digest)])
    t.equal(await blobs.stat(digest), undefined)
  })

  void t.test('the list names every blob with its size, of both algorithms', async (t) => {
    const { blobs, verified } = await make(t)
    const expected: BlobInfo[] = []
    for (let i = 0; i < 20; i++) {
      const bytes = Buffer.from('x'.repeat(i))
      const name = digestOf(bytes, i % 2 === 0 ? 'sha256' : 'sha512')
      expected.push(await blobs.adopt(await verified(bytes, name)))
    }
    t.same(
      await all(blobs),
      expected.sort((a, b) => (a.digest < b.digest ? -1 : 1)),
    )
  })
}
