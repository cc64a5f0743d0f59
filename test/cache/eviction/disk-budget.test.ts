/** How much room there is: for whom it is made, and who has to do without. */
import { test, type Test } from 'tap'
import type { BudgetSettings } from '../../../src/cache/eviction/limits.ts'
import type { Evicted, EvictionOrder, Goal } from '../../../src/cache/eviction/eviction-order.ts'
import { DiskBudget } from '../../../src/cache/eviction/disk-budget.ts'
import { CacheUsage } from '../../../src/cache/eviction/usage.ts'
import { nodeFiles } from '../../../src/storage/files/files.ts'
import { InProcessKeyedLocks } from '../../../src/storage/locks/keyed-locks.ts'
import type { EvictionIndex } from '../../../src/storage/metadata/eviction-index.ts'
import { createLog } from '../../../src/telemetry/log.ts'
import { createMetrics } from '../../../src/telemetry/metrics.ts'
import { layer } from '../../support/images.ts'
import { blobBytes, KB, openWarehouse } from '../../support/warehouse.ts'

const GiB = 2 ** 30
const ALL = { bytes: undefined, percent: undefined }
const contents = Array.from({ length: 20 }, (_, at) => layer({ size: 10, seed: `room ${at}` }))

interface Disk {
  /** Of blobs in the index. */
  mirrored: number
  free: number
  /** Of a look at all that is there. */
  readonly slowMs?: number
}

/** An evictor over a disk that only exists in numbers; what it is to free it frees, as long as there is something. */
function evictorOf(
  t: Test,
  disk: Disk,
  settings: Partial<BudgetSettings>,
): { evictor: DiskBudget; goals: Goal[] } {
  const goals: Goal[] = []
  const eviction: Pick<EvictionOrder, 'pursue' | 'settle' | 'stranded' | 'dropStranded'> = {
    settle: () => Promise.resolve(),
    stranded: () => 0,
    dropStranded: () => Promise.resolve(0),
    async *pursue(goal) {
      await new Promise((resolve) => setTimeout(resolve, disk.slowMs ?? 0))
      goals.push(goal)
      const bytes = Math.min(goal.bytes, disk.mirrored)
      disk.mirrored -= bytes
      disk.free += bytes
      if (bytes > 0) yield { bytes } as Evicted
    },
  }
  const index: Pick<EvictionIndex, 'stored' | 'mirrored'> = {
    stored: () => Promise.resolve({ mirrored: new Map([['docker.io', disk.mirrored]]), pushed: 0, index: 0 }),
    mirrored: () => Promise.resolve(undefined),
  }
  const metrics = createMetrics()
  const evictor = new DiskBudget({
    usage: new CacheUsage({ index, ingests: { downloads: () => [] }, metrics }),
    eviction,
    locks: new InProcessKeyedLocks(),
    settings: () => ({ maxSize: ALL, minFree: ALL, upstreams: new Map(), ...settings }),
    space: () => Promise.resolve({ total: 100 * GiB, free: disk.free }),
    metrics,
    log: createLog({ level: 'silent' }),
  })
  t.teardown(() => evictor[Symbol.asyncDispose]())
  return { evictor, goals }
}

test('what is admitted is made room for before it comes, once', async (t) => {
  const disk = { mirrored: 50 * GiB, free: 50 * GiB }
  const { evictor, goals } = evictorOf(t, disk, { maxSize: { bytes: 50 * GiB, percent: undefined } })
  const admissions = await Promise.all(
    contents.map(({ digest }) => evictor.reserve({ source: 'docker.io', digest }, GiB)),
  )
  t.ok(admissions.every(({ as }) => as === 'keep'))
  await evictor.reclaim(0)
  t.equal(disk.mirrored, 25 * GiB, '20 GiB are to come, and 45 GiB is where eviction stops')
  goals.length = 0
  await evictor.reclaim(0)
  t.same(goals, [])
  for (const admission of admissions) admission[Symbol.dispose]()
  t.match(await evictor.standing(), { usage: { outstanding: 0 }, limits: { total: 50 * GiB } })
})

