import path from 'node:path'
import { test } from 'tap'
import { nodeFiles } from '../../../src/storage/files/files.ts'
import '../../support/folders-last.ts'

test('what is absent is said to be absent, where that is an answer', async (t) => {
  const root = t.testdir({ file: 'content' })
  const at = (...names: string[]): string => path.join(root, ...names)
  t.equal(await nodeFiles.stat(at('none')), undefined)
  t.equal(await nodeFiles.stat(at('file', 'below')), undefined)
  t.equal(await nodeFiles.list(at('none')), undefined)
  await nodeFiles.remove(at('none'))
  await nodeFiles.makeFolder(at('folder'))
  await nodeFiles.makeFolder(at('folder'))
  t.same((await nodeFiles.list(root))?.sort(), ['file', 'folder'])
  t.match(await nodeFiles.stat(at('file')), { kind: 'file', size: 7 })
  t.match(await nodeFiles.stat(at('folder')), { kind: 'folder' })
  await t.rejects(nodeFiles.open(at('none'), 'r'), { code: 'ENOENT' })
  await t.rejects(nodeFiles.open(at('file'), 'wx+'), { code: 'EEXIST' })
  await t.rejects(nodeFiles.rename(at('none'), at('other')), { code: 'ENOENT' })
})

test('bytes go where they are sent', async (t) => {
  const name = path.join(t.testdir(), 'file')
  const file = await nodeFiles.open(name, 'wx+')
  t.equal(await nodeFiles.write(file, [Buffer.from('cd'), Buffer.from('ef')], 2), 4)
  t.equal(await nodeFiles.write(file, [Buffer.from('ab')], 0), 2)
  const buffer = Buffer.alloc(10)
  t.equal(await nodeFiles.read(file, buffer, 1), 5)
  t.equal(buffer.toString('utf8', 0, 5), 'bcdef')
  await nodeFiles.truncate(file, 3)
  await nodeFiles.datasync(file)
  t.equal((await nodeFiles.describe(file)).size, 3)
  await nodeFiles.close(file)
  await nodeFiles.syncFolder(path.dirname(name))
})

test('more syncs than may run at once all come to their end', async (t) => {
  const file = await nodeFiles.open(path.join(t.testdir(), 'file'), 'wx+')
  await Promise.all(Array.from({ length: 12 }, () => nodeFiles.datasync(file)))
  await nodeFiles.close(file)
  t.pass()
})

test('the space of a file system is told', async (t) => {
  const { total, free } = await nodeFiles.space(t.testdir())
  t.ok(total > 0 && free >= 0 && free <= total)
})
