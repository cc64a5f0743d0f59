/** Archives of people who mean harm are refused in one sentence, and leave nothing behind. */
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { test } from 'tap'
import { digestOf } from '../../../src/oci/digest.ts'
import { blobName } from '../../../src/admin/archive/format.ts'
import { END_OF_ARCHIVE, tarHeader } from '../../../src/admin/archive/write-tar.ts'
import { pull, startMirror } from '../../support/app.ts'
import { archiveOf, header, member } from '../../support/archives.ts'
import { APP, ARM, bringBack, filesIn, keeperOf, news, NOBODY, saved, serves } from '../../support/backups.ts'
import { randomBytesOf } from '../../support/images.ts'
import { alone, filesBelow, seedMirrored } from '../../support/folder.ts'
import '../../support/folders-last.ts'

const BYTES = Buffer.from('the bytes of a layer')
const DIGEST = digestOf(BYTES)
const BLOB = member(blobName(DIGEST), BYTES)
const OTHER = digestOf(Buffer.from('other bytes'))

interface Listed {
  readonly name?: string
  readonly size?: number
  readonly more?: object
}

function listing({ name = 'team/app', size = BYTES.length, more = {} }: Listed = {}): object {
  const repository = { name, tags: [], manifests: [], blobs: [{ digest: DIGEST, size }], ...more }
  return { version: 1, createdAt: '2026-01-01T00:00:00.000Z', repositories: [repository], lost: [] }
}

const WHOLE = archiveOf(listing(), BLOB)

/** Extended headers, before the blob. */
const extended = (text: string, type = 'x'): Buffer =>
  archiveOf(listing(), Buffer.concat([member('PaxHeader', Buffer.from(text), type), BLOB]))

const sized = (sizeField: Buffer): Buffer =>
  archiveOf(listing(), header(blobName(DIGEST), 0, { sizeField }), BYTES)

const linked = (type: string): Buffer => archiveOf(listing(), BLOB, header('a-link', 0, { type }))

const listed = (text: string): Buffer => archiveOf(Buffer.from(text), BLOB)

