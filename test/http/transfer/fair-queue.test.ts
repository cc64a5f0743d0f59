/** Turns on the event loop. */
import { setImmediate as turn } from 'node:timers/promises'
import { test } from 'tap'
import { FairQueue } from '../../../src/http/transfer/fair-queue.ts'

function spend(ms: number): void {
  for (const end = performance.now() + ms; performance.now() < end;);
}

test('all get their turn in the order in which they came, and others in between', async (t) => {
  const rota = new FairQueue()
  const ran: number[] = []
  const all = Array.from({ length: 30 }, (_, at) =>
    rota.run(() => {
      spend(1)
      ran.push(at)
      return at
    }),
  )
  t.same(ran, [], 'nobody runs at once')
  t.ok(rota.crowded)
  await turn()
  t.equal(ran.length, 1, 'where many wait, one at a time')
  const last = rota.run(() => ran.push(30))
  t.same(await Promise.all(all), [...ran.slice(0, 30)])
  await last
  t.same(
    ran,
    Array.from({ length: 31 }, (_, at) => at),
  )
  t.notOk(rota.crowded)
})

test('a few are served together, as long as it does not take long', async (t) => {
  const rota = new FairQueue()
  let most = 0
  // A busy machine may take its time away.
  for (let tries = 0; most < 2 && tries < 50; tries++) {
    let ran = 0
    const quick = Array.from({ length: 10 }, () => rota.run(() => ran++))
    await turn()
    most = ran
    await Promise.all(quick)
  }
  t.ok(most > 1, `${most} in one round`)
  let ran = 0
  const slow = Array.from({ length: 10 }, () =>
    rota.run(() => {
      spend(3)
      ran++
    }),
  )
  await turn()
  t.equal(ran, 1)
  await Promise.all(slow)
})

test('whoever fails fails alone', async (t) => {
  const rota = new FairQueue()
  const failing = rota.run(() => {
    throw new Error('mine')
  })
  const other = rota.run(() => 'mine')
  await t.rejects(failing, /mine/)
  t.equal(await other, 'mine')
  t.equal(await rota.run(() => 'later'), 'later')
})
