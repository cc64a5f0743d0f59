/**
 * What a look at everything finds, and what a repair does about it, on folders that were damaged by hand.
 */
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test, type Test } from 'tap'
import type { Digest } from '../../src/oci/digest.ts'
import type { Finding } from '../../src/storage/integrity/findings.ts'
import { isWhole, pull, settled, simulate, startMirror } from '../support/app.ts'
import { collect, keeperOf, NOBODY } from '../support/backups.ts'
import { alone, blobFile, inDatabase, seedMirrored } from '../support/folder.ts'
import { image, index, layer, type Image } from '../support/images.ts'
import { seedLocal } from '../support/local.ts'
import { pushBlob, pushImage, send } from '../support/push.ts'

const APP = image({ seed: 'app', layers: [3000, 500] })
const BASE = image({ seed: 'base', layers: [600_000] })

const HUB = { registry: 'docker.io', name: 'library/base', tag: '3' }

async function look(root: string, repair = false): Promise<Finding[]> {
  return alone(root, async (keeper, signal) => {
    const findings: Finding[] = []
    for await (const event of keeper.verify({ repair }, signal)) {
      if ('finding' in event) findings.push(event.finding)
    }
    return findings
  })
}

/** Made once, and copied: what is written to a folder is synced, which takes its time. */
let original: Promise<string> | undefined

async function makeOriginal(): Promise<string> {
  const root = mkdtempSync(path.join(tmpdir(), 'entrepot-verify-'))
  process.on('exit', () => rmSync(root, { recursive: true, force: true }))
  await seedLocal(root, [{ name: 'team/app', tags: { 1: APP } }])
  await seedMirrored(root, { ...HUB, image: BASE })
  return root
}

/** `team/app:1` is pushed, `docker.io/library/base:3` mirrored. */
async function seeded(t: Test): Promise<string> {
  const root = t.testdir()
  cpSync(await (original ??= makeOriginal()), root, { recursive: true })
  return root
}

function flipByte(file: string): void {
  const bytes = readFileSync(file)
  bytes[bytes.length >> 1]! ^= 1
  writeFileSync(file, bytes)
}

const DAMAGES: Record<string, { kind: string; do: (file: string) => void }> = {
  'a flipped bit': { kind: 'corrupt', do: flipByte },
  'a lost end': { kind: 'corrupt', do: (file) => truncateSync(file, 10) },
  'an empty file': { kind: 'corrupt', do: (file) => truncateSync(file, 0) },
  'a lost file': { kind: 'missing', do: (file) => rmSync(file) },
}

test('where all is well nothing is found', async (t) => {
  const root = await seeded(t)
  t.same(await look(root), [])
  t.same(await look(root, true), [])
})

function partsOf(it: Image): Digest[] {
  return [it.layers[0]!.digest, it.config.digest, it.manifest.digest].sort()
}

for (const [name, damage] of Object.entries(DAMAGES)) {
  test(`${name} of what was pushed is told, and stays a loss after a repair`, async (t) => {
    const root = await seeded(t)
    const damaged = new Map<Digest, Buffer>()
    const expected = partsOf(APP).map((subject) => ({
      ...{ kind: damage.kind, origin: 'pushed', subject, uses: ['team/app:1'], wrong: true, remains: true },
    }))
    for (const digest of partsOf(APP)) {
      const file = blobFile(root, digest)
      damage.do(file)
      if (existsSync(file)) damaged.set(digest, readFileSync(file))
    }
    const wrong = async (repair = false): Promise<Finding[]> =>
      (await look(root, repair)).filter((it) => it.wrong).sort((a, b) => (a.subject < b.subject ? -1 : 1))
    t.match(await wrong(), expected)
    t.match(await wrong(true), expected)
    for (const [digest, bytes] of damaged) {
      const aside = path.join(root, 'quarantine', digest.replace(':', '-'))
      t.same(readFileSync(aside), bytes, 'not a byte of it was lost')
    }
    t.match(
      await wrong(),
      expected.map((it) => ({ ...it, kind: 'missing' })),
    )
  })

  test(`${name} of what was mirrored is told, and dropped by a repair`, async (t) => {
    const root = await seeded(t)
    const parts = partsOf(BASE)
    for (const digest of parts) damage.do(blobFile(root, digest))
    const found = (all: Finding[]): unknown[] =>
      all.map(({ kind, origin, wrong, remains }) => ({ kind, origin, wrong, remains }))
    const expected = parts.map(() => ({ kind: damage.kind, origin: 'mirrored', wrong: true, remains: true }))
    const before = await look(root)
    t.same(found(before), expected)
    for (const { uses } of before) t.same(uses, ['docker.io/library/base:3'])
    t.same(
      found(await look(root, true)),
      expected.map((it) => ({ ...it, remains: false })),
    )
    for (const digest of parts) t.notOk(existsSync(blobFile(root, digest)))
    t.same(await look(root), [])
  })
}

