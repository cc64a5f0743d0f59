/** Who waits for a change is woken by it. */
import { test } from 'tap'
import { Condition } from '../../src/base/condition.ts'

/** Counts how often it is woken until the signal ends it. */
function watch(waiters: Condition, signal: AbortSignal): { times: number; over: Promise<void> } {
  const watched = { times: 0, over: Promise.resolve() }
  const loop = async (): Promise<void> => {
    for (;;) {
      await waiters.wait(signal)
      watched.times++
    }
  }
  watched.over = loop().catch(() => undefined)
  return watched
}

test('of a hundred small changes the first is told at once, and the others together', async (t) => {
  const waiters = new Condition()
  const leave = new AbortController()
  const watched = watch(waiters, leave.signal)
  for (let change = 0; change < 100; change++) {
    waiters.wakeSoon()
    await Promise.resolve()
    await Promise.resolve()
    if (change === 0) t.equal(watched.times, 1)
  }
  await waiters.wait(AbortSignal.timeout(5_000))
  await Promise.resolve()
  t.ok(watched.times < 10, `woken ${watched.times} times`)
  t.ok(watched.times >= 2, 'and once more for what came after the first')
  leave.abort(new Error('left'))
  await watched.over
})

test('what cannot wait wakes at once, and takes with it what could', async (t) => {
  const waiters = new Condition()
  waiters.wakeSoon()
  waiters.wakeSoon()
  const woken = waiters.wait(AbortSignal.timeout(5_000))
  waiters.wake()
  await woken
  const leave = new AbortController()
  const later = waiters.wait(leave.signal)
  const first = await Promise.race([
    later.then(() => 'woken again'),
    new Promise((it) => setTimeout(it, 20, 'quiet')),
  ])
  t.equal(first, 'quiet')
  leave.abort(new Error('left'))
  await t.rejects(later, /left/)
})
