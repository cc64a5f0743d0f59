/** What `entrepot evict` says, with and without a server, and that it only does what it says. */
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { evict } from '../../../src/admin/cli/evict.ts'
import { simulate, startMirror } from '../../support/app.ts'
import { recordedEdge } from '../../support/edge.ts'
import { blobFile, seedMirrored } from '../../support/folder.ts'
import { image, type Image } from '../../support/images.ts'
import { seedLocal } from '../../support/local.ts'
import { shortDir } from '../../support/programs.ts'
import { blobBytes } from '../../support/warehouse.ts'

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

test('alone: a person is told which images go, a program in lines of six fields, and nothing else goes', async (t) => {
  const { root, file, here } = await seeded(t)
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

  const edge = recordedEdge()
  t.equal(await evict({ config: file, to: '0' }, edge), 0)
  const { digest } = young.manifest
  const bytes = String(sizeOf(young))
  t.same(
    edge.printed.map((line) => line.split('\t')),
    [
      ['image', 'quay.io/team/young:2', digest, bytes, '1970-01-01T00:33:20.000Z', 'pulled longest ago'],
      ['total', '1', '', bytes, '', 'freed'],
    ],
  )
  t.same([old, young, own].map(here), [false, false, true], 'never what was pushed')
  t.equal(blobBytes(root), sizeOf(own))

  const unclear = recordedEdge()
  t.equal(await evict({ config: file, to: 'half' }, unclear), 1)
  t.match(unclear.complaints, [/half is no size: say 20GiB, or 50% of the file system/])
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

function sizeOf({ manifests, blobs }: Image): number {
  return [...manifests, ...blobs].reduce((sum, { bytes }) => sum + bytes.length, 0)
}
