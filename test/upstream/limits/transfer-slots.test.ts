import { getEventListeners } from 'node:events'
import { test } from 'tap'
import { TransferSlots, type TransferPriority } from '../../../src/upstream/limits/transfer-slots.ts'

const { signal } = new AbortController()

class Transfer {
  priority: TransferPriority
  preemptions = 0
  slot: Disposable | undefined
  readonly started: Promise<void>
  readonly leaving = new AbortController()

  constructor(slots: TransferSlots, priority: TransferPriority, owner?: object) {
    this.priority = priority
    const request = { priority: () => this.priority, preempt: () => (this.preemptions += 1), owner }
    this.started = slots.acquire(request, this.leaving.signal).then((slot) => {
      this.slot = slot
    })
  }

  end(): void {
    this.slot?.[Symbol.dispose]()
  }
}

/** Promises that could settle have settled. */
async function settled(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve))
}

void test('two connections are kept free, one is always given', async (t) => {
  for (const [connections, capacity] of [
    [8, 6],
    [3, 1],
    [2, 1],
    [1, 1],
  ] as const) {
    const slots = new TransferSlots(connections)
    const all = Array.from({ length: 10 }, () => new Transfer(slots, 'asked'))
    await settled()
    t.equal(all.filter(({ slot }) => slot !== undefined).length, capacity)
  }
})

void test('turns are given in order, the asked ones first', async (t) => {
  const slots = new TransferSlots(3)
  const running = new Transfer(slots, 'asked')
  const ahead = new Transfer(slots, 'ahead')
  const asked = new Transfer(slots, 'asked')
  const later = new Transfer(slots, 'asked')
  await running.started
  running.end()
  await asked.started
  t.same([later.slot, ahead.slot], [undefined, undefined])
  asked.end()
  await later.started
  t.equal(ahead.slot, undefined)
  later.end()
  await ahead.started
})

void test('an asked one that must wait sends away the youngest that was fetched ahead, once', async (t) => {
  const slots = new TransferSlots(5)
  const busy = new Transfer(slots, 'asked')
  const older = new Transfer(slots, 'ahead')
  const younger = new Transfer(slots, 'ahead')
  const asked = new Transfer(slots, 'asked')
  await settled()
  t.same(
    [busy, older, younger].map(({ preemptions }) => preemptions),
    [0, 0, 1],
  )
  slots.reconsider()
  t.same(
    [busy, older, younger].map(({ preemptions }) => preemptions),
    [0, 0, 1],
  )
  const again = new Transfer(slots, 'ahead')
  younger.end()
  await asked.started
  t.equal(again.slot, undefined)
  const another = new Transfer(slots, 'asked')
  await settled()
  t.same(
    [busy, older].map(({ preemptions }) => preemptions),
    [0, 1],
  )
  older.end()
  await another.started
})

void test('who is fetched ahead waits for everybody and disturbs nobody', async (t) => {
  const slots = new TransferSlots(3)
  const running = new Transfer(slots, 'ahead')
  const waiting = new Transfer(slots, 'ahead')
  await settled()
  t.equal(running.preemptions, 0)
  running.end()
  await waiting.started
})

void test('a transfer that is asked for meanwhile is treated so', async (t) => {
  const slots = new TransferSlots(4)
  const one = new Transfer(slots, 'ahead')
  const two = new Transfer(slots, 'ahead')
  const waiting = new Transfer(slots, 'ahead')
  await settled()
  two.priority = 'asked'
  waiting.priority = 'asked'
  slots.reconsider()
  t.same(
    [one, two].map(({ preemptions }) => preemptions),
    [1, 0],
  )
  one.end()
  await waiting.started
})

void test('a turn is given back once, whatever happens', async (t) => {
  const slots = new TransferSlots(3)
  const first = new Transfer(slots, 'asked')
  const second = new Transfer(slots, 'asked')
  const third = new Transfer(slots, 'asked')
  await first.started
  first.end()
  first.end()
  await second.started
  await settled()
  t.equal(third.slot, undefined)
})

void test('who leaves the queue gets his reason, and costs nobody a turn', async (t) => {
  const slots = new TransferSlots(3)
  const running = new Transfer(slots, 'asked')
  const leaving = new Transfer(slots, 'asked')
  const staying = new Transfer(slots, 'asked')
  const reason = new Error('enough')
  leaving.leaving.abort(reason)
  await t.rejects(leaving.started, reason)
  running.end()
  await staying.started
  staying.leaving.abort(reason)
  t.same(getEventListeners(running.leaving.signal, 'abort'), [], 'and nobody listens any longer')
  t.ok(staying.slot, 'an abort after the grant takes nothing back')
  const gone = slots.acquire({ priority: () => 'asked', preempt: () => undefined }, AbortSignal.abort(reason))
  await t.rejects(gone, reason)
  staying.end()
  const last = await slots.acquire({ priority: () => 'asked', preempt: () => undefined }, signal)
  t.ok(last)
})

void test('of those that wait alike, who holds fewest turns is next', async (t) => {
  const slots = new TransferSlots(6)
  const [large, small] = [{}, {}]
  const shareOf = (owner: object): Transfer => new Transfer(slots, 'share', owner)
  const held = [shareOf(large), shareOf(large), shareOf(large), shareOf(small)]
  const [fifth, second] = [shareOf(large), shareOf(small)]
  await settled()
  held[0]?.end()
  await second.started
  t.equal(fifth.slot, undefined, 'although it came first')
  held[1]?.end()
  await fifth.started
})

void test('a share waits behind whoever is asked for, before what is fetched ahead, and disturbs nobody', async (t) => {
  const slots = new TransferSlots(3)
  const running = new Transfer(slots, 'ahead')
  const [ahead, share] = [new Transfer(slots, 'ahead'), new Transfer(slots, 'share')]
  await settled()
  t.equal(running.preemptions, 0)
  t.notOk(slots.contended)
  const asked = new Transfer(slots, 'asked')
  t.ok(slots.contended)
  t.equal(running.preemptions, 1)
  running.end()
  await asked.started
  asked.end()
  await share.started
  t.equal(ahead.slot, undefined)
})

void test('an asked one takes the place of what is fetched ahead, then of the share of who has most', async (t) => {
  const slots = new TransferSlots(7)
  const [large, small] = [{}, {}]
  const ahead = new Transfer(slots, 'ahead')
  const ofLarge = [new Transfer(slots, 'share', large), new Transfer(slots, 'share', large)]
  const ofSmall = new Transfer(slots, 'share', small)
  const asked = new Transfer(slots, 'asked', small)
  const all = [ahead, ...ofLarge, ofSmall, asked]
  const told = (): number[] => all.map(({ preemptions }) => preemptions)
  await settled()
  const waiting = [new Transfer(slots, 'asked'), new Transfer(slots, 'asked'), new Transfer(slots, 'asked')]
  await settled()
  t.same(told(), [1, 0, 1, 1, 0], 'the youngest of who has as many, and never who is asked for')
  for (const it of [ahead, ofLarge[1], ofSmall]) it?.end()
  await Promise.all(waiting.map(({ started }) => started))
  t.same(told(), [1, 0, 1, 1, 0])
})
