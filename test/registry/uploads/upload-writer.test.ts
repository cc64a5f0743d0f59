/** A body on its way to the disk: written in few pieces, and not held back for more than a moment. */
import { test } from 'tap'
import { receive, WriteError } from '../../../src/registry/uploads/upload-writer.ts'

/** An upload that keeps what it is given, and can be waited for. */
class Kept {
  readonly writes: Buffer[] = []
  prefix = 0
  fail: Error | undefined
  #wake = Promise.withResolvers<undefined>()

  async write(chunks: readonly Buffer[], position: number): Promise<void> {
    if (this.fail !== undefined) throw this.fail
    if (position !== this.prefix) throw new Error(`written at ${position} instead of ${this.prefix}`)
    // Its memory is given back when this is over.
    const bytes = Buffer.concat(chunks)
    await new Promise((resolve) => setImmediate(resolve))
    this.writes.push(bytes)
    this.prefix += bytes.length
    this.#wake.resolve(undefined)
    this.#wake = Promise.withResolvers()
  }

  async until(bytes: number): Promise<void> {
    while (this.prefix < bytes) await this.#wake.promise
  }

  get bytes(): Buffer {
    return Buffer.concat(this.writes)
  }
}

const KiB = 1024
const SENT = Buffer.from(Array.from({ length: 3000 * KiB }, (_, at) => (at * 7 + (at >> 10)) & 255))

async function* inPieces(bytes: Buffer, size: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += size) {
    yield Buffer.from(bytes.subarray(at, at + size))
  }
}

test('many small pieces are few writes', async (t) => {
  const kept = new Kept()
  t.equal(await receive(inPieces(SENT, 4 * KiB), kept, Infinity), SENT.length)
  t.ok(kept.bytes.equals(SENT))
  t.ok(kept.writes.length <= 14, `${kept.writes.length} writes`)
})

test('of large pieces, and of one alone, nothing is lost either', async (t) => {
  for (const size of [700 * KiB, SENT.length]) {
    const kept = new Kept()
    t.equal(await receive(inPieces(SENT, size), kept, Infinity), SENT.length)
    t.ok(kept.bytes.equals(SENT))
  }
})

test('what has come is written although the rest takes its time', async (t) => {
  const kept = new Kept()
  async function* slow(): AsyncGenerator<Buffer> {
    yield SENT.subarray(0, 10)
    await kept.until(10)
    yield SENT.subarray(10, 30)
    await kept.until(30)
  }
  t.equal(await receive(slow(), kept, Infinity), 30)
  t.equal(kept.prefix, 30)
})

test('what came before the body broke off is written', async (t) => {
  const kept = new Kept()
  async function* broken(): AsyncGenerator<Buffer> {
    yield* inPieces(SENT.subarray(0, 1000), 100)
    throw new Error('the client has left')
  }
  await t.rejects(receive(broken(), kept, Infinity), /the client has left/)
  t.ok(kept.bytes.equals(SENT.subarray(0, 1000)))
})

test('beyond its limit nothing is written, and it is told', async (t) => {
  const kept = new Kept()
  t.ok((await receive(inPieces(SENT, 64 * KiB), kept, 100 * KiB)) > 100 * KiB)
  t.ok(kept.bytes.equals(SENT.subarray(0, 100 * KiB)))
})

test('a disk that takes nothing ends it, and no more is read', async (t) => {
  const kept = new Kept()
  kept.fail = new Error('no space')
  let read = 0
  async function* counted(): AsyncGenerator<Buffer> {
    for await (const piece of inPieces(SENT, 64 * KiB)) {
      read += piece.length
      yield piece
    }
  }
  await t.rejects(receive(counted(), kept, Infinity), new WriteError('an upload could not be written'))
  t.ok(read < SENT.length, `${read} bytes were read`)
})
