/**
 * What the scrub does about what it finds, on folders that were damaged by hand; by a clock of its own.
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
import { test, type Test } from 'tap'
import { digestOf, type Digest } from '../../src/oci/digest.ts'
import { DiskBlobStore } from '../../src/storage/blobs/disk-blob-store.ts'
import { DiskBlobAudit } from '../../src/storage/blobs/disk-audit.ts'
import { nodeFiles } from '../../src/storage/files/files.ts'
import { Hashers } from '../../src/storage/ingest/hasher.ts'
import { InProcessKeyedLocks } from '../../src/storage/locks/keyed-locks.ts'
import type { MetadataStore } from '../../src/storage/metadata/metadata.ts'
import { openMetadata } from '../../src/storage/metadata/sqlite/open.ts'
import { createLog } from '../../src/telemetry/log.ts'
import { createMetrics } from '../../src/telemetry/metrics.ts'
import { Examiner } from '../../src/storage/integrity/examiner.ts'
import type { Lost } from '../../src/storage/integrity/repair-blob.ts'
import { Scrub } from '../../src/storage/integrity/scrub.ts'
import { blobFile, seedMirrored } from '../support/folder.ts'
import { image } from '../support/images.ts'
import { seedLocal } from '../support/local.ts'
import '../support/folders-last.ts'

const NEVER = new AbortController().signal
const DAY = 24 * 3_600_000
const BEGAN = 1_700_000_000_000

const APP = image({ seed: 'app', layers: [300_000] })
const BASE = image({ seed: 'base', layers: [5_000_000] })
/** Its layer was pushed, and came from an upstream. */
const SHARED = { layers: [{ size: 4000, seed: 'shared' }] }
const OURS = image({ seed: 'ours', ...SHARED })
const THEIRS = image({ seed: 'theirs', ...SHARED })

interface Scene {
  now: number
  readonly root: string
  readonly examiner: Examiner
  readonly metadata: MetadataStore
  readonly metrics: ReturnType<typeof createMetrics>
  readonly lost: Lost[]
  readonly lines: Record<string, unknown>[]
  file(digest: Digest): string
  /** One round over everything. */
  round(): Promise<void>
  newScrub(): Scrub
  corrupt(kind: string): Promise<number>
}

/** Made once, and copied: what is written to a folder is synced, which takes its time. */
let original: Promise<string> | undefined

async function makeOriginal(): Promise<string> {
  const root = mkdtempSync(path.join(tmpdir(), 'entrepot-scrub-'))
  process.on('exit', () => rmSync(root, { recursive: true, force: true }))
  await seedLocal(root, [{ name: 'team/app', tags: { 1: APP, 2: OURS } }], BEGAN)
  await seedMirrored(root, { registry: 'docker.io', name: 'library/base', tag: '3', image: BASE }, BEGAN)
  await seedMirrored(root, { registry: 'quay.io', name: 'their/app', tag: '4', image: THEIRS }, BEGAN)
  return root
}

async function scene(t: Test): Promise<Scene> {
  const root = t.testdir()
  cpSync(await (original ??= makeOriginal()), root, { recursive: true })
  const closing = new AsyncDisposableStack()
  t.teardown(() => closing.disposeAsync())
  const database = path.join(root, 'metadata.sqlite')
  const hashers = closing.adopt(new Hashers({ threads: 1 }), (it) => it.close())
  const metadata = closing.adopt(await openMetadata(database), (it) => it.close())
  const lines: Record<string, unknown>[] = []
  const log = createLog({
    level: 'info',
    write: (line) => void lines.push(JSON.parse(line) as Record<string, unknown>),
  })
  const lost: Lost[] = []
  const metrics = createMetrics()
  const now = (): number => it.now
  const examiner = closing.use(
    new Examiner({
      ...{ metadata, metrics, log, now },
      disk: new DiskBlobAudit({ root, files: nodeFiles, hashers }),
      store: new DiskBlobStore(root),
      locks: new InProcessKeyedLocks(),
      refetch: async (gone) => void lost.push(gone),
    }),
  )
  const newScrub = (): Scrub =>
    new Scrub({
      ...{ metadata, examiner, metrics, log, now },
      busy: () => false,
      intervalMs: () => 30 * DAY,
      rest: async (ms) => void (it.now += ms),
    })
  const it: Scene = {
    ...{ now: BEGAN + 20 * DAY, root, examiner, metrics, lost, lines, newScrub, metadata },
    metadata,
    file: (digest) => blobFile(root, digest),
    round: async () => {
      const scrub = newScrub()
      while ((await scrub.turn(NEVER)) === 0);
    },
    corrupt: async (kind) => {
      const { values } = await metrics.scrubCorrupt.get()
      return values.find(({ labels }) => labels.kind === kind)?.value ?? 0
    },
  }
  return it
}

