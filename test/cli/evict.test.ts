/** What `entrepot evict` says, with and without a server, and that it only does what it says. */
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { evict } from '../../src/cli/evict.ts'
import { simulate, startMirror } from '../support/app.ts'
import { recordedEdge } from '../support/edge.ts'
import { blobFile, seedMirrored } from '../support/folder.ts'
import { image, type Image } from '../support/images.ts'
import { seedLocal } from '../support/local.ts'
import { shortDir } from '../support/programs.ts'
import { blobBytes } from '../support/warehouse.ts'

const old = image({ layers: [2_000_000], seed: 'old' })
const young = image({ layers: [1_000_000], seed: 'young' })
const own = image({ layers: [500_000], seed: 'own' })

async function seeded(t: Test): Promise<{ root: string; file: string; here: (it: Image) => boolean }> {
  const dir = shortDir(t)
  const root = join(dir, 'data')
  const file = join(dir, 'config.yaml')
  await seedMirrored(root, { registry: 'docker.io', name: 'library/old', tag: '1', image: old }, 1_000_000)
  await seedMirrored(root, { registry: 'quay.io', name: 'team/young', tag: '2', image: young }, 2_000_000)
  await seedLocal(root, [{ name: 'team/own', tags: { '1': own } }], 3_000)
  writeFileSync(file, JSON.stringify({ storage: { root }, cache: { maxSize: '3MiB' } }))
  return {
    root,
    file,
    here: ({ layers }) => layers.every(({ digest }) => existsSync(blobFile(root, digest))),
  }
}

test('a person is told which images go, when they were last pulled, and what that frees', async (t) => {
  const { file, here } = await seeded(t)
  const planned = recordedEdge({ terminal: true })
  t.equal(await evict({ config: file, dryRun: true, to: '1.5MiB' }, planned), 0)
  t.same(planned.printed, [
    'image     1.91 MiB  docker.io/library/old:1  last pulled 1970-01-01 00:16, pulled longest ago',
    'would free: 1 entry, 1.91 MiB',
  ])
  t.ok(here(old), 'nothing has gone')
  const done = recordedEdge({ terminal: true })
  t.equal(await evict({ config: file, to: '1.5MiB' }, done), 0)
  t.same(done.printed, [planned.printed[0], 'freed: 1 entry, 1.91 MiB'])
  t.same([old, young, own].map(here), [false, true, true])
})

test('a program is told in lines of six fields; what was pushed is never among them', async (t) => {
  const { root, file, here } = await seeded(t)
  const edge = recordedEdge()
  t.equal(await evict({ config: file, to: '0' }, edge), 0)
  const lines = edge.printed.map((line) => line.split('\t'))
  t.ok(lines.every(({ length }) => length === 6))
  t.match(lines, [
    [
      'image',
      'docker.io/library/old:1',
      old.manifest.digest,
      String(sizeOf(old)),
      '1970-01-01T00:16:40.000Z',
    ],
    [
      'image',
      'quay.io/team/young:2',
      young.manifest.digest,
      String(sizeOf(young)),
      '1970-01-01T00:33:20.000Z',
    ],
    ['total', '2', '', String(sizeOf(old) + sizeOf(young)), '', 'freed'],
  ])
  t.same([old, young, own].map(here), [false, false, true])
  t.equal(blobBytes(root), sizeOf(own))
})

test('without a size it goes down to where eviction stops by itself, through a server as alone', async (t) => {
  const { root, file, here } = await seeded(t)
  await startMirror(t, await simulate(t), { root, cache: { maxSize: '3MiB' } })
  const edge = recordedEdge({ terminal: true })
  t.equal(await evict({ config: file }, edge), 0)
  t.match(edge.printed, [/^image .* docker\.io\/library\/old:1 /, 'freed: 1 entry, 1.91 MiB'])
  t.same([old, young, own].map(here), [false, true, true])
  t.equal(await evict({ config: file }, edge), 0)
  t.equal(edge.printed.at(-1), 'freed: 0 entries, 0 B')
})

test('what is no size is refused in a sentence', async (t) => {
  const { file } = await seeded(t)
  const edge = recordedEdge()
  t.equal(await evict({ config: file, to: 'half' }, edge), 1)
  t.match(edge.complaints, [/half is no size: say 20GiB, or 50% of the file system/])
})

function sizeOf({ manifests, blobs }: Image): number {
  return [...manifests, ...blobs].reduce((sum, { bytes }) => sum + bytes.length, 0)
}