const HOSTILE: readonly (readonly [string, Buffer, RegExp])[] = [
  ['a hard link', linked('1'), /"a-link" in it is a hard link/],
  ['a symbolic link', linked('2'), /is a symbolic link/],
  ['a character device', linked('3'), /is a device/],
  ['a block device', linked('4'), /is a device/],
  ['a pipe', linked('6'), /is a pipe/],
  ['a sparse file of GNU', linked('S'), /is a file with holes/],
  ['a file of several volumes', linked('M'), /of a kind that no backup has \("M"\)/],
  ['a kind that nobody knows', linked('\x1b'), /of a kind that no backup has \("\?"\)/],
  [
    'a link in the place of a blob',
    archiveOf(listing(), header(blobName(DIGEST), 0, { type: '2' })),
    /is a symbolic link/,
  ],
  [
    'a folder with bytes',
    archiveOf(listing(), BLOB, member('dir', BYTES, '5')),
    /the folder "dir" .* has bytes/,
  ],
  [
    'an absolute name',
    archiveOf(listing(), BLOB, member('/etc/cron.d/x', BYTES)),
    /"\/etc\/cron.d\/x" .* elsewhere/,
  ],
  ['a name above the folder', archiveOf(listing(), BLOB, member('blobs/../../x', BYTES)), /leads elsewhere/],
  ['a terminal in a name', archiveOf(listing(), BLOB, member('/\x1b[2J\u202e', BYTES)), /"\/\?\[2J\?"/],
  ['a sparse file of pax', extended('22 GNU.sparse.major=1\n'), /has holes/],
  ['a long pax header', extended('9'.repeat(70_000)), /an extended header is too long/],
  ['many long pax headers', extended('x'.repeat(70_000), 'g'), /an extended header is too long/],
  ['a pax record without a length', extended(' path=x\n'), /extended header makes no sense/],
  ['a pax record that is too long', extended('99 path=x\n'), /extended header makes no sense/],
  ['a pax record without an end', extended('9 path=xx'), /extended header makes no sense/],
  ['pax records that overlap', extended('2a'.repeat(30_000)), /extended header makes no sense/],
  ['a negative size of pax', extended('11 size=-1\n'), /a size in it makes no sense/],
  ['a size of pax that is no number', extended('12 size=0x9\n'), /a size in it makes no sense/],
  ['a size for every file', extended('10 size=0\n', 'g'), /extended header makes no sense/],
  ['a negative size', sized(Buffer.alloc(12, 0xff)), /a size in it makes no sense/],
  [
    'a size that is too large',
    sized(Buffer.from('80ffffffffffffffffffffff', 'hex')),
    /size .* makes no sense/,
  ],
  ['a size with a sign', sized(Buffer.from('-0000000001\0')), /a size in it makes no sense/],
  ['a size that is no number', sized(Buffer.from('0000000009x\0')), /a size in it makes no sense/],
  [
    'a size beyond the end',
    archiveOf(listing(), tarHeader('a', 2 ** 40, new Date(0))),
    /it ends in the middle/,
  ],
  ['a wrong sum', archiveOf(listing(), header('a', 0, { badSum: true })), /no tar archive, or a damaged one/],
  ['one that is cut off', WHOLE.subarray(0, -1024), /it ends in the middle/],
  ['one cut off inside a blob', WHOLE.subarray(0, 520), /it ends in the middle/],
  ['garbage behind it', Buffer.concat([WHOLE, Buffer.from('garbage')]), /goes on behind its end/],
  ['another archive behind it', Buffer.concat([WHOLE, WHOLE]), /goes on behind its end/],
  ['many zeros behind it', Buffer.concat([WHOLE, Buffer.alloc(2 ** 21)]), /goes on behind its end/],
  ['garbage before it', Buffer.concat([Buffer.alloc(512, 'x'), WHOLE]), /no tar archive/],
  ['one that is gzipped', gzipSync(WHOLE, { level: 0 }), /compressed \(gzip\).*unpacked first/],
  ['one that zstd packed', zstdCompressSync(randomBytesOf(2000)), /compressed \(zstd\)/],
  ['nothing', Buffer.alloc(0), /it ends in the middle/],
  ['an empty one', END_OF_ARCHIVE, /no valid entrepot\.json/],
  ['a blob twice', archiveOf(listing(), BLOB, BLOB), /has sha256:[0-9a-f]+ twice/],
  ['a list of contents twice', archiveOf(listing(), BLOB, member('entrepot.json', BYTES)), /more than one/],
  [
    'other bytes',
    archiveOf(listing(), member(blobName(DIGEST), Buffer.from('THE BYTES OF A LAYER'))),
    /are others/,
  ],
  ['another size', archiveOf(listing({ size: 3 }), BLOB), /has another size/],
  [
    'two sizes',
    archiveOf(listing({ more: { manifests: [{ digest: DIGEST, size: 3, mediaType: 'x' }] } }), BLOB),
    /has another size/,
  ],
  ['a blob that is not there', archiveOf(listing()), /lacks sha256/],
  ['names that are none', archiveOf(listing({ name: '../etc' }), BLOB), /no valid entrepot\.json/],
  ['a list that is an object', archiveOf(listing({ more: { tags: {} } }), BLOB), /no valid entrepot\.json/],
  [
    'a list that is not there',
    archiveOf(listing({ more: { tags: undefined } }), BLOB),
    /no valid entrepot\.json/,
  ],
  ['a size that is a text', archiveOf(listing({ size: '3' as never }), BLOB), /no valid entrepot\.json/],
  [
    'a manifest of 5 MiB',
    archiveOf(listing({ more: { manifests: [{ digest: OTHER, size: 5 * 2 ** 20, mediaType: 'x' }] } })),
    /no valid entrepot\.json/,
  ],
  ['brackets', listed(`{"version":1,"repositories":[${'[],'.repeat(100_000)}[]],"lost":[]}`), /no valid/],
  ['deep brackets', listed('['.repeat(100_000)), /no valid/],
  ['braces', listed(`{"version":1,"lost":[],"repositories":[${'{},'.repeat(100_000)}{}]}`), /no valid/],
  ['members', listed(`{${'"a":1,'.repeat(100_000)}"version":1}`), /no valid/],
  ['not JSON', listed('{"version":1,"repositories":[],"lost":[]'), /no valid/],
  ['not UTF-8', archiveOf(Buffer.from([0x7b, 0xff, 0x7d]), BLOB), /no valid/],
  ['another version', archiveOf({ ...listing(), version: 2 }, BLOB), /no valid/],
]

