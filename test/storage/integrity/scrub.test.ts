/** The scrub: when, how fast, and for whom it waits, by a clock of its own. */
import { test } from 'tap'
import { digestOf, type Digest } from '../../../src/oci/digest.ts'
import { createLog } from '../../../src/telemetry/log.ts'
import { createMetrics } from '../../../src/telemetry/metrics.ts'
import { Scrub } from '../../../src/storage/integrity/scrub.ts'

const NEVER = new AbortController().signal
const SILENT = createLog({ level: 'silent' })
const MIB = 1024 * 1024
const GIB = 1024 * MIB
const HOUR = 3_600_000
const DAY = 24 * HOUR
const BEGAN = 1_700_000_000_000

interface Simulated {
  now: number
  busy: boolean
  intervalMs: number
  /** Thrown by the index instead of writing. */
  broken: boolean
  readonly checkedAt: Map<Digest, number>
  /** In the order of their checks. */
  readonly reads: Digest[]
  readonly bytesRead: () => number
  firstReadAt: number | undefined
  scrub: Scrub
  /** Turns until the clock says so. */
  until(time: number): Promise<void>
}

/** Blobs without bytes, by a clock that only moves when somebody rests. */
function simulate(sizes: readonly number[], { disk = 1000 * MIB } = {}): Simulated {
  const blobs = new Map(sizes.map((size, at) => [digestOf(Buffer.from(`${at}`)), size]))
  const metrics = createMetrics()
  let bytesRead = 0
  const it: Simulated = {
    ...{ now: BEGAN, busy: false, intervalMs: 30 * DAY, broken: false, reads: [], firstReadAt: undefined },
    checkedAt: new Map([...blobs.keys()].map((digest) => [digest, BEGAN])),
    bytesRead: () => bytesRead,
    scrub: undefined as unknown as Scrub,
    async until(time) {
      while (it.now < time) {
        const pause = await it.scrub.turn(NEVER)
        it.now += Math.max(1, pause)
      }
    },
  }
  const byAge = () => [...it.checkedAt].sort(([, one], [, other]) => one - other)
  it.scrub = new Scrub({
    metadata: {
      audit: {
        totals: async () => ({ blobs: blobs.size, bytes: [...blobs.values()].reduce((a, b) => a + b, 0) }),
      },
      scrub: {
        due: async ({ before, after }, limit) => {
          const old = byAge().filter(([, at]) => at < before)
          const wrong = byAge().filter(([, at]) => at > after)
          const due = (old.length > 0 ? old : wrong).slice(0, limit)
          return due.map(([digest, checkedAt]) => ({ digest, checkedAt }))
        },
        oldestCheck: async () => byAge()[0]?.[1],
      },
      transaction: async (fill) => {
        if (it.broken) throw new Error('the disk is full')
        const tx = {
          markChecked: (digests: readonly Digest[], at: number) => {
            for (const digest of digests) it.checkedAt.set(digest, at)
          },
        }
        fill(tx as Parameters<typeof fill>[0])
      },
    },
    examiner: {
      examine: async (digest, read) => {
        it.reads.push(digest)
        it.firstReadAt ??= it.now
        const size = blobs.get(digest) ?? 0
        // Larger ones than it really reads: there are thousands of gigabytes.
        const piece = Math.max(4 * MIB, size / 20)
        for (let left = size; left > 0; left -= piece) {
          const count = Math.min(left, piece)
          it.now += (count / disk) * 1000
          bytesRead += count
          await read(count)
        }
        return undefined
      },
    },
    intervalMs: () => it.intervalMs,
    busy: () => it.busy,
    ...{ metrics, log: SILENT },
    now: () => it.now,
    rest: async (ms) => void (it.now += ms),
  })
  return it
}

const SHELVES: Record<string, number[]> = {
  'a few small blobs': [1, 2, 3],
  'many small blobs': Array.from({ length: 1500 }, () => 10_000),
  'as much as the default budget': Array.from({ length: 50 }, () => GIB),
  'as much as a large disk': Array.from({ length: 12 }, () => 1000 * GIB),
}