test('what is larger than its budget may pass, and costs nothing of what is here', async (t) => {
  const disk = { mirrored: 9 * GiB, free: 80 * GiB }
  const { evictor, goals } = evictorOf(t, disk, {
    maxSize: { bytes: 40 * GiB, percent: 10 },
    upstreams: new Map([['quay.io', { bytes: GiB, percent: undefined }]]),
  })
  const [one, other, third] = contents.map(({ digest }) => digest) as [never, never, never]
  using large = await evictor.reserve({ source: 'docker.io', digest: one }, 11 * GiB)
  using small = await evictor.reserve({ source: 'docker.io', digest: other }, GiB / 2)
  using strict = await evictor.reserve({ source: 'quay.io', digest: third }, 2 * GiB)
  t.same([large.as, small.as, strict.as], ['transient', 'keep', 'transient'])
  await evictor.reclaim(0)
  t.same(goals, [])
})

test('minFree is kept: room is made for what comes, and what the disk cannot hold is refused', async (t) => {
  const disk = { mirrored: 10 * GiB, free: 6 * GiB }
  const { evictor } = evictorOf(t, disk, { minFree: { bytes: 5 * GiB, percent: undefined } })
  const [one, other] = contents.map(({ digest }) => digest) as [never, never]
  using admission = await evictor.reserve({ source: 'docker.io', digest: one }, 4 * GiB)
  t.equal(admission.as, 'keep')
  t.ok(disk.free - 4 * GiB >= 5 * GiB, 'the rest of it is yet to come')
  using refused = await evictor.reserve({ source: 'docker.io', digest: other }, 20 * GiB)
  t.equal(refused.as, 'none')
})

test('a full disk is told whether there was something to free', async (t) => {
  const disk = { mirrored: 3 * GiB, free: 0 }
  const { evictor } = evictorOf(t, disk, {})
  t.equal(await evictor.reclaim(GiB), true)
  t.same(
    await Promise.all([evictor.reclaim(GiB), evictor.reclaim(GiB)]),
    [true, true],
    'each gets what it asked for',
  )
  t.equal(disk.mirrored, 0)
  t.equal(await evictor.reclaim(1), false)
  disk.mirrored = GiB
  t.equal(await evictor.reclaim(2 * GiB), true, 'less than it asked for may do')
  t.equal(await evictor.reclaim(2 * GiB), false)
})

test('where nothing may go, what comes does not bring about one look after the other', async (t) => {
  const { evictor, goals } = evictorOf(
    t,
    { mirrored: 0, free: 0, slowMs: 300 },
    { minFree: { bytes: GiB, percent: undefined } },
  )
  await evictor.reclaim(0)
  t.match(goals, [{ why: 'minFree' }])
  for (let at = 0; at < 10; at += 1) {
    evictor.changed()
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  t.equal(goals.length, 1)
})

test('a share of the file system, and what must be left of it, are of the disk that everything is on', async (t) => {
  const disk = { total: 4_000 * KB, free: (): number => 4_000 * KB }
  const { mirror, offer, pullImage, within } = await openWarehouse(t, {
    cache: { maxSize: '25%', minFree: '200000' },
    files: { ...nodeFiles, space: () => Promise.resolve({ total: disk.total, free: disk.free() }) },
  })
  const pullSome = async (kind: string): Promise<void> => {
    for (let at = 0; at < 6; at++)
      await pullImage(`library/${kind}${at}`, offer(`library/${kind}${at}`, [190 * KB]))
  }
  await pullSome('a')
  await within(1_000 * KB)
  disk.free = () => 800 * KB - blobBytes(mirror.root)
  await pullSome('b')
  await within(600 * KB)
  t.match(
    new Set(mirror.lines.filter(({ msg }) => msg === 'evicted').map(({ why }) => why)),
    new Set(['budget', 'minFree']),
  )
  const large = offer('library/large', [700 * KB])
  const said = await pullImage('library/large', large)
  t.equal(said.at(-1), 'bypass', 'what the disk has no room for comes past it')
})
