/** How long something that has failed is not tried. */
import { test } from 'tap'
import { backoff, Penalty } from '../../src/base/backoff.ts'

test('a delay doubles with every failure, up to a limit', (t) => {
  const limits = { first: 10, most: 70 }
  t.same(
    [0, 1, 2, 3, 2000].map((failures) => backoff(failures, limits)),
    [10, 20, 40, 70, 70],
  )
  t.equal(backoff(0, { first: 10, most: 5 }), 5, 'the first one too')
  t.end()
})

function penalised() {
  const clock = { now: 0 }
  const penalty = new Penalty({ first: 10, most: 40, now: () => clock.now })
  return { clock, penalty }
}

test('a penalty lasts for twice as long as the one before', (t) => {
  const { clock, penalty } = penalised()
  t.notOk(penalty.running)
  for (const lasting of [10, 20, 40, 40]) {
    penalty.begin()
    t.equal(penalty.leftMs, lasting)
    clock.now += lasting - 1
    t.ok(penalty.running)
    clock.now += 1
    t.notOk(penalty.running)
    t.equal(penalty.leftMs, 0)
  }
  t.end()
})

test('it is renewed at its own length, and may be asked to last for longer', (t) => {
  const { clock, penalty } = penalised()
  penalty.beginOrRenew(15)
  t.equal(penalty.leftMs, 15)
  clock.now += 5
  penalty.beginOrRenew()
  t.equal(penalty.leftMs, 10)
  penalty.beginOrRenew(30)
  t.equal(penalty.leftMs, 30)
  clock.now += 30
  penalty.beginOrRenew()
  t.equal(penalty.leftMs, 20)
  t.end()
})

test('after what is forgiven the next one is short again', (t) => {
  const { penalty } = penalised()
  penalty.begin()
  penalty.begin()
  penalty.forgive()
  t.equal(penalty.leftMs, 20, 'the one that runs goes on')
  penalty.begin()
  t.equal(penalty.leftMs, 10)
  penalty.begin()
  penalty.end()
  t.notOk(penalty.running)
  penalty.begin()
  t.equal(penalty.leftMs, 10)
  t.end()
})
