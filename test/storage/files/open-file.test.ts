import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { test, type Test } from 'tap'
import { nodeFiles, type Files } from '../../../src/storage/files/files.ts'
import { OpenFile, sliceChunks } from '../../../src/storage/files/open-file.ts'
import '../../support/folders-last.ts'

/** Reads wait until told to go on; closings are counted. */
function slowFile(t: Test) {
  const name = path.join(t.testdir({ file: 'content' }), 'file')
  const gate = Promise.withResolvers<undefined>()
  const counts = { closed: 0 }
  const files: Files = {
    ...nodeFiles,
    read: async (file, buffer, position) => {
      await gate.promise
      return await nodeFiles.read(file, buffer, position)
    },
    close: async (file) => {
      counts.closed++
      await nodeFiles.close(file)
    },
  }
  return { counts, goOn: () => gate.resolve(undefined), open: () => OpenFile.open(files, name, 'r') }
}

test('a file is closed once, after the running read and not before', async (t) => {
  const { counts, goOn, open } = slowFile(t)
  const file = await open()
  const buffer = Buffer.alloc(7)
  const reading = file.read(buffer, 0)
  file[Symbol.dispose]()
  file[Symbol.dispose]()
  t.equal(counts.closed, 0)
  goOn()
  t.equal(await reading, 7)
  t.equal(buffer.toString(), 'content')
  await file.closed
  t.equal(counts.closed, 1)
})

test('a late read fails instead of reading whatever file has the number now', async (t) => {
  const { goOn, open } = slowFile(t)
  goOn()
  const file = await open()
  const { descriptor } = file
  file[Symbol.dispose]()
  await file.closed
  const secret = path.join(t.testdirName, 'secret')
  writeFileSync(secret, 'secrets')
  const other = await nodeFiles.open(secret, 'r')
  t.equal(other, descriptor, 'the number is taken again')
  await t.rejects(file.read(Buffer.alloc(7), 0), { message: 'the file is closed' })
  await nodeFiles.close(other)
})

test('whoever retained it twice lets go of it twice', async (t) => {
  const { counts, open } = slowFile(t)
  const file = await open()
  const [first, second] = [file.retain(), file.retain()]
  file[Symbol.dispose]()
  first[Symbol.dispose]()
  first[Symbol.dispose]()
  t.equal(counts.closed, 0)
  second[Symbol.dispose]()
  await file.closed
  t.equal(counts.closed, 1)
})

test('batches of buffers are cut without copying', (t) => {
  const chunks = ['abc', '', 'de', 'fgh'].map((text) => Buffer.from(text))
  const slice = (start: number, end?: number): string[] =>
    sliceChunks(chunks, start, end).map((part) => Buffer.from(part).toString())
  t.same(slice(0), ['abc', 'de', 'fgh'])
  t.same(slice(0, 0), [])
  t.same(slice(1, 4), ['bc', 'd'])
  t.same(slice(3, 5), ['de'])
  t.same(slice(5), ['fgh'])
  t.same(slice(8), [])
  t.equal(sliceChunks(chunks, 3, 5)[0], chunks[2])
  t.end()
})