for (const [what, sizes] of Object.entries(SHELVES)) {
  test(`${what}: each is read once in half of the interval, and none waits for all of it`, async (t) => {
    const it = simulate(sizes)
    it.intervalMs = sizes.length > 1000 ? 2 * DAY : 30 * DAY
    await it.until(BEGAN + 0.49 * it.intervalMs)
    t.equal(it.reads.length, 0, 'what came just now is not read again at once')
    const oldest = (): number => Math.min(...it.checkedAt.values())
    for (let at = 0.5; at < 3; at += 0.05) {
      await it.until(BEGAN + at * it.intervalMs)
      if (it.now - oldest() > 0.85 * it.intervalMs) t.fail(`${at}: one was not checked in time`)
    }
    t.ok(it.reads.length >= 3 * sizes.length, 'round after round')
    t.ok(it.reads.length <= 6 * sizes.length, 'and no more often')
    t.equal(new Set(it.reads).size, sizes.length)
  })
}

test('it never reads faster than 64 MiB in a second, and as slowly as the time allows', async (t) => {
  const speed = async (sizes: number[], intervalMs: number, disk: number): Promise<number> => {
    const it = simulate(sizes, { disk })
    it.intervalMs = intervalMs
    it.now += intervalMs * 0.6
    const began = it.now
    await it.scrub.turn(NEVER)
    return it.bytesRead() / ((it.now - began) / 1000)
  }
  const close = (found: number, expected: number): boolean => Math.abs(found / expected - 1) < 0.01
  t.ok(close(await speed([GIB], 30 * DAY, 1000 * MIB), 4 * MIB), 'little is read slowly')
  t.ok(
    close(await speed([100 * GIB], 2 * HOUR, 1000 * MIB), (100 * GIB) / 1800),
    'more in a fourth of the time',
  )
  t.ok(close(await speed([100 * GIB], HOUR / 2, 1000 * MIB), 64 * MIB), 'and never faster than that')
  t.ok(close(await speed([100 * GIB], HOUR / 2, 10 * MIB), 10 * MIB), 'nor faster than the disk')
})

test('it waits for whoever is served, as long as there is time', async (t) => {
  const it = simulate([10 * MIB, 10 * MIB])
  it.busy = true
  await it.until(BEGAN + 0.8 * it.intervalMs)
  t.equal(it.reads.length, 2, 'those that are overdue wait for nobody')
  t.ok(it.firstReadAt! > BEGAN + 0.74 * it.intervalMs)
  t.ok(it.firstReadAt! < BEGAN + 0.76 * it.intervalMs)
})

test('it stands still within a file as well', async (t) => {
  const it = simulate([100 * MIB])
  it.now += 0.6 * it.intervalMs
  const began = it.now
  const { scrub } = it
  Object.defineProperty(it, 'busy', {
    get: () => {
      const seconds = (it.now - began) / 1000
      return seconds > 5 && seconds < 3605
    },
  })
  await scrub.turn(NEVER)
  t.equal(it.bytesRead(), 100 * MIB)
  t.ok(it.now - began > HOUR, 'an hour was waited')
})

test('an interval of 0 is never, and a new one counts from then on', async (t) => {
  const it = simulate([5])
  it.intervalMs = 0
  await it.until(BEGAN + 100 * DAY)
  t.equal(it.reads.length, 0)
  it.intervalMs = 30 * DAY
  await it.until(BEGAN + 101 * DAY)
  t.equal(it.reads.length, 1)
})

test('while the index takes no write, nothing is read twice, and nothing is forgotten', async (t) => {
  const it = simulate(Array.from({ length: 250 }, () => 10))
  it.broken = true
  it.now += 0.6 * it.intervalMs
  await it.until(it.now + DAY)
  t.equal(new Set(it.reads).size, it.reads.length)
  it.broken = false
  await it.until(it.now + DAY)
  t.equal(it.reads.length, 250)
  t.ok(Math.min(...it.checkedAt.values()) > BEGAN)
})

test('a clock that was years ahead for a while does not put it off for years', async (t) => {
  const it = simulate([5, 5])
  it.now += 3650 * DAY
  await it.until(it.now + HOUR)
  t.equal(it.reads.length, 2)
  it.now = BEGAN + DAY
  it.busy = true
  await it.until(it.now + DAY)
  t.equal(it.reads.length, 4)
  t.ok(Math.max(...it.checkedAt.values()) < BEGAN + 3 * DAY)
  await it.until(it.now + DAY)
  t.equal(it.reads.length, 4, 'and then it is as ever')
})
