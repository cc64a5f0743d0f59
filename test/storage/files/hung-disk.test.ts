/** A disk that does not answer: who waits for it is told, and what may still happen harms nobody. */
import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { test, type Test } from 'tap'
import { nodeFiles } from '../../../src/storage/files/files.ts'
import {
  HungDiskWatch,
  withHungDiskTimeouts,
  type DiskTimeouts,
} from '../../../src/storage/files/hung-disk.ts'
import { OpenFile } from '../../../src/storage/files/open-file.ts'
import { openReader } from '../../../src/storage/metadata/sqlite/connection.ts'
import { openMetadata } from '../../../src/storage/metadata/sqlite/open.ts'
import { eventually } from '../../support/app.ts'
import { FaultyFiles } from '../../support/faulty-files.ts'
import { parseRepositoryName } from '../../../src/oci/reference.ts'

const SOON: DiskTimeouts = { create: 1000, change: 1000, sync: 1000, again: 100, look: 50 }
const HANGS = { name: 'DiskHangs', code: 'ETIMEDOUT' }

function setUp(t: Test, timeouts = SOON) {
  const disk = new FaultyFiles()
  const told: (number | undefined)[] = []
  const watch = new HungDiskWatch({ timeouts, onChange: (since) => void told.push(since) })
  const files = withHungDiskTimeouts(disk.files, watch)
  t.teardown(() => disk.heal())
  return { disk, watch, files, told, dir: t.testdir({ here: 'bytes' }) }
}

test('every change of it ends with an error, reading goes on, and it is over when it answers', async (t) => {
  const { disk, watch, files, told, dir } = setUp(t)
  const at = (name: string): string => path.join(dir, name)
  const file = await files.open(at('new'), 'wx+')
  t.equal(watch.hangsSince, undefined)
  disk.hang()
  for (const [what, change] of [
    ['create', () => files.open(at('other'), 'wx+')],
    ['write', () => files.write(file, [Buffer.from('late')], 0)],
    ['datasync', () => files.datasync(file)],
    ['rename', () => files.rename(at('new'), at('moved'))],
    ['remove', () => files.remove(at('nothing'))],
    ['makeFolder', () => files.makeFolder(at('folder'))],
  ] as const) {
    await t.rejects(Promise.resolve<unknown>(change()), HANGS, what)
    t.type(watch.hangsSince, 'number')
  }
  const reading = await files.open(at('here'), 'r')
  const buffer = Buffer.alloc(5)
  t.equal(await files.read(reading, buffer, 0), 5)
  await files.close(reading)
  t.ok(await files.stat(at('here')))
  t.equal(told.length, 1)

  disk.heal()
  await eventually('all that was begun has ended', () => disk.stuck === 0)
  await eventually('it answers again', () => watch.hangsSince === undefined)
  t.equal(told.length, 2)
  t.equal(told[1], undefined)
  await files.write(file, [Buffer.from('more')], 4)
  await files.close(file)
})

test('a descriptor stays open for what was begun with it, and a file that comes too late goes', async (t) => {
  const { disk, files, dir } = setUp(t)
  const target = path.join(dir, 'new')
  const file = await OpenFile.open(files, target, 'wx+')
  t.equal(disk.opened, 1)
  disk.hang()
  await t.rejects(file.write([Buffer.from('late')], 0), HANGS)
  file[Symbol.dispose]()
  const late = path.join(dir, 'late')
  await t.rejects(files.open(late, 'wx+'), HANGS)
  t.equal(disk.opened, 1)
  disk.heal()
  await file.closed
  await eventually('both are closed', () => disk.opened === 0)
  t.equal(readFileSync(target, 'utf8'), 'late', 'and no other file')
  await eventually('it is gone', () => !existsSync(late))
})

test('few threads wait for it, and who came too late for one is not begun at all', async (t) => {
  const { disk, files, dir } = setUp(t)
  const names = Array.from({ length: 30 }, (_, index) => path.join(dir, `folder-${String(index)}`))
  disk.hang()
  await Promise.all(names.map((name) => t.rejects(files.makeFolder(name), HANGS)))
  t.equal(disk.stuck, 6)
  disk.heal()
  await eventually('those end', () => disk.stuck === 0)
  t.equal(names.filter((name) => existsSync(name)).length, 6)
})

test('one file that does not answer, while others do, is no disk that hangs', async (t) => {
  const { watch } = setUp(t)
  const never = Promise.withResolvers<undefined>()
  const stuck = watch.change('remove', undefined, () => never.promise)
  const over = Promise.withResolvers<undefined>()
  void (async () => {
    const state = { running: true }
    void stuck.catch(() => (state.running = false))
    while (state.running) await watch.change('remove', undefined, () => nodeFiles.remove('/nonexistent'))
    over.resolve(undefined)
  })()
  await t.rejects(stuck, HANGS)
  await over.promise
  t.equal(watch.hangsSince, undefined)
  never.resolve(undefined)
})

test('how much it has free is not waited for, and asked by one thread alone until it says so', async (t) => {
  const { watch, dir } = setUp(t)
  const answers = Promise.withResolvers<{ total: number; free: number }>()
  let asked = 0
  const files = withHungDiskTimeouts(
    {
      ...nodeFiles,
      space: () => {
        asked += 1
        return answers.promise
      },
    },
    watch,
  )
  await t.rejects(files.space(dir), HANGS)
  await t.rejects(files.space(dir), HANGS)
  t.equal(asked, 1)
  answers.resolve({ total: 2, free: 1 })
  await eventually(
    'it is asked again',
    async () => (await files.space(dir).catch(() => undefined))?.free === 1,
  )
})

test('who reads after a commit writes nothing to the memory that connections share', async (t) => {
  const database = path.join(t.testdir(), 'metadata.sqlite')
  const metadata = await openMetadata(database)
  t.teardown(() => metadata.close())
  const reader = openReader(database)
  t.teardown(() => reader.close())
  for (let time = 0; time < 3; time++) {
    const name = parseRepositoryName(`team/app-${String(time)}`)
    await metadata.transaction((tx) => tx.putRepository({ registry: '', name }, 1))
    const before = readFileSync(`${database}-shm`)
    t.equal(reader.prepare('select name from repository').all([]).length, time + 1)
    t.ok(readFileSync(`${database}-shm`).equals(before))
  }
})
