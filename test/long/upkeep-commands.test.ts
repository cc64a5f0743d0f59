/**
 * verify, backup and restore as real processes, beside a running server and without one.
 */
import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'
import { ProgressBar } from '../../src/admin/cli/progress-bar.ts'
import { blobFile, filesBelow, seedMirrored } from '../support/folder.ts'
import { image } from '../support/images.ts'
import { seedLocal } from '../support/local.ts'
import { commandLine, Entrepot, entrepot } from '../support/process.ts'
import { missing, succeed } from '../support/programs.ts'
import { pushImage } from '../support/push.ts'
import '../support/folders-last.ts'

const APP = image({ seed: 'app', layers: [300_000, 1000] })
const BASE = image({ seed: 'base' })

/** Nobody who could be asked. */
const CONFIG = { upstreams: { 'docker.io': { url: 'http://127.0.0.1:9', default: true } } }

/** `team/app:1`, pushed, and `docker.io/library/base:3`. */
async function seeded(dir: string): Promise<string> {
  const root = join(dir, 'data')
  await seedLocal(root, [{ name: 'team/app', tags: { 1: APP } }])
  await seedMirrored(root, { registry: 'docker.io', name: 'library/base', tag: '3', image: BASE })
  return root
}

function flipByte(file: string): void {
  const bytes = readFileSync(file)
  bytes[bytes.length >> 1]! ^= 1
  writeFileSync(file, bytes)
}

for (const running of [true, false]) {
  test(`verify ${running ? 'beside a server' : 'alone'}: what is wrong, and what is left of it`, async (t) => {
    const dir = t.testdir()
    const root = await seeded(dir)
    const server = running ? await Entrepot.start(t, { dir, config: CONFIG }) : undefined
    const verify = (...more: string[]) => entrepot({ dir, config: CONFIG }, 'verify', ...more)
    const [pushed, mirrored] = [APP.layers[0]!.digest, BASE.layers[0]!.digest]
    flipByte(blobFile(root, pushed))
    // A running server may come upon a lost file of its own accord.
    if (running) flipByte(blobFile(root, mirrored))
    else rmSync(blobFile(root, mirrored))
    const found = await verify(...(running ? [] : ['--repair']))
    t.match(found, { code: 1, stderr: '' })
    for (const head of running ? ['Damaged: .* \\(2\\)'] : ['Damaged: .* \\(1\\)', 'Missing: .* \\(1\\)']) {
      t.match(found.stdout, new RegExp(`^${head}$`, 'm'))
    }
    t.match(found.stdout, new RegExp(`^  \\[pushed\\] ${pushed}: .*\n    hits team/app:1\n`, 'm'))
    t.match(
      found.stdout,
      new RegExp(`^  \\[mirrored\\] ${mirrored}: .*\n    hits docker.io/library/base:3\n`, 'm'),
    )
    const aside = `quarantine/${pushed.replace(':', '-')}`
    if (running) {
      t.match(
        found.stdout,
        /: 2 wrong, 1 of them of pushed content: --repair puts it aside, then push it again, or/,
      )
      t.notOk(existsSync(join(root, aside)))
    }
    const repaired = running ? await verify('--repair') : found
    t.match(repaired, {
      code: 1,
      stdout: /: 2 wrong, 1 mended, 1 still wrong, 1 of them of pushed content: push it again, or/,
    })
    t.match(repaired.stdout, new RegExp(`put aside as ${aside}\n`))
    t.ok(statSync(join(root, aside)).isFile())

    if (server === undefined) return
    t.equal((await fetch(`${server.url}/v2/team/app/manifests/1`)).status, 200, 'it stays listed')
    t.equal((await pushImage(`${server.url}/v2/team/app`, APP, '1')).status, 201)
    t.match(await verify(), { code: 0, stdout: /can be deleted\n.*nothing is wrong\n$/s })
  })
}