const kept = (root: string): string[] => filesBelow(root).filter((it) => /^(blobs|ingest)\//.test(it))

test('every hostile archive is refused in one sentence, and nothing of it stays', async (t) => {
  const server = await startMirror(t, NOBODY)
  const keeper = await keeperOf(server.root)
  const file = path.join(t.testdirName, 'hostile.tar')
  for (const [what, bytes, why] of HOSTILE) {
    writeFileSync(file, bytes)
    const refused: unknown = await bringBack(keeper, file).then(
      () => undefined,
      (error: unknown) => error,
    )
    t.match(refused, { name: 'OperatorError', message: why }, what)
    t.match(refused, { message: /hostile\.tar is damaged, .*; nothing was restored$/ }, what)
    t.same(kept(server.root), [], `${what}: nothing stays`)
    t.equal((await pull(`${server.url}/livez`)).status, 200)
  }
  t.same(await server.app.metadata.repositories.list('local', { limit: 10 }), [])
  writeFileSync(file, WHOLE)
  t.match(news(await bringBack(keeper, file)), [{ name: 'team/app', created: true, blobs: 1 }])
  const errors = server.lines.filter(({ level }) => level === 'error' || level === 'fatal')
  t.same(errors, [])
})

test('a member that no repository lists is not written, whatever its name says', async (t) => {
  const root = t.testdir()
  const file = path.join(root, 'more.tar')
  const unlisted = Buffer.from('nobody lists these bytes')
  const more = [
    member(blobName(digestOf(unlisted)), unlisted),
    // Its digest would be another: nobody looks.
    member(blobName(OTHER), unlisted),
    member('blobs/sha256/short', unlisted),
    member('blobs/sha1/0123456789012345678901234567890123456789', unlisted),
    member('README', unlisted),
  ]
  writeFileSync(file, archiveOf(listing(), ...more, BLOB))
  const folder = path.join(root, 'data')
  await alone(folder, (keeper) => bringBack(keeper, file))
  t.same(kept(folder), [`blobs/sha256/${DIGEST.slice(7, 9)}/${DIGEST.slice(7)}`])
})

test('names that no push could take are refused before anything is stored', async (t) => {
  const { dir, file, other } = await saved(t)
  await seedMirrored(other, { registry: 'docker.io', name: 'team/long', tag: '9', image: ARM })
  const before = kept(other)
  // The last blob is another: who stores before asking says that.
  const bytes = readFileSync(file)
  bytes[bytes.indexOf(APP.layers[0]!.bytes.subarray(0, 64))]! ^= 1
  writeFileSync(file, bytes)
  await t.rejects(
    alone(other, (keeper) => bringBack(keeper, file)),
    { message: /team\/long was pulled from docker\.io/ },
  )
  t.same(kept(other), before)
  const denied = path.join(dir, 'denied.tar')
  writeFileSync(
    denied,
    archiveOf(listing({ name: 'library/nginx' }), member(blobName(DIGEST), Buffer.alloc(20))),
  )
  await t.rejects(
    alone(other, (keeper) => bringBack(keeper, denied)),
    { message: /reserves library\/nginx/ },
  )
  await t.rejects(
    alone(other, (keeper) => bringBack(keeper, denied, false, true)),
    { message: /the bytes of sha256:[0-9a-f]+ are others/ },
  )
  t.same(kept(other), before)
})

test('what the disk has no room for, beside what is to stay free, is refused before anything is stored', async (t) => {
  const { dir, file, other } = await saved(t)
  // The last blob is another: who stores before asking says that.
  const bytes = readFileSync(file)
  bytes[bytes.indexOf(APP.layers[0]!.bytes.subarray(0, 64))]! ^= 1
  writeFileSync(file, bytes)
  const cache = { minFree: '1000TiB' }
  const server = await startMirror(t, NOBODY, { root: path.join(dir, 'server'), cache })
  const keeper = await keeperOf(server.root)
  for (const restored of [
    () => alone(other, (it) => bringBack(it, file), { cache }),
    () => bringBack(keeper, file),
  ]) {
    await t.rejects(restored(), {
      name: 'OperatorError',
      message: /the disk has no room .* cache\.minFree .*; nothing was restored$/,
    })
  }
  t.same([kept(other), kept(server.root)], [[], []])
})

test('what is no plain file is not read', { skip: process.platform === 'win32' }, async (t) => {
  const root = t.testdir({ folder: {} })
  const pipe = path.join(root, 'pipe')
  execFileSync('mkfifo', [pipe])
  const data = path.join(root, 'data')
  await alone(data, async (keeper) => {
    for (const [file, why] of [
      [pipe, /cannot be read: it is no plain file/],
      ['/dev/zero', /cannot be read: it is no plain file/],
      [path.join(root, 'folder'), /cannot be read: it is a folder/],
      [path.join(root, 'none'), /cannot be read: ENOENT/],
    ] as const) {
      await t.rejects(bringBack(keeper, file), { name: 'OperatorError', message: why })
    }
  })
})

test('the list of contents may stand first, and the archive be padded to a record', async (t) => {
  const { file, other } = await saved(t)
  const files = [...(await filesIn(file))].reverse()
  const repacked = Buffer.concat([
    ...files.map(([name, bytes]) => longMember(name, bytes)),
    Buffer.alloc(10_240),
  ])
  writeFileSync(file, repacked)
  await alone(other, (keeper) => bringBack(keeper, file))
  const server = await startMirror(t, NOBODY, { root: other })
  await serves(t, `${server.url}/v2/team/app`, APP, '1')
})

function longMember(name: string, bytes: Buffer): Buffer {
  const rest = Buffer.alloc((512 - (bytes.length % 512)) % 512)
  return Buffer.concat([tarHeader(name, bytes.length, new Date(0)), bytes, rest])
}
