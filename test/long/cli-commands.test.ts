/**
 * Commands that write, as real processes: through the running server, or alone with the folder's lock.
 */
import { existsSync, lstatSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test } from 'tap'
import { gc } from '../../src/admin/cli/gc.ts'
import { recordedEdge } from '../support/edge.ts'
import { image } from '../support/images.ts'
import { seedLocal } from '../support/local.ts'
import { commandLine, Entrepot, entrepot } from '../support/process.ts'
import { Program } from '../support/programs.ts'
import '../support/folders-last.ts'

const app = image({ seed: 'app' })
const orphan = image({ seed: 'orphan' })

/** A folder in which two blobs, last uploaded years ago, are named by nothing. */
async function seeded(dir: string): Promise<string> {
  const root = join(dir, 'data')
  await seedLocal(root, [{ name: 'team/app', tags: { '1': app }, blobs: orphan.blobs }])
  return root
}

const freed = orphan.blobs.reduce((sum, { bytes }) => sum + bytes.length, 0)
const total = (entries: number, bytes: number, words: string): RegExp =>
  new RegExp(`^total\t\t${entries}\t${bytes}\t${words}$`, 'm')

test('with a running server the command goes through its socket, and the server knows at once', async (t) => {
  const dir = t.testdir()
  const root = await seeded(dir)
  const server = await Entrepot.start(t, { dir })
  t.equal(lstatSync(join(root, 'control.sock')).mode & 0o777, 0o600)
  t.match(await entrepot({ dir }, 'gc', '--dry-run'), { code: 0, stdout: total(4, freed, 'would be freed') })
  t.match(await entrepot({ dir }, 'gc'), { code: 0, stdout: total(4, freed, 'freed'), stderr: '' })
  await server.logged('command')
  t.equal(await server.metric('entrepot_collected_bytes_total'), freed)
  t.equal(await server.metric('entrepot_collections_total', { result: 'done' }), 1, 'a dry run is none')
  t.match(
    server.log.filter(({ msg }) => msg === 'collected'),
    [{ entries: 4, bytes: freed, result: 'done' }],
  )

  const manifest = `${server.url}/v2/team/app/manifests/1`
  t.equal((await fetch(manifest)).status, 200)
  t.match(await entrepot({ dir }, 'rm', 'team/app:1'), { code: 0, stdout: 'removed team/app:1\n' })
  t.equal((await fetch(manifest)).status, 404)
  await server.program.stop()
  t.notOk(existsSync(join(root, 'control.sock')))
})

test('without one it takes the lock; two at once take turns', async (t) => {
  const dir = t.testdir()
  await seeded(dir)
  const both = await Promise.all([entrepot({ dir }, 'gc'), entrepot({ dir }, 'gc')])
  for (const { code, stderr } of both) t.match({ code, stderr }, { code: 0, stderr: '' })
  const told = both.map(({ stdout }) => stdout).sort()
  t.match(told[0], total(4, freed, 'freed'), 'one did it')
  t.match(told[1], total(0, 0, 'freed'), 'nothing was left for the other')
})

test('after a crash the socket that is left stands in nobody’s way', async (t) => {
  const dir = t.testdir()
  const root = await seeded(dir)
  const crashed = await Entrepot.start(t, { dir })
  crashed.program.kill('SIGKILL')
  await crashed.program.exited
  t.ok(existsSync(join(root, 'control.sock')))
  const alone = recordedEdge()
  t.equal(await gc({ config: join(dir, 'config.yaml'), dryRun: true }, alone), 0)
  t.match(alone.printed.at(-1), total(4, freed, 'would be freed'))
  const server = await Entrepot.start(t, { dir })
  t.match(await entrepot({ dir }, 'gc'), { code: 0, stdout: total(4, freed, 'freed') })
  await server.logged('command')
})

test('an index that was lost takes nothing of what was pushed with it', async (t) => {
  const dir = t.testdir()
  const root = await seeded(dir)
  for (const file of readdirSync(root)) if (file.startsWith('metadata.sqlite')) rmSync(join(root, file))
  const blobs = (): string[] => readdirSync(join(root, 'blobs'), { recursive: true, encoding: 'utf8' }).sort()
  const before = blobs()
  t.match(await entrepot({ dir }, 'gc'), { code: 1, stdout: '', stderr: /metadata\.sqlite is gone/ })
  // Nothing tells any more that there was one.
  rmSync(join(root, 'index.json'))
  t.match(await entrepot({ dir }, 'gc'), { code: 0, stdout: total(0, 0, 'freed') })
  t.match(await entrepot({ dir }, 'gc'), { code: 0, stdout: total(0, 0, 'freed') }, 'nor later')
  t.same(blobs(), before)
})

test('Ctrl-C in the middle ends the command at once, and leaves the server whole', async (t) => {
  const dir = t.testdir()
  const root = await seeded(dir)
  const config = { log: { level: 'debug' } }
  const server = await Entrepot.start(t, { dir, config })
  // Somebody else writes: nothing can be collected until he has done.
  const writer = new DatabaseSync(join(root, 'metadata.sqlite'))
  writer.exec('begin immediate')
  const { command, args, env } = commandLine({ dir })
  const collecting = new Program(t, command, [args[0]!, 'gc', ...args.slice(1)], env)
  await server.logged('a command begins')
  collecting.kill('SIGINT')
  t.match(await collecting.exited, { code: 130 })
  t.equal(collecting.output, '')
  writer.exec('rollback')
  writer.close()
  await server.logged('command')
  t.match(
    server.log.find(({ msg }) => msg === 'command'),
    { operation: 'gc', end: 'abandoned' },
  )
  t.match(await entrepot({ dir }, 'gc'), { code: 0, stdout: /^total/m })
  t.equal((await fetch(`${server.url}/v2/team/app/manifests/1`)).status, 200)
})

test('a configuration that is not valid ends a command with 2', async (t) => {
  const config = join(t.testdir({ 'config.yaml': 'zebra: 1' }), 'config.yaml')
  const edge = recordedEdge()
  t.equal(await gc({ config }, edge), 2)
  t.match(edge.complaints.join(), /zebra/)
})
