/** Archives that are small to make and large to take keep nobody from a running server. */
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { test, type Test } from 'tap'
import { digestOf } from '../../src/oci/digest.ts'
import { blobName } from '../../src/admin/archive/format.ts'
import { archiveOf, member, writeWithHole } from '../support/archives.ts'
import { filesBelow } from '../support/folder.ts'
import { content } from '../support/images.ts'
import { longestAnswer, resident, startAsUsual } from '../support/strangers/watching.ts'
import { commandLine } from '../support/process.ts'
import { run } from '../support/programs.ts'
import '../support/folders-last.ts'

const MiB = 2 ** 20
const GiB = 2 ** 30
/** Nobody waits for longer than a turn on the loop takes. */
const PATIENCE_MS = 100
const MOST_RESIDENT = 600 * MiB

const BLOB = content('application/octet-stream', Buffer.from('a layer'))

function listing(size: number): object {
  const repository = { name: 'team/app', tags: [], manifests: [], blobs: [{ digest: BLOB.digest, size }] }
  return { version: 1, createdAt: '2026-01-01T00:00:00.000Z', repositories: [repository], lost: [] }
}

/** How long the restore took nobody cares: whoever asks meanwhile is answered, and nothing of it stays. */
async function refused(t: Test, write: (file: string) => void, why: RegExp): Promise<void> {
  const dir = t.testdir()
  const file = path.join(dir, 'hostile.tar')
  write(file)
  const config = { upstreams: { 'docker.io': { url: 'http://127.0.0.1:9', default: true } } }
  const server = await startAsUsual(t, { dir, config })
  let ended = { code: undefined as number | null | undefined, stderr: '' }
  const { command, args, env } = commandLine({ dir, config })
  const line = [...args.slice(0, -2), 'restore', file, ...args.slice(-2)]
  const restoring = run(command, line, { env, timeoutMs: 300_000 }).then((it) => (ended = it))
  const longest = await longestAnswer(server, restoring)
  t.match(ended, { code: 1, stderr: why })
  t.match(ended.stderr, /^[^\n]*nothing was restored\n$/, 'one sentence')
  const peak = resident(server.program.pid ?? 0, 'VmHWM')
  t.comment(`${Math.round(longest)} ms, at the most ${Math.round(peak / MiB)} MiB`)
  t.ok(longest <= PATIENCE_MS, `${longest} ms`)
  t.ok(peak <= MOST_RESIDENT, `${peak} bytes`)
  const left = filesBelow(path.join(dir, 'data')).filter((it) => /^(blobs|ingest)\//.test(it))
  t.same(left, [])
  // As the kernel counts what it gave to the disk.
  const written = /^write_bytes: (\d+)$/m.exec(readFileSync(`/proc/${String(server.program.pid)}/io`, 'utf8'))
  t.ok(Number(written?.[1]) < 100 * MiB, `${String(written?.[1])} bytes were written`)
}

const linuxOnly = { skip: process.platform !== 'linux' }

for (const [what, piece] of [
  ['180 MB of brackets', '[],'],
  ['180 MB of braces', '{},'],
  ['180 MB of numbers', '1234567890,'],
  ['180 MB of empty repositories', '{"name":"a/b","tags":[],"manifests":[],"blobs":[]},'],
] as const) {
  test(`${what} for a list of contents keep nobody waiting`, linuxOnly, async (t) => {
    const pieces = piece.repeat(Math.ceil(180e6 / piece.length))
    const last = piece.slice(0, -1)
    const text = `{"version":1,"lost":[],"repositories":[${pieces}${last}],"x":`
    const write = (file: string): void =>
      writeFileSync(file, archiveOf(Buffer.from(text), member('oci-layout', Buffer.from('{}'))))
    await refused(t, write, /no valid entrepot\.json/)
  })
}

for (const [what, name, contents, why] of [
  [
    'that the list names',
    blobName(BLOB.digest),
    listing(3 * GiB),
    /the bytes of sha256:[0-9a-f]+ are others/,
  ],
  ['of another size than the list says', blobName(BLOB.digest), listing(7), /has another size/],
  ['that nobody names', blobName(digestOf(Buffer.from('others'))), listing(7), /lacks sha256:[0-9a-f]+/],
  ['that is the list itself', 'entrepot.json', listing(7), /more than one entrepot\.json/],
] as const) {
  test(`3 GiB of a hole ${what} are not written out`, linuxOnly, async (t) => {
    const write = (file: string): void => {
      writeWithHole(file, name, 3 * GiB, contents)
      t.ok(statSync(file).blocks * 512 < MiB)
    }
    await refused(t, write, why)
  })
}
