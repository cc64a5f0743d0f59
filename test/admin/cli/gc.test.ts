/** What `entrepot gc` says, and that it can be stopped. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { gc } from '../../../src/admin/cli/gc.ts'
import { simulate, startMirror } from '../../support/app.ts'
import { recordedEdge } from '../../support/edge.ts'
import { image } from '../../support/images.ts'
import { seedLocal } from '../../support/local.ts'
import { commandLine } from '../../support/process.ts'
import { missing, run, shortDir } from '../../support/programs.ts'

const orphan = image({ layers: [2_000_000], seed: 'orphan' })
const [config, layer] = orphan.blobs as [(typeof orphan.blobs)[0], (typeof orphan.blobs)[0]]

/** A folder in which two blobs are named by nothing, and the file that configures it. */
async function seeded(t: Test, blobs = orphan.blobs): Promise<{ root: string; file: string }> {
  const dir = shortDir(t)
  const root = join(dir, 'data')
  const file = join(dir, 'config.yaml')
  await seedLocal(root, [{ name: 'team/app', blobs }])
  writeFileSync(file, JSON.stringify({ storage: { root } }))
  return { root, file }
}

test('a person is told what, how much and why, and the total', async (t) => {
  const { file } = await seeded(t)
  const planned = recordedEdge({ terminal: true })
  t.equal(await gc({ config: file, dryRun: true }, planned), 0)
  const digest = layer.digest.slice(0, 19)
  t.match(planned.printed.sort(), [
    new RegExp(`^blob      .* B  ${config.digest.slice(0, 19)}  no repository holds it$`),
    new RegExp(`^blob      1\\.91 MiB  ${digest}  no repository holds it$`),
    /^link {15} +team\/app@sha256:[0-9a-f]{12} {2}no manifest there names it, and nobody was told of it for \d+ days$/,
    /^link/,
    'would free: 4 entries, 1.91 MiB',
  ])
  const done = recordedEdge({ terminal: true })
  t.equal(await gc({ config: file }, done), 0)
  t.equal(done.printed.at(-1), 'freed: 4 entries, 1.91 MiB')
  t.same(done.printed.slice(0, -1).sort(), planned.printed.slice(0, -1), 'what was planned was done')
  const again = recordedEdge({ terminal: true })
  t.equal(await gc({ config: file }, again), 0)
  t.same(again.printed, ['freed: 0 entries, 0 B'])
})

test('a program is told in lines of five fields, sizes in bytes', async (t) => {
  const { file } = await seeded(t)
  const edge = recordedEdge()
  t.equal(await gc({ config: file }, edge), 0)
  const lines = edge.printed.map((line) => line.split('\t'))
  t.ok(lines.every(({ length }) => length === 5))
  t.same(
    lines.map(([what, repository, digest, bytes]) => [what, repository, digest, bytes]).sort(),
    [
      ['blob', '', config.digest, String(config.bytes.length)],
      ['blob', '', layer.digest, String(layer.bytes.length)],
      ['link', 'team/app', config.digest, '0'],
      ['link', 'team/app', layer.digest, '0'],
      ['total', '', '4', String(config.bytes.length + layer.bytes.length)],
    ].sort(),
  )
})

test('Ctrl-C ends it with 130, alone as through a server, and the folder is free', async (t) => {
  const { root, file } = await seeded(t)
  const alone = recordedEdge()
  alone.interrupt()
  t.equal(await gc({ config: file }, alone), 130)
  t.same([alone.printed, alone.complaints], [[], []])

  const mirror = await startMirror(t, await simulate(t), { root })
  const through = recordedEdge()
  through.interrupt()
  t.equal(await gc({ config: file }, through), 130)
  const whole = recordedEdge()
  t.equal(await gc({ config: file }, whole), 0)
  t.match(whole.printed.at(-1), /^total\t\t4\t/)
  t.match(
    mirror.lines.filter(({ msg }) => msg === 'collected'),
    [{ entries: 4 }],
  )
})

test('who reads no further ends it without a word', { skip: missing('sh', 'head') }, async (t) => {
  const many = image({ layers: Array.from({ length: 100 }, (_, at) => 10 + at), seed: 'many' }).blobs
  const { file } = await seeded(t, many)
  const { command, args, env } = commandLine({ dir: t.testdir() })
  const line = `"${command}" "${args[0]!}" gc -c "${file}" | head -n 1`
  const { code, stdout, stderr } = await run('sh', ['-c', line], { env })
  t.match({ code, stdout, stderr }, { code: 0, stdout: /^link\t[^\n]+\n$/, stderr: '' })
})
