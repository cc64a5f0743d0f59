import { readFileSync } from 'node:fs'
import path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { Kysely, type LogEvent } from 'kysely'
import { test } from 'tap'
import { openMetadata } from '../../../../src/storage/metadata/sqlite/open.ts'
import { parseTag } from '../../../../src/oci/reference.ts'
import { named, repository } from '../../../suites/metadata.ts'
import { sqlMetadata } from '../../../../src/storage/metadata/sql/sql-metadata.ts'
import { openReader, sqliteDialect } from '../../../../src/storage/metadata/sqlite/connection.ts'
import { openSnapshot } from '../../../../src/storage/metadata/sqlite/snapshot.ts'
import { Writer } from '../../../../src/storage/metadata/sqlite/writer.ts'
import type { MetadataStore } from '../../../../src/storage/metadata/metadata.ts'
import type { Tables } from '../../../../src/storage/metadata/sql/schema.ts'
import '../../../support/folders-last.ts'

test('a database is made once and opened again', async (t) => {
  const file = path.join(t.testdir(), 'metadata.sqlite')
  const first = await openMetadata(file)
  await first.transaction((tx) => tx.putRepository(repository('docker.io', 'a'), 1))
  await first.close()
  const second = await openMetadata(file)
  t.ok(await second.repositories.get(repository('docker.io', 'a')))
  await second.close()
})

test('a database of a later version is refused in a sentence, and left as it is', async (t) => {
  const file = path.join(t.testdir(), 'metadata.sqlite')
  await (await openMetadata(file)).close()
  const database = new DatabaseSync(file)
  database.exec('update schema_version set version = 1000')
  database.close()
  const before = readFileSync(file)
  await t.rejects(openMetadata(file), { code: 'NEWER_SCHEMA', message: /schema 1000.*later version/ })
  t.ok(readFileSync(file).equals(before))
})

test('a migration that stops half-way leaves nothing', async (t) => {
  const file = path.join(t.testdir(), 'metadata.sqlite')
  const database = new DatabaseSync(file)
  database.exec('create table blob_source (surprise text)')
  database.close()
  await t.rejects(openMetadata(file), /already exists/)
  const again = new DatabaseSync(file)
  t.teardown(() => again.close())
  const tables = again.prepare("select name from sqlite_schema where type = 'table'").all()
  t.same(
    tables.map((row) => row['name']),
    ['blob_source'],
  )
})

test('every question is answered from an index', async (t) => {
  const file = path.join(t.testdir(), 'metadata.sqlite')
  await (await openMetadata(file)).close()
  const asked: string[] = []
  const log = (event: LogEvent): void => void asked.push(event.query.sql)
  const writer = new Writer(file)
  const store = sqlMetadata(new Kysely<Tables>({ dialect: sqliteDialect(openReader(file)), log }), {
    write: (queries) => writer.write(queries),
    usedBytes: () => 0,
    problems: () => Promise.resolve([]),
    snapshot: () => openSnapshot(file),
    close: () => writer.close(),
  })
  t.teardown(() => store.close())
  await askEverything(store)
  const database = new DatabaseSync(file)
  t.teardown(() => database.close())
  t.equal(asked.length, ALL_QUESTIONS)
  for (const sql of asked) {
    const parameters = Array.from({ length: sql.split('?').length - 1 }, () => 'x')
    const plan = database.prepare(`explain query plan ${sql}`).all(...parameters)
    const scans = plan.map((row) => String(row['detail'])).filter((detail) => detail.startsWith('SCAN'))
    t.same(scans, [], sql)
  }
})

const ALL_QUESTIONS = 12

async function askEverything(store: MetadataStore): Promise<void> {
  const a = repository('docker.io', 'a')
  const page = { limit: 5, last: 'x' }
  await store.repositories.get(a)
  await store.repositories.list('docker.io', page)
  await store.tags.get(a, parseTag('x'))
  await store.tags.list(a, page)
  await store.manifests.get(a, named('x'))
  await store.manifests.descriptor(a, named('x'))
  await store.manifests.references(named('x'))
  await store.manifests.referrers(a, named('x'))
  await store.blobs.linked(a, named('x'))
  await store.blobs.deliveredBy('docker.io', named('x'))
  await store.blobs.size(named('x'))
  await store.finishedUploads.get('x')
}