test('what a repair dropped is fetched again', async (t) => {
  const upstream = await simulate(t)
  upstream.addImage('library/base', '3', BASE)
  const root = t.testdir()
  const first = await startMirror(t, upstream, { root })
  const paths = ['manifests/3', ...BASE.blobs.map(({ digest }) => `blobs/${digest}`)]
  const contents = [BASE.manifest, ...BASE.blobs]
  for (const it of paths) await pull(`${first.url}/v2/library/base/${it}`)
  await settled(first)
  await first.close()
  for (const { digest } of contents) flipByte(blobFile(root, digest))

  t.equal((await look(root, true)).filter(({ remains }) => remains).length, 0)
  const second = await startMirror(t, upstream, { root })
  for (const [position, it] of paths.entries()) {
    const pulled = await pull(`${second.url}/v2/library/base/${it}`)
    t.ok(isWhole(pulled, contents[position]!), it)
  }
  await settled(second)
  await second.close()
  t.same(await look(root), [])
})

test('what was quarantined can be pushed again', async (t) => {
  const root = await seeded(t)
  const broken = APP.layers[0]!
  flipByte(blobFile(root, broken.digest))
  await look(root, true)
  const server = await startMirror(t, { url: 'http://127.0.0.1:9' }, { root })
  t.equal((await pushBlob(`${server.url}/v2/team/app`, broken)).status, 201)
  await server.close()
  const after = await look(root)
  t.match(after, [{ kind: 'quarantine', wrong: false, detail: /can be deleted/ }])
  t.same(readFileSync(blobFile(root, broken.digest)), broken.bytes)
})

test('a second file of the same digest takes the place of no other in quarantine', async (t) => {
  const root = await seeded(t)
  const { digest } = APP.layers[0]!
  for (const text of ['one', 'other']) {
    writeFileSync(blobFile(root, digest), text)
    await look(root, true)
  }
  const aside = path.join(root, 'quarantine', digest.replace(':', '-'))
  t.equal(readFileSync(aside, 'utf8'), 'one')
  t.equal(readFileSync(`${aside}.2`, 'utf8'), 'other')
})

test('bytes that were pushed and mirrored are never deleted', async (t) => {
  const root = t.testdir()
  await seedLocal(root, [{ name: 'team/base', tags: { mine: BASE } }])
  await seedMirrored(root, { ...HUB, image: BASE })
  const { digest } = BASE.layers[0]!
  flipByte(blobFile(root, digest))
  const uses = ['docker.io/library/base:3', 'team/base:mine']
  const [finding] = await look(root, true)
  t.match(finding, { kind: 'corrupt', origin: 'both', uses, remains: true, repair: /^put aside/ })
  t.match(await look(root), [{ kind: 'missing', origin: 'both', uses }, { kind: 'quarantine' }])
})

test('the tag of an index is hit by a layer of one of its images', async (t) => {
  const root = t.testdir()
  const both = index({ images: { amd64: APP, arm64: BASE } })
  await seedLocal(root, [{ name: 'team/multi', tags: { all: both }, images: [] }])
  rmSync(blobFile(root, APP.layers[1]!.digest))
  t.match(await look(root), [{ kind: 'missing', uses: ['team/multi:all'] }])
})