function flipByte(file: string): void {
  const bytes = readFileSync(file)
  bytes[bytes.length >> 1]! ^= 1
  writeFileSync(file, bytes)
}

test('where all is well it reads everything, once, and says nothing', async (t) => {
  const it = await scene(t)
  await it.round()
  const { values } = await it.metrics.scrubbedBytes.get()
  const all = [APP, OURS, BASE, THEIRS].flatMap(({ blobs, manifests }) => [...blobs, ...manifests])
  const distinct = new Map(all.map(({ digest, bytes }) => [digest, bytes.length]))
  t.equal(
    values[0]?.value,
    [...distinct.values()].reduce((sum, size) => sum + size),
  )
  t.ok((await it.metadata.scrub.oldestCheck())! >= BEGAN + 20 * DAY)
  t.same([it.lines, it.lost], [[], []])
})

test('a restart goes on where it was', async (t) => {
  const it = await scene(t)
  const ending = new AbortController()
  const first = it.newScrub()
  const seen: Digest[] = []
  const examine = it.examiner.examine.bind(it.examiner)
  it.examiner.examine = async (digest, read, signal) => {
    if (seen.length === 4) ending.abort(new Error('enough'))
    signal.throwIfAborted()
    seen.push(digest)
    return examine(digest, read, signal)
  }
  await t.rejects(first.run(ending.signal), { message: 'enough' })
  t.equal(seen.length, 4)
  it.examiner.examine = async (digest, read, signal) => {
    seen.push(digest)
    return examine(digest, read, signal)
  }
  await it.round()
  t.equal(new Set(seen).size, seen.length, 'none of them twice')
})

const DAMAGES: Record<string, (file: string) => void> = {
  'a flipped bit': flipByte,
  'a lost end': (file) => truncateSync(file, 10),
  'a folder in its place': (file) => {
    rmSync(file)
    mkdirSync(file)
  },
}

for (const [what, damage] of Object.entries(DAMAGES)) {
  test(`${what}: what was mirrored is dropped and fetched again`, async (t) => {
    const it = await scene(t)
    const parts = [BASE.layers[0]!.digest, BASE.config.digest, BASE.manifest.digest]
    for (const digest of parts) damage(it.file(digest))
    await it.round()
    for (const digest of parts) {
      t.notOk(existsSync(it.file(digest)))
      t.equal(await it.metadata.audit.digest(digest), undefined, 'the index claims nothing')
      const gone = it.lost.find((lost) => lost.digest === digest)
      t.match(gone, { pushed: false })
      const names = gone?.manifests.map(({ repository, tags }) => `${repository.name}:${tags[0] ?? ''}`)
      // Once its manifest is dropped nobody names a layer any more; then that is what is asked for again.
      if (names!.length > 0) t.same(names, ['library/base:3'])
    }
    t.ok(it.lost.some(({ manifests }) => manifests.length > 0))
    t.equal(await it.corrupt('mirrored'), 3)
    t.equal(await it.corrupt('pushed'), 0)
    t.equal((await it.examiner.quarantine()).count, 0)
    await it.round()
    t.equal(it.lines.length, 3, 'told once')
  })
}

