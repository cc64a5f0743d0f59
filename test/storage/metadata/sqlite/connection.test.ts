import path from 'node:path'
import { Kysely } from 'kysely'
import { test, type Test } from 'tap'
import { openReader, openWriter, sqliteDialect } from '../../../../src/storage/metadata/sqlite/connection.ts'
import '../../../support/folders-last.ts'

interface Items {
  item: { id: number }
}

function openDatabase(t: Test) {
  const file = path.join(t.testdir(), 'test.sqlite')
  const writer = openWriter(file)
  t.teardown(() => writer.close())
  writer.run('create table item (id integer primary key)')
  for (let id = 1; id <= 3; id++) writer.run('insert into item values (?)', [id])
  return { file, writer }
}

test('the writer waits for the disk at each commit', async (t) => {
  const { writer } = openDatabase(t)
  t.same(writer.prepare('pragma synchronous').all([]), [{ synchronous: 2 }])
  t.same(writer.prepare('pragma journal_mode').all([]), [{ journal_mode: 'wal' }])
})

test('a statement is prepared once, and only so many are kept', async (t) => {
  const { writer } = openDatabase(t)
  const first = writer.prepare('select 1')
  t.equal(writer.prepare('select 1'), first)
  for (let i = 0; i < 199; i++) writer.prepare(`select ${i + 2}`)
  t.equal(writer.prepare('select 1'), first, 'the one used last stays longest')
  for (let i = 0; i < 200; i++) writer.prepare(`select ${i + 1000}`)
  t.not(writer.prepare('select 1'), first)
})

test('rows can be streamed while the same statement is used again', async (t) => {
  const { file } = openDatabase(t)
  const reader = openReader(file)
  t.teardown(() => reader.close())
  const sql = 'select id from item where id > ?'
  const seen: unknown[] = []
  for (const row of reader.prepare(sql).iterate([0])) {
    seen.push(row)
    t.equal(reader.prepare(sql).all([1]).length, 2)
  }
  t.same(seen, [{ id: 1 }, { id: 2 }, { id: 3 }])
})

test('the reading connection cannot write', async (t) => {
  const { file } = openDatabase(t)
  const db = new Kysely<Items>({ dialect: sqliteDialect(openReader(file)) })
  t.teardown(() => db.destroy())
  await t.rejects(db.deleteFrom('item').execute(), /readonly/)
})

test('a transaction takes its lock when it begins', async (t) => {
  const { file, writer } = openDatabase(t)
  const db = new Kysely<Items>({ dialect: sqliteDialect(openWriter(file)) })
  t.teardown(() => db.destroy())
  writer.run('begin')
  const other = openReader(file)
  t.teardown(() => other.close())
  t.equal(writer.inTransaction, true)
  t.equal(other.prepare('select count(*) as n from item').all([]).length, 1, 'readers do not wait')
  writer.run('commit')
  await db.transaction().execute(async (tx) => {
    await tx.selectFrom('item').selectAll().execute()
    writer.run('pragma busy_timeout = 0')
    t.throws(() => writer.run('begin'), /locked/)
    await tx.insertInto('item').values({ id: 4 }).execute()
  })
})
