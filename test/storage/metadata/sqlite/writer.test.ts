import { readFileSync, statSync } from 'node:fs'
import path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test, type Test } from 'tap'
import { parseTag } from '../../../../src/oci/reference.ts'
import { openMetadata } from '../../../../src/storage/metadata/sqlite/open.ts'
import { Writer, type WriterOptions } from '../../../../src/storage/metadata/sqlite/writer.ts'
import { eventually } from '../../../support/app.ts'
import { repository } from '../../../suites/metadata.ts'
import { startChild } from '../../../support/stores.ts'

function openWriter(t: Test, options?: WriterOptions): { writer: Writer; database: DatabaseSync } {
  const file = path.join(t.testdir(), 'test.sqlite')
  const database = new DatabaseSync(file)
  database.exec('pragma journal_mode = wal; create table item (id integer primary key, text text not null)')
  const writer = new Writer(file, options)
  t.teardown(async () => {
    if (database.isTransaction) database.exec('rollback')
    await writer.close()
    database.close()
  })
  return { writer, database }
}

function insert(id: number, text: string | null = 'x') {
  return { sql: 'insert into item (id, text) values (?, ?)', parameters: [id, text] }
}

function ids(database: DatabaseSync): unknown[] {
  return database
    .prepare('select id from item order by id')
    .all()
    .map((row) => row['id'])
}

test('one failing unit takes nothing of the others with it, and all of itself', async (t) => {
  const { writer, database } = openWriter(t)
  const results = await Promise.allSettled([
    writer.write([insert(1)]),
    writer.write([insert(2), insert(3, null), insert(4)]),
    writer.write([insert(5), insert(6)]),
    writer.write([{ sql: 'insert into nowhere values (1)', parameters: [] }]),
    writer.write([insert(7)]),
  ])
  t.same(
    results.map((result) => result.status),
    ['fulfilled', 'rejected', 'fulfilled', 'rejected', 'fulfilled'],
  )
  t.same(ids(database), [1, 5, 6, 7])
  t.match(results[1], { reason: { code: 'WRITE_FAILED', cause: /NOT NULL/ } })
})

test('what is queued together is committed together', async (t) => {
  const { writer, database } = openWriter(t)
  await writer.write([insert(0)])
  const before = commits(database)
  await Promise.all(Array.from({ length: 200 }, (_, i) => writer.write([insert(i + 1)])))
  t.equal(ids(database).length, 201)
  // Each commit is one sync; without grouping there would be 200.
  t.ok(commits(database) - before < 50)
})

/** Frames in the log with the mark of a commit: every commit writes exactly one (SQLite file format § 4.1). */
function commits(database: DatabaseSync): number {
  const name = database.location()
  if (name === null) throw new Error('a database in a file')
  const log = readFileSync(`${name}-wal`)
  const pageSize = log.readUInt32BE(8)
  let count = 0
  for (let at = 32; at + 24 <= log.length; at += 24 + pageSize) if (log.readUInt32BE(at + 4) !== 0) count++
  return count
}

