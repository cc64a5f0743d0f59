/** An index that is not the one that knows the files beside it is refused, and one that is only behind is not. */
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test, type Test } from 'tap'
import { LOCAL, type MetadataStore } from '../../../src/storage/metadata/metadata.ts'
import { openMetadata } from '../../../src/storage/metadata/sqlite/open.ts'
import { image } from '../../support/images.ts'
import { blobFile, inDatabase } from '../../support/folder.ts'
import { repository } from '../../suites/metadata.ts'
import { randomBytes } from '../../support/stores.ts'

const INDEX = 'metadata.sqlite'
const [blob] = image({ layers: [100] }).layers

async function write(store: MetadataStore, name: string, rows = 1): Promise<void> {
  for (let row = 0; row < rows; row++) {
    await store.transaction((tx) => tx.putRepository(repository(LOCAL, `${name}${row}`), row))
  }
}

/** A folder with a file that was pushed, as a clean stop leaves it. */
async function stopped(t: Test): Promise<string> {
  const root = t.testdir()
  const store = await openMetadata(path.join(root, INDEX))
  const file = blobFile(root, blob!.digest)
  mkdirSync(path.dirname(file), { recursive: true })
  writeFileSync(file, blob!.bytes)
  await write(store, 'first')
  await store.close()
  return root
}

/** The same, as the end of the process amidst its work leaves it, after so many commits. */
async function killed(t: Test, commits = 10): Promise<string> {
  const root = await stopped(t)
  const running = await openMetadata(path.join(root, INDEX))
  await write(running, 'second', commits)
  const left = path.join(root, 'left')
  mkdirSync(left)
  cpSync(path.join(root, 'blobs'), path.join(left, 'blobs'), { recursive: true })
  for (const name of [INDEX, `${INDEX}-wal`, 'index.json'])
    copyFileSync(path.join(root, name), path.join(left, name))
  await running.close()
  return left
}

async function names(root: string): Promise<string[]> {
  const store = await openMetadata(path.join(root, INDEX))
  const found = await store.repositories.list(LOCAL, { limit: 100 })
  await store.close()
  return found
}

async function refuses(t: Test, root: string, sentence: RegExp): Promise<void> {
  // Not only the first time.
  for (const again of [false, true]) {
    await t.rejects(
      openMetadata(path.join(root, INDEX)),
      { code: 'LOST_INDEX', message: sentence },
      String(again),
    )
  }
  await t.rejects(openMetadata(path.join(root, INDEX)), { message: /`restore FILE`.*`verify --rebuild`/ })
}

test('a clean stop leaves everything in the one file', async (t) => {
  const root = await stopped(t)
  t.same(readdirSync(root).sort(), ['blobs', 'index.json', INDEX])
  t.same(await names(root), ['first0'])
  t.same(readdirSync(root).sort(), ['blobs', 'index.json', INDEX], 'also where nothing was written')
})

test('an index that is gone, or empty, is refused where files are', async (t) => {
  const root = await stopped(t)
  truncateSync(path.join(root, INDEX))
  await refuses(t, root, /metadata\.sqlite is empty/)
  rmSync(path.join(root, INDEX))
  await refuses(t, root, /metadata\.sqlite is gone/)
  t.same(readdirSync(root).sort(), ['blobs', 'index.json'], 'and nothing is made')
  rmSync(path.join(root, 'blobs'), { recursive: true })
  t.same(await names(root), [], 'without files there is nothing to lose')
})

test('a fresh index in the place of the old one is the index of another folder', async (t) => {
  const root = await stopped(t)
  const other = path.join(root, 'other')
  mkdirSync(other)
  await (await openMetadata(path.join(other, INDEX))).close()
  copyFileSync(path.join(other, INDEX), path.join(root, INDEX))
  await refuses(t, root, /of another folder/)
})

test('an older copy of the index is refused, the present one is not', async (t) => {
  const root = await stopped(t)
  const copies = path.join(root, 'copies')
  mkdirSync(copies)
  copyFileSync(path.join(root, INDEX), path.join(copies, 'first'))
  const running = await openMetadata(path.join(root, INDEX))
  await write(running, 'second')
  new DatabaseSync(path.join(root, INDEX)).exec(`vacuum into '${path.join(copies, 'running')}'`)
  await write(running, 'third')
  await running.close()
  copyFileSync(path.join(root, INDEX), path.join(copies, 'last'))
  for (const name of ['first', 'running']) {
    copyFileSync(path.join(copies, name), path.join(root, INDEX))
    await refuses(t, root, /older than the files here/)
  }
  copyFileSync(path.join(copies, 'last'), path.join(root, INDEX))
  t.same(await names(root), ['first0', 'second0', 'third0'])
})

test('without its write-ahead log an index that was not closed is refused', async (t) => {
  const root = await killed(t)
  t.equal((await names(root)).length, 11, 'with it, it is all there')
  for (const spoil of [
    (file: string) => rmSync(file),
    (file: string) => truncateSync(file),
    (file: string) => writeFileSync(file, randomBytes(10_000)),
  ]) {
    const left = await killed(t)
    spoil(path.join(left, `${INDEX}-wal`))
    await refuses(t, left, /write-ahead log/)
  }
})

