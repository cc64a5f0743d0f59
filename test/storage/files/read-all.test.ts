import { test } from 'tap'
import { readAll } from '../../../src/storage/files/read-all.ts'

const CONTENT = Buffer.from('what a manifest says')

/** Gives at most three bytes for each read. */
const reader = {
  read: (buffer: Buffer, position: number) =>
    Promise.resolve(CONTENT.copy(buffer, 0, position, Math.min(position + 3, CONTENT.length))),
}

test('all of it is read, however little each read gives', async (t) => {
  t.same(await readAll(reader, CONTENT.length), CONTENT)
  t.equal((await readAll(reader, 5))?.toString(), 'what ')
  t.equal((await readAll(reader, 0))?.length, 0)
})

test('the buffer has its memory to itself', async (t) => {
  t.equal((await readAll(reader, 5))?.buffer.byteLength, 5)
})

test('what is shorter than it was said to be is not given in part', async (t) => {
  t.equal(await readAll(reader, CONTENT.length + 1), undefined)
})
