/** Which piece of a large blob is fetched next, and by whom, while time stands still. */
import { test, type Test } from 'tap'
import { SegmentScheduler } from '../../../src/cache/download/segment-scheduler.ts'
import { RangeRequest, RangeRequests } from '../../../src/cache/download/range-requests.ts'
import { SegmentPolicy } from '../../../src/cache/download/segment-policy.ts'
import { ExtentMap } from '../../../src/storage/ingest/extents.ts'
import type { Ingest } from '../../../src/storage/ingest/ingest.ts'
import { TransferSlots } from '../../../src/upstream/limits/transfer-slots.ts'
import { UpstreamError } from '../../../src/upstream/upstream.ts'

const MiB = 2 ** 20

interface Fetching {
  readonly run: RangeRequest
  done(): void
  fail(error: Error): void
}

/** A blob whose first part has just been answered with 206. */
async function begin(t: Test, { size = 64 * MiB, parallel = 4 } = {}) {
  const clock = { now: 0 }
  const extents = new ExtentMap()
  const ingest = {
    get prefix() {
      return extents.prefix
    },
    readableTo: (position: number) => extents.readableTo(position),
    nextExtent: (position: number) => extents.nextStart(position),
  } as unknown as Ingest
  const runs = new RangeRequests(ingest)
  const leaving = new AbortController()
  t.teardown(() => leaving.abort(new Error('the test is over')))
  const { signal } = leaving
  const begun: Fetching[] = []
  const segments = new SegmentPolicy({ size: 4 * MiB, parallel, now: () => clock.now })
  const pieces = new SegmentScheduler({
    ...{ segments, ingest, runs, owner: {} },
    slots: new TransferSlots(10),
    priority: () => 'asked',
    size: () => size,
    fetch: (run, over) =>
      new Promise<void>((resolve, reject) => {
        over.addEventListener('abort', () => reject(over.reason as Error))
        begun.push({ run, done: resolve, fail: reject })
      }),
    onChange: () => pieces.spread(signal),
    log: { debug: () => undefined },
  })
  const main = new RangeRequest('main', { start: 0, end: pieces.endOf(0) }, clock.now)
  runs.add(main)
  const bring = (run: RangeRequest, bytes = runs.limitOf(run, size) - run.position): void => {
    run.taken += bytes
    extents.add(run.position, run.taken)
    run.position = run.taken
  }
  /** A second goes by. */
  const tick = async (): Promise<void> => {
    clock.now += 1000
    pieces.look(signal)
    await turns()
  }
  const finish = async (fetching: Fetching): Promise<void> => {
    bring(fetching.run)
    fetching.done()
    await turns()
  }
  return { clock, runs, pieces, main, begun, bring, tick, finish, signal, segments, size }
}

/** All who can have theirs. */
async function turns(): Promise<void> {
  for (let count = 0; count < 3; count++) await new Promise((resolve) => setImmediate(resolve))
}

function stretches(begun: readonly Fetching[]): number[][] {
  return begun.map(({ run }) => [run.start / MiB, run.end / MiB])
}

test('nothing is asked for beside the first part before it is given', async (t) => {
  const { pieces, main, begun, signal } = await begin(t)
  pieces.spread(signal)
  pieces.look(signal)
  await turns()
  t.same(begun, [])
  pieces.answered(main, true, signal)
  await turns()
  t.same(stretches(begun), [
    [1, 3],
    [3, 6],
    [6, 10],
  ])
})

test('all of it in place of the first part: nothing more is asked for', async (t) => {
  const { pieces, main, begun, signal, segments } = await begin(t)
  pieces.answered(main, false, signal)
  await turns()
  t.same(begun, [])
  t.equal(main.end, Number.POSITIVE_INFINITY)
  t.notOk(segments.cuts(64 * MiB))
})

test('whoever has done takes the next piece, and the last ones are small', async (t) => {
  const { pieces, main, begun, signal, bring, finish, runs } = await begin(t, { size: 16 * MiB })
  pieces.answered(main, true, signal)
  await turns()
  bring(main)
  runs.delete(main)
  for (let at = 0; at < begun.length; at++) await finish(begun[at]!)
  const all = [[0, 1], ...stretches(begun)]
  t.same(
    all.map(([start]) => start),
    [0, ...all.slice(0, -1).map(([, end]) => end)],
    'without gaps, none twice',
  )
  t.equal(all.at(-1)?.[1], 16)
  t.ok(all.slice(-2).every(([start = 0, end = 0]) => end - start <= 1))
})

test('nobody runs farther ahead of what is there than two rounds of pieces', async (t) => {
  const { pieces, main, begun, signal, finish } = await begin(t, { size: 512 * MiB })
  pieces.answered(main, true, signal)
  await turns()
  // The first part does not move; what is far behind it does.
  for (let at = 0; at < begun.length; at++) await finish(begun[at]!)
  const farthest = Math.max(...begun.map(({ run }) => run.start))
  t.ok(farthest <= 32 * MiB && farthest > 24 * MiB, `${farthest / MiB} MiB`)
})

