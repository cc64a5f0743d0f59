/** Archives as we write them, and as others do. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'tap'
import { readTar, TarError } from '../../../src/admin/archive/read-tar.ts'
import { END_OF_ARCHIVE, tarHeader, tarPadding } from '../../../src/admin/archive/write-tar.ts'
import { missing, succeed } from '../../support/programs.ts'
import '../../support/folders-last.ts'

const AT = new Date(1_700_000_000_000)

const LONG = `blobs/sha512/${'ab'.repeat(64)}`

function archive(files: Record<string, Buffer>): Buffer {
  const parts = Object.entries(files).flatMap(([name, bytes]) => [
    tarHeader(name, bytes.length, AT),
    bytes,
    tarPadding(bytes.length),
  ])
  return Buffer.concat([...parts, END_OF_ARCHIVE])
}

async function* pieces(bytes: Buffer, length: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += length) yield bytes.subarray(at, at + length)
}

async function contents(bytes: Buffer, length = 1000): Promise<Record<string, string>> {
  const found: Record<string, string> = {}
  for await (const { name, size, body } of readTar(pieces(bytes, length))) {
    const parts: Buffer[] = []
    for await (const part of body) parts.push(part)
    found[name] = Buffer.concat(parts).toString()
    if (found[name].length !== size) throw new Error(`${name} is not ${size} long`)
  }
  return found
}

const FILES = {
  'oci-layout': Buffer.from('{}'),
  empty: Buffer.alloc(0),
  exactly: Buffer.alloc(512, 'x'),
  more: Buffer.alloc(5000, 'y'),
  [LONG]: Buffer.from('a name too long for the oldest format'),
}
const TEXTS = Object.fromEntries(Object.entries(FILES).map(([name, bytes]) => [name, bytes.toString()]))

test('what was written is read, however it is cut', async (t) => {
  for (const length of [1, 100, 512, 1_000_000]) t.same(await contents(archive(FILES), length), TEXTS)
  t.same(await contents(END_OF_ARCHIVE), {})
})

test('a file that nobody reads is passed over', async (t) => {
  const names: string[] = []
  for await (const { name } of readTar(pieces(archive(FILES), 700))) names.push(name)
  t.same(names, Object.keys(FILES))
})

test('sizes beyond the old limit survive', async (t) => {
  for (const size of [8 * 2 ** 30 - 1, 8 * 2 ** 30, 40 * 2 ** 40]) {
    for await (const entry of readTar(pieces(tarHeader('layer', size, AT), 512))) {
      t.equal(entry.size, size)
      break
    }
  }
})

test('an archive that ends early is not taken for a short one', async (t) => {
  const whole = archive(FILES)
  // At the last two blocks either would do.
  for (let end = 0; end < whole.length - END_OF_ARCHIVE.length; end += 97) {
    await t.rejects(contents(whole.subarray(0, end)), TarError, `cut at ${end}`)
  }
})

test('what is no archive is told', async (t) => {
  const damaged = Buffer.from(archive(FILES))
  damaged[3]! ^= 1
  await t.rejects(contents(damaged), TarError)
  await t.rejects(contents(Buffer.from('\x1f\x8b'.padEnd(2000, 'gzip'))), TarError)
  await t.rejects(contents(Buffer.from('{"hello": "world"}')), TarError)
})

test('the system reads ours', { skip: missing('tar') }, async (t) => {
  const dir = t.testdir()
  writeFileSync(path.join(dir, 'it.tar'), archive(FILES))
  await succeed('tar', ['-xf', 'it.tar'], { cwd: dir })
  for (const [name, bytes] of Object.entries(FILES)) t.same(readFileSync(path.join(dir, name)), bytes)
})

for (const format of ['gnu', 'ustar', 'pax', 'oldgnu']) {
  test(`an archive repacked as ${format} is read`, { skip: missing('tar') }, async (t) => {
    const dir = t.testdir({ in: { 'oci-layout': '{}', blobs: { sha256: { abc: 'bytes' } } } })
    const expected: Record<string, string> = { 'oci-layout': '{}', 'blobs/sha256/abc': 'bytes' }
    if (format !== 'ustar') {
      mkdirSync(path.join(dir, 'in/blobs/sha512'))
      writeFileSync(path.join(dir, 'in', LONG), 'long')
      expected[LONG] = 'long'
    }
    await succeed('tar', [`--format=${format}`, '-cf', 'it.tar', '-C', 'in', '.'], { cwd: dir })
    t.same(await contents(readFileSync(path.join(dir, 'it.tar'))), expected)
  })
}