test('a database that somebody else holds rejects its writers in time, and takes writes again later', async (t) => {
  const told: (number | undefined)[] = []
  const began = Date.now()
  const { writer, database } = openWriter(t, {
    ...{ timeoutMs: 300, maxQueued: 3 },
    onStuck: (since) => told.push(since),
  })
  database.exec('begin immediate')
  const waiting = [2, 3, 4].map((id) => writer.write([insert(id)]))
  await t.rejects(writer.write([insert(5)]), { code: 'BUSY' }, 'more than it queues')
  await Promise.all(waiting.map((write) => t.rejects(write, { code: 'BUSY' })))
  await t.rejects(writer.write([insert(5)]), { code: 'BUSY' }, 'they still are in the queue')
  t.equal(told.length, 1, 'it is told once')
  t.ok(told[0] !== undefined && told[0] >= began && told[0] <= Date.now() - 300, 'since when')
  database.exec('rollback')
  // As long as it takes on this machine.
  const again = { sql: 'insert or ignore into item values (6, ?)', parameters: ['x'] }
  for (let done = false; !done;) {
    done = await writer.write([again]).then(
      () => true,
      () => false,
    )
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  t.notOk(ids(database).includes(5))
  t.same(told.slice(1), [undefined], 'and that it is over')
})

test('a thread that dies rejects what it had, and the next write gets another', async (t) => {
  const folder = t.testdir({
    'worker.mjs': `
      import { parentPort } from 'node:worker_threads'
      parentPort.on('message', ({ unit, queries }) => {
        if (queries[0].sql === 'die') throw new Error('broken thread')
        if (queries[0].sql === 'answer') parentPort.postMessage({ unit })
      })
    `,
  })
  const writer = new Writer('unused', { entry: new URL(`file://${folder}/worker.mjs`) })
  const query = (sql: string) => [{ sql, parameters: [] }]
  const waiting = writer.write(query('wait'))
  await Promise.all([
    t.rejects(waiting, { code: 'WRITE_FAILED', cause: { message: 'broken thread' } }),
    t.rejects(writer.write(query('die')), { code: 'WRITE_FAILED' }),
  ])
  await writer.write(query('answer'))
  await t.rejects(writer.write(query('die')), { code: 'WRITE_FAILED' })
  await writer.close()
})

test('closing commits what is queued, and takes nothing more', async (t) => {
  const { writer, database } = openWriter(t)
  const write = writer.write([insert(1)])
  const closing = writer.close()
  await t.rejects(writer.write([insert(2)]), { code: 'CLOSED' })
  await Promise.all([write, closing])
  t.same(ids(database), [1])
  await new Writer('/nowhere').close()
})

test('a database that cannot be opened rejects, and does not end the process', async (t) => {
  const writer = new Writer(path.join(t.testdir(), 'no', 'such', 'folder.sqlite'))
  t.teardown(() => writer.close())
  await t.rejects(writer.write([insert(1)]), { code: 'WRITE_FAILED' })
  await t.rejects(writer.write([insert(1)]), { code: 'WRITE_FAILED' })
})

test('what was answered is there after the process was killed', async (t) => {
  const file = path.join(t.testdir(), 'metadata.sqlite')
  const child = startChild(t, 'write-metadata', file)
  let last = -1
  while (last < 100) last = Number((await child.lines.next()).value)
  await child.kill()
  const store = await openMetadata(file)
  t.teardown(() => store.close())
  const tags = new Set(await store.tags.list(repository('docker.io', 'a'), { limit: 1_000_000 }))
  for (let i = 0; i <= last; i++) if (!tags.has(parseTag(`t${i}`))) t.fail(`t${i} is lost`)
  t.ok(tags.size > last)
})

/** 20 MB. */
const MANY_ROWS = Array.from({ length: 1000 }, (_, i) => insert(i, 'x'.repeat(20_000)))

for (const [what, pragma] of [
  ['a new database', 'incremental'],
  ['one of an earlier version', 'none'],
] as const) {
  test(`${what} gives back to the disk what was deleted, while nobody writes`, async (t) => {
    const file = path.join(t.testdir(), 'test.sqlite')
    const made = new DatabaseSync(file)
    made.exec(`pragma auto_vacuum = ${pragma}; pragma journal_mode = wal`)
    made.exec('create table item (id integer primary key, text text not null)')
    made.close()
    await using writer = Object.assign(new Writer(file), {
      [Symbol.asyncDispose]: (): Promise<void> => writer.close(),
    })
    await writer.write(MANY_ROWS)
    await writer.write([insert(1000)])
    await writer.write([insert(1002)])
    await writer.write([{ sql: 'delete from item where id < 1000', parameters: [] }])
    await eventually('the file is small again', () => statSync(file).size < 2_000_000)
    await writer.write([insert(1001)])
    await eventually('its log is cut', () => statSync(`${file}-wal`).size < 9_000_000)
    const reader = new DatabaseSync(file, { readOnly: true })
    t.same(ids(reader), [1000, 1001, 1002])
    t.same(reader.prepare('pragma integrity_check').all(), [{ integrity_check: 'ok' }])
    t.same(reader.prepare('pragma auto_vacuum').all(), [{ auto_vacuum: 2 }])
    reader.close()
  })
}