test('what was mirrored and has gone is forgotten, and not fetched: somebody made room', async (t) => {
  const it = await scene(t)
  rmSync(it.file(BASE.layers[0]!.digest))
  await it.round()
  t.equal(await it.metadata.audit.digest(BASE.layers[0]!.digest), undefined)
  t.same(it.lost, [])
  t.equal(await it.corrupt('mirrored'), 0)
})

for (const [what, damage, state] of [
  ['is damaged', flipByte, 'damaged'],
  ['lost its end', (file: string) => truncateSync(file, 3), 'damaged'],
  ['is gone', (file: string) => rmSync(file), 'missing'],
  ['has a folder in its place', DAMAGES['a folder in its place']!, 'missing'],
] as const) {
  test(`what was pushed and ${what} is kept as it is, and told until it is mended`, async (t) => {
    const it = await scene(t)
    const { digest } = APP.layers[0]!
    const file = it.file(digest)
    damage(file)
    const left = state === 'damaged' ? readFileSync(file) : undefined
    await it.round()
    if (left !== undefined) {
      t.notOk(existsSync(file), 'nobody can be served it')
      const aside = path.join(it.root, 'quarantine', digest.replace(':', '-'))
      t.ok(readFileSync(aside).equals(left), 'not a byte of it is lost')
    }
    const since = new Date(it.now).toISOString().slice(0, 13)
    const told = await it.examiner.quarantine()
    t.match(told, { count: 1, blobs: [{ digest, state, affects: ['team/app:1'], more: 0 }] })
    t.equal(told.blobs[0]!.since.slice(0, 13), since)
    t.match(await it.metadata.audit.digest(digest), { pushed: true }, 'the index still says whose it is')
    t.match(it.lines, [{ level: 'error', digest, uses: ['team/app:1'], msg: /push it again/ }])

    it.now += 20 * DAY
    await it.round()
    t.equal(await it.corrupt('pushed'), 1, 'counted once')
    t.equal(it.lines.length, 1, 'and told once')
    t.same(await it.examiner.quarantine(), told)

    // As somebody with a copy would.
    rmSync(file, { recursive: true, force: true })
    writeFileSync(file, APP.layers[0]!.bytes)
    it.now += 20 * DAY
    await it.round()
    t.same(await it.examiner.quarantine(), { count: 0, blobs: [] })
  })
}

test('what was pushed and mirrored is put aside, and asked of its upstream', async (t) => {
  const it = await scene(t)
  const { digest } = OURS.layers[0]!
  flipByte(it.file(digest))
  await it.round()
  t.ok(existsSync(path.join(it.root, 'quarantine', digest.replace(':', '-'))))
  t.match((await it.examiner.quarantine()).blobs, [
    { digest, affects: ['quay.io/their/app:4', 'team/app:2'] },
  ])
  t.match(it.lost, [{ digest, pushed: true, manifests: [{ manifest: THEIRS.manifest.digest }] }])
  t.match(await it.metadata.audit.digest(digest), { pushed: true, mirrored: true })
})

test('a suspicion is looked into without anybody waiting, and one that was wrong does nothing', async (t) => {
  const it = await scene(t)
  flipByte(it.file(APP.manifest.digest))
  for (const digest of [APP.layers[0]!.digest, APP.manifest.digest, APP.manifest.digest]) {
    it.examiner.suspect(digest)
  }
  while (it.lines.length === 0) await new Promise((resolve) => setImmediate(resolve))
  t.match((await it.examiner.quarantine()).blobs, [{ digest: APP.manifest.digest, affects: ['team/app:1'] }])
  t.ok(existsSync(it.file(APP.layers[0]!.digest)))
  t.equal(it.lines.length, 1)
})

test('of many the details name ten, and how many there are', async (t) => {
  const it = await scene(t)
  const digests = Array.from({ length: 12 }, (_, at) => digestOf(Buffer.from(`${at}`)))
  await it.metadata.transaction((tx) => {
    for (const digest of digests) tx.putQuarantine(digest, { size: 0, path: undefined }, BEGAN)
  })
  const { count, blobs } = await it.examiner.quarantine()
  t.equal(count, 12)
  t.equal(blobs.length, 10)
})