test('a slow piece that holds the others up is divided: each brings what it can in the same time', async (t) => {
  const { pieces, main, begun, signal, tick, finish, bring, runs, size } = await begin(t)
  pieces.answered(main, true, signal)
  await turns()
  await finish(begun[0]!)
  const slow = begun[1]!.run
  bring(main)
  runs.delete(main)
  for (let second = 0; second < 3; second++) {
    bring(slow, 0.15 * MiB)
    bring(begun[2]!.run, 0.8 * MiB)
    bring(begun[3]!.run, 0.8 * MiB)
    await tick()
  }
  const before = begun.length
  await finish(begun[2]!)
  const helper = begun[before]!.run
  t.ok(helper.start > slow.taken && helper.start < 4 * MiB, `from ${helper.start / MiB} MiB on`)
  t.equal(helper.end, 6 * MiB)
  t.equal(runs.limitOf(slow, size), helper.start, 'the other ends there')
  t.notOk(slow.over.aborted)
})

test('one that brings nothing any more is left, and all of its rest is brought by somebody else', async (t) => {
  const { pieces, main, begun, signal, tick, bring } = await begin(t, { parallel: 3 })
  pieces.answered(main, true, signal)
  await turns()
  bring(main, 0.5 * MiB)
  const others = begun.slice(0, 2).map(({ run }) => run)
  for (let second = 0; second < 4; second++) {
    for (const run of others) bring(run, 0.4 * MiB)
    await tick()
  }
  t.notOk(main.over.aborted, 'all connections are taken')
  bring(others[0]!)
  begun[0]!.done()
  await turns()
  t.ok(main.over.aborted)
  const helper = begun.find(({ run }) => run.start === main.taken)?.run
  t.ok(helper, 'from where it stopped on')
})

test('what is as quick as the others is left alone, however long it takes', async (t) => {
  const { pieces, main, begun, signal, tick, bring } = await begin(t)
  pieces.answered(main, true, signal)
  await turns()
  const runs = [main, ...begun.map(({ run }) => run)]
  for (let second = 0; second < 30; second++) {
    for (const run of runs) bring(run, 0.02 * MiB)
    await tick()
  }
  t.equal(begun.length, 3)
  t.notOk(runs.some(({ over }) => over.aborted))
})

test('a piece that fails leaves its rest to others, after a pause; upstream says how long', async (t) => {
  const { pieces, main, begun, signal, tick, clock, segments } = await begin(t)
  pieces.answered(main, true, signal)
  await turns()
  begun[1]!.fail(new UpstreamError('unreachable', 'a.io', 'it broke off'))
  await turns()
  t.equal(begun.length, 3, 'not at once')
  clock.now += 400
  pieces.spread(signal)
  await turns()
  t.same(stretches(begun.slice(3)), [[3, 6]])
  begun[3]!.fail(new UpstreamError('broken', 'a.io', 'too many', { status: 503, retryAfterMs: 20_000 }))
  await turns()
  t.equal(segments.window, 2)
  for (let second = 0; second < 19; second++) await tick()
  t.equal(begun.length, 4)
  begun[0]!.done()
  begun[2]!.done()
  await tick()
  await tick()
  t.ok(begun.length > 4)
})

test('pieces rest for half a minute at the most, whatever upstream says', async (t) => {
  const { pieces, main, begun, signal, clock } = await begin(t)
  pieces.answered(main, true, signal)
  await turns()
  const limited = new UpstreamError('busy', 'a.io', 'too many', { status: 429, retryAfterMs: 3_600_000 })
  for (const it of begun) it.fail(limited)
  await turns()
  clock.now += 29_999
  pieces.spread(signal)
  await turns()
  t.equal(begun.length, 3)
  clock.now += 1
  pieces.spread(signal)
  await turns()
  t.ok(begun.length > 3)
})

test('where further connections get nothing while others do, there are fewer of them', async (t) => {
  const { pieces, main, begun, signal, bring, segments, tick } = await begin(t)
  pieces.answered(main, true, signal)
  await turns()
  const refused = new UpstreamError('unreachable', 'a.io', 'connection refused')
  begun[0]!.fail(refused)
  await turns()
  t.equal(segments.window, 4, 'nobody has got anything: it is not there')
  bring(main, 1000)
  bring(begun[1]!.run, 1000)
  begun[1]!.fail(refused)
  await turns()
  t.equal(segments.window, 4, 'a cut tells nothing')
  begun[2]!.fail(refused)
  await turns()
  t.equal(segments.window, 2)
  for (let second = 0; second < 4; second++) await tick()
  t.ok(begun.length > 3)
  begun.at(-1)!.fail(refused)
  await turns()
  t.equal(segments.window, 2, 'nobody gets anything any more: it is gone')
})

test('what one alone meets, where one is all that may be, is no limit of several', async (t) => {
  const { pieces, main, begun, signal, bring, runs, segments, clock, size } = await begin(t, {
    size: 16 * MiB,
  })
  t.notOk(pieces.isSpare(main), 'whether upstream gives any part is to be seen')
  pieces.answered(main, true, signal)
  await turns()
  bring(main)
  runs.delete(main)
  const limited = new UpstreamError('busy', 'a.io', 'too many', { status: 429 })
  const ask = (): RangeRequest => {
    const next = new RangeRequest('main', { start: size - 1, end: size }, (clock.now += 1))
    runs.add(next)
    return next
  }
  for (const window of [2, 1]) {
    const next = ask()
    t.ok(pieces.isSpare(next), 'one less would do')
    pieces.failed(limited, next)
    runs.delete(next)
    t.equal(segments.window, window)
  }
  t.ok(pieces.isSpare(ask()), 'others are still under way')
  for (const { run } of begun) runs.delete(run)
  const alone = runs.all[0]!
  t.ok(pieces.isSpare(alone), 'it may still be for those that were there just now')
  clock.now += 1000
  pieces.failed(limited, alone)
  t.notOk(pieces.isSpare(alone), 'however often it has met that meanwhile')
})