test('a size that the index has wrong, or lost, is set right', async (t) => {
  for (const statement of ['update blob set size = 7', 'delete from blob']) {
    const root = await seeded(t)
    inDatabase(root, `${statement} where digest = '${APP.layers[0]!.digest}'`)
    t.match(await look(root), [{ kind: 'size', origin: 'pushed', wrong: true }])
    t.match(await look(root, true), [{ kind: 'size', remains: false, repair: /set right/ }])
    t.same(await look(root), [])
  }
})

test('what a manifest names is written down again', async (t) => {
  for (const it of [APP, BASE]) {
    const root = await seeded(t)
    inDatabase(
      root,
      `delete from manifest_reference where manifest = '${it.manifest.digest}' and role = 'layer'`,
    )
    t.match(await look(root), [{ kind: 'manifest', subject: it.manifest.digest, wrong: true }])
    t.match(await look(root, true), [{ kind: 'manifest', remains: false }])
    t.same(await look(root), [])
  }
})

test('a blob that its repository lost is linked again', async (t) => {
  const root = await seeded(t)
  const { digest } = APP.layers[1]!
  // Somebody else holds the bytes, so that they are no orphan.
  await seedLocal(root, [{ name: 'team/other', blobs: [APP.layers[1]!] }])
  inDatabase(root, `delete from repository_blob where digest = '${digest}' and repository = 'local/team/app'`)
  const expected = { kind: 'incomplete', subject: APP.manifest.digest, uses: ['team/app:1'] }
  t.match(await look(root), [{ ...expected, remains: true, detail: new RegExp(digest) }])
  t.match(await look(root, true), [{ ...expected, remains: false }])
  t.same(await look(root), [])
})

test('a blob that is gone from its repository and from the disk stays reported', async (t) => {
  const root = await seeded(t)
  const { digest } = APP.layers[1]!
  inDatabase(
    root,
    `delete from repository_blob where digest = '${digest}'`,
    `delete from blob where digest = '${digest}'`,
  )
  rmSync(blobFile(root, digest))
  for (const repair of [false, true, false]) {
    t.match(await look(root, repair), [{ kind: 'incomplete', uses: ['team/app:1'], remains: true }])
  }
})

test('a tag that names nothing is told, and mended where its manifest is', async (t) => {
  const root = await seeded(t)
  const { digest } = APP.manifest
  inDatabase(root, `delete from manifest where digest = '${digest}'`)
  t.match(await look(root), [{ kind: 'tag', subject: 'team/app:1', remains: true }])
  t.match(await look(root, true), [{ kind: 'tag', remains: false }])
  t.same(await look(root), [])

  inDatabase(
    root,
    `delete from manifest where digest = '${digest}'`,
    `delete from blob where digest = '${digest}'`,
  )
  rmSync(blobFile(root, digest))
  for (const repair of [false, true, false]) {
    t.match(await look(root, repair), [{ kind: 'tag', subject: 'team/app:1', remains: true }])
  }
})

test('a damaged database is told, and nothing is done by its word', async (t) => {
  const root = await seeded(t)
  const file = path.join(root, 'metadata.sqlite')
  const database = new DatabaseSync(file)
  database.exec('pragma wal_checkpoint(truncate)')
  const { rootpage } = database
    .prepare("select rootpage from sqlite_master where name = 'blob_source'")
    .get()!
  const { page_size: size } = database.prepare('pragma page_size').get()!
  database.close()
  const bytes = readFileSync(file)
  bytes.fill(0xff, (Number(rootpage) - 1) * Number(size), Number(rootpage) * Number(size))
  writeFileSync(file, bytes)
  rmSync(blobFile(root, BASE.layers[0]!.digest))
  const [first, ...others] = await look(root, true)
  t.match(first, { kind: 'database', subject: 'metadata.sqlite', wrong: true, remains: true })
  for (const { kind } of others) t.equal(kind, 'database')
})

test('an upstream tag of which only the name is known is no fault', async (t) => {
  const root = await seeded(t)
  inDatabase(
    root,
    `update tag set digest = 'sha256:${'0'.repeat(64)}' where repository = 'docker.io/library/base'`,
  )
  t.same(await look(root), [])
})

