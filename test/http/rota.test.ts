/** Turns on the event loop. */
import { setImmediate as turn } from 'node:timers/promises'
import { test } from 'tap'
import { Rota } from '../../src/http/rota.ts'

function spend(ms: number): void {
  for (const end = performance.now() + ms; performance.now() < end;);
}

test('all get their turn in the order in which they came, and others in between', async (t) => {
  const rota = new Rota()
  const ran: number[] = []
  const all = Array.from({ length: 30 }, (_, at) =>
    rota.run(() => {
      spend(1)
      ran.push(at)
      return at
    }),
  )
  t.same(ran, [], 'nobody runs at once')
  t.equal(rota.waiting, 30)
  await turn()
  t.ok(ran.length > 0 && ran.length < 30, `${ran.length} turns, and then somebody else`)
  const last = rota.run(() => ran.push(30))
  t.same(await Promise.all(all), [...ran.slice(0, 30)])
  await last
  t.same(
    ran,
    Array.from({ length: 31 }, (_, at) => at),
  )
  t.equal(rota.waiting, 0)
})

test('whoever fails fails alone', async (t) => {
  const rota = new Rota()
  const failing = rota.run(() => {
    throw new Error('mine')
  })
  const other = rota.run(() => 'mine')
  await t.rejects(failing, /mine/)
  t.equal(await other, 'mine')
  t.equal(await rota.run(() => 'later'), 'later')
})