test('a backup of a running server, and back into another one', async (t) => {
  const dir = t.testdir({ one: {}, two: {} })
  await seeded(join(dir, 'one'))
  const one = { dir: join(dir, 'one'), config: CONFIG }
  const two = { dir: join(dir, 'two'), config: CONFIG }
  await Entrepot.start(t, one)
  const file = join(dir, 'backup.tar')
  const saved = await entrepot(one, 'backup', '-o', file)
  t.match(saved, {
    code: 0,
    stdout: /^saved 1 repository, 1 tag, 1 manifest: 4 files, 29\d KiB\n$/,
    stderr: '',
  })
  t.equal(statSync(file).mode & 0o777, 0o600, 'it holds what not everybody may pull')

  const server = await Entrepot.start(t, two)
  t.match(await entrepot(two, 'restore', file), { code: 0, stdout: 'team/app: 1 tag, 1 manifest, 3 blobs\n' })
  const manifest = await fetch(`${server.url}/v2/team/app/manifests/1`)
  t.equal(manifest.headers.get('docker-content-digest'), APP.manifest.digest)
  for (const { digest, bytes } of APP.blobs) {
    const blob = await fetch(`${server.url}/v2/team/app/blobs/${digest}`)
    t.ok(Buffer.from(await blob.arrayBuffer()).equals(bytes))
  }

  await pushImage(`${server.url}/v2/team/app`, BASE, '1')
  t.match(await entrepot(two, 'restore', file), {
    code: 0,
    stdout: /^kept team\/app:1 at .*--overwrite would move it/,
  })

  writeFileSync(file, readFileSync(file).subarray(0, 200_000))
  const cut = await entrepot(two, 'restore', file)
  t.match(cut, {
    code: 1,
    stdout: '',
    stderr: /^entrepot: .*backup\.tar is damaged, cut off, .*nothing was restored\n$/,
  })
})

test('a backup to standard output is the archive and nothing else', { skip: missing('sh') }, async (t) => {
  const dir = t.testdir({ other: {} })
  const root = await seeded(dir)
  const { command, args, env } = commandLine({ dir, config: CONFIG })
  const [start = '', ...config] = args
  const line = [command, start, 'backup', '-o', '-', ...config].map((it) => `'${it}'`).join(' ')
  await Entrepot.start(t, { dir, config: CONFIG })
  await succeed('sh', ['-c', `${line} > out.tar 2> words`], { cwd: dir, env })
  t.match(readFileSync(join(dir, 'words'), 'utf8'), /^saved 1 repository/)
  const other = { dir: join(dir, 'other'), config: CONFIG }
  t.match(await entrepot(other, 'restore', join(dir, 'out.tar')), { code: 0, stdout: /3 blobs/ })
  rmSync(blobFile(root, APP.layers[1]!.digest))
  const lossy = await entrepot({ dir, config: CONFIG }, 'backup', '-o', join(dir, 'lossy.tar'))
  t.match(lossy, {
    code: 1,
    stdout: /^saved/,
    stderr: /^not saved: .*: its file is gone; hits team\/app:1\n$/,
  })
  t.same(
    filesBelow(dir).filter((it) => it.endsWith('.tmp')),
    [],
  )
})

test('a terminal is shown how far it is, a file is not', { skip: missing('script') }, async (t) => {
  const dir = t.testdir()
  await seeded(dir)
  const { command, args, env } = commandLine({ dir, config: CONFIG })
  const [start = '', ...config] = args
  const line = [command, start, 'verify', ...config].map((it) => `'${it}'`).join(' ')
  const seen = await succeed('script', ['-qec', line, '/dev/null'], { cwd: dir, env })
  t.match(seen, /\[[#.]{24}\] \d+% {2}\d of 7 files/)
  t.match(seen, /nothing is wrong/)
})

test('the bar goes away when something is said, and is no number of lines', (t) => {
  const said: string[] = []
  const edge = { stderrIsTty: true, writeStderr: (text: string) => void said.push(text) }
  {
    using bar = new ProgressBar(edge)
    bar.show(0.5, 'half')
    bar.clear()
    bar.show(NaN, 'nothing to do')
    bar.show(1, 'too soon to be shown again')
  }
  t.same(said, [
    `\r\x1b[2K[${'#'.repeat(12)}${'.'.repeat(12)}] 50%  half`,
    '\r\x1b[2K',
    `\r\x1b[2K[${'#'.repeat(24)}] 100%  nothing to do`,
    '\r\x1b[2K',
  ])
  using unseen = new ProgressBar({ ...edge, stderrIsTty: false })
  unseen.show(0.5, 'half')
  t.equal(said.length, 4)
  t.end()
})