test('an index whose images were not pushed is no fault', async (t) => {
  const root = t.testdir()
  const both = index({ images: { amd64: APP } })
  await seedLocal(root, [{ name: 'team/sparse', manifests: [both.manifest] }])
  t.match(await look(root, true), [{ kind: 'child', wrong: false, remains: false }])
})

test('a layer that registries do not hold is not missed', async (t) => {
  const root = t.testdir()
  const foreign = image({ layers: [100, { size: 9, urls: ['https://example.com/layer'] }] })
  await seedLocal(root, [{ name: 'team/win', tags: { 1: foreign } }])
  t.same(await look(root), [])
})

test('a file that the index does not know is told and left alone, unless it is damaged', async (t) => {
  const root = await seeded(t)
  const stray = layer({ size: 4000, seed: 'stray' })
  const file = blobFile(root, stray.digest)
  mkdirSync(path.dirname(file), { recursive: true })
  writeFileSync(file, stray.bytes)
  const expected = { kind: 'orphan', wrong: false, remains: false, origin: 'nobody', subject: stray.digest }
  t.match(await look(root), [expected])
  t.match(await look(root, true), [expected])
  t.ok(existsSync(file))

  // Whoever pushes these bytes would be served the file that is there.
  flipByte(file)
  t.match(await look(root), [{ kind: 'corrupt', wrong: true, origin: 'nobody' }])
  t.match(await look(root, true), [{ kind: 'corrupt', remains: false }, { kind: 'quarantine' }])
  t.match(await look(root), [{ kind: 'quarantine', wrong: false }])
})

test('what is no blob, and what is only half here, is told', async (t) => {
  const root = await seeded(t)
  writeFileSync(path.join(root, 'blobs/sha256/notes.txt'), 'buy milk')
  writeFileSync(path.join(root, 'blobs/.DS_Store'), '')
  writeFileSync(path.join(root, 'ingest/core.1234'), 'x'.repeat(10))
  const found = await look(root)
  t.same(
    found.map(({ kind, subject, wrong }) => [kind, subject, wrong]),
    [
      ['foreign', 'blobs/.DS_Store', false],
      ['foreign', 'blobs/sha256/notes.txt', false],
      ['partial', 'ingest: 1 other files', false],
    ],
  )
})

test('something that is no file in the place of a pushed blob is told and not touched', async (t) => {
  const root = await seeded(t)
  const file = blobFile(root, APP.config.digest)
  rmSync(file)
  mkdirSync(file)
  for (const repair of [false, true]) {
    t.match(await look(root, repair), [{ kind: 'unreadable', origin: 'pushed', wrong: true, remains: true }])
  }
  t.ok(existsSync(file))
})

test('amid pushes, deletes and collections nothing is found, and nothing is mended', async (t) => {
  const root = t.testdir()
  const server = await startMirror(t, NOBODY, { root, config: { push: { gcGrace: '1ms' } } })
  const keeper = await keeperOf(root)
  let going = true
  const churn = async (name: string): Promise<void> => {
    const repository = `${server.url}/v2/team/${name}`
    for (let round = 0; going; round++) {
      const it = image({ seed: `${name} ${round % 4}`, layers: [300_000, { size: 2000, seed: 'shared' }] })
      await pushImage(repository, it, `t${round % 3}`)
      await send(`${repository}/manifests/${it.manifest.digest}`, 'DELETE')
    }
  }
  const sweep = async (): Promise<void> => {
    while (going) await collect(keeper)
  }
  const work = [churn('one'), churn('two'), sweep()]
  const wrong: Finding[] = []
  try {
    for (let times = 0; times < 6; times++) {
      for await (const event of keeper.verify({ repair: times % 2 === 1 }, new AbortController().signal)) {
        if ('finding' in event && event.finding.wrong) wrong.push(event.finding)
      }
    }
  } finally {
    going = false
    await Promise.all(work)
  }
  t.same(wrong, [])
  await server.close()
  t.notOk(existsSync(path.join(root, 'quarantine')))
})