test('garbage in the midst of the write-ahead log is no power cut; a torn end is one', async (t) => {
  const middle = await killed(t)
  const log = path.join(middle, `${INDEX}-wal`)
  const bytes = readFileSync(log)
  const frame = 24 + bytes.readUInt32BE(8)
  const spoilt = Buffer.from(bytes)
  randomBytes(500).copy(spoilt, 32 + 4 * frame + 100)
  writeFileSync(log, spoilt)
  const before = readFileSync(path.join(middle, INDEX))
  await t.rejects(openMetadata(path.join(middle, INDEX)), { code: 'LOST_INDEX', message: /is damaged/ })
  t.ok(readFileSync(log).equals(spoilt), 'what is left of it is left alone')
  t.ok(readFileSync(path.join(middle, INDEX)).equals(before))

  for (const tear of [
    (end: Buffer) => end.subarray(0, end.length - 100),
    (end: Buffer) => end.fill(0, end.length - 1000),
    (end: Buffer) => Buffer.concat([end, randomBytes(5000)]),
  ]) {
    writeFileSync(log, tear(Buffer.from(bytes)))
    for (const name of [INDEX, 'index.json'])
      copyFileSync(path.join(middle, name), `${path.join(middle, name)}.kept`)
    const there = await names(middle)
    t.ok(there.length >= 10, 'no more than the last commit is lost')
    for (const name of [INDEX, 'index.json'])
      copyFileSync(`${path.join(middle, name)}.kept`, path.join(middle, name))
  }
})

test('garbage in a write-ahead log that nobody needs is nothing', async (t) => {
  const root = await stopped(t)
  writeFileSync(path.join(root, `${INDEX}-wal`), randomBytes(10_000))
  t.same(await names(root), ['first0'])
})

test('a process that ends at whatever moment is no lost index', async (t) => {
  let root = await killed(t)
  for (let life = 0; life < 3; life++) {
    const running = await openMetadata(path.join(root, INDEX))
    await write(running, `life${life}-`, 3)
    const left = path.join(root, 'left')
    mkdirSync(left)
    cpSync(path.join(root, 'blobs'), path.join(left, 'blobs'), { recursive: true })
    for (const name of [INDEX, `${INDEX}-wal`, 'index.json'])
      copyFileSync(path.join(root, name), path.join(left, name))
    await running.close()
    root = left
  }
  t.equal((await names(root)).length, 1 + 10 + 9)
})

test('a dropped table, and what is no database, is told', async (t) => {
  for (const table of ['tag', 'schema_version', 'index_identity']) {
    const root = await stopped(t)
    inDatabase(root, `drop table ${table}`)
    await t.rejects(openMetadata(path.join(root, INDEX)), { code: 'LOST_INDEX' }, table)
  }
  const root = await stopped(t)
  writeFileSync(path.join(root, INDEX), randomBytes(8000))
  await t.rejects(openMetadata(path.join(root, INDEX)), { code: 'LOST_INDEX' })
})

test(
  'a file that may not be read, or not be written, is told with the permission',
  { skip: process.getuid?.() !== 0 },
  async (t) => {
    const root = await stopped(t)
    chmodSync(root, 0o777)
    const nobody = 65534
    const asNobody = async (sentence: RegExp): Promise<void> => {
      process.seteuid?.(nobody)
      try {
        await t.rejects(openMetadata(path.join(root, INDEX)), { code: 'NOT_PERMITTED', message: sentence })
      } finally {
        process.seteuid?.(0)
      }
    }
    chmodSync(path.join(root, 'index.json'), 0o666)
    chmodSync(path.join(root, INDEX), 0o600)
    await asNobody(
      /metadata\.sqlite may not be read: user 65534 needs read permission for it \(its mode is 0600\)/,
    )
    chmodSync(path.join(root, INDEX), 0o644)
    await asNobody(/metadata\.sqlite may not be written: user 65534 needs write permission for it/)
    chmodSync(path.join(root, INDEX), 0o666)
    rmSync(path.join(root, `${INDEX}-wal`), { force: true })
    writeFileSync(path.join(root, `${INDEX}-wal`), '', { mode: 0o600 })
    await asNobody(/metadata\.sqlite-wal may not be read/)
    chmodSync(path.join(root, 'index.json'), 0o600)
    await asNobody(/index\.json may not be read: user 65534 needs read permission/)
  },
)

test('a folder of an earlier version is taken as it is', async (t) => {
  const root = await stopped(t)
  rmSync(path.join(root, 'index.json'))
  const newer = ['index_identity', 'finished_upload'].map((table) => `drop table ${table}`)
  inDatabase(root, ...newer, 'update schema_version set version = 5')
  t.same(await names(root), ['first0'])
  t.ok(existsSync(path.join(root, 'index.json')))
  truncateSync(path.join(root, INDEX))
  await refuses(t, root, /is empty/)
})

test('without a mark, files that are there and that the index does not know are from before it', async (t) => {
  const root = await stopped(t)
  const file = path.join(root, INDEX)
  const writtenAt = statSync(blobFile(root, blob!.digest)).mtimeMs
  const createdAt = (): number => {
    const database = new DatabaseSync(file, { readOnly: true })
    const row = database.prepare('select created_at from index_identity').get()
    database.close()
    return Number(row?.['created_at'])
  }
  t.ok(createdAt() <= Math.ceil(writtenAt))
  t.same(await names(root), ['first0'])
  t.ok(createdAt() <= Math.ceil(writtenAt))
  rmSync(path.join(root, 'index.json'))
  t.same(await names(root), ['first0'])
  t.ok(createdAt() > writtenAt)
})

test('blobs beside an index without rows and without a mark are no lost index', async (t) => {
  const root = await stopped(t)
  rmSync(path.join(root, 'index.json'))
  inDatabase(root, 'delete from repository')
  t.same(await names(root), [])
  rmSync(path.join(root, 'index.json'))
  rmSync(path.join(root, INDEX))
  t.same(await names(root), [], 'nor beside none: nothing tells that anything was pushed')
})
