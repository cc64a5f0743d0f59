import { test } from 'tap'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Origin } from '../../../src/cache/origin.ts'
import { withHeaderBudget } from '../../../src/cache/resilience/header-budget.ts'

const origin = { upstream: { key: 'docker.io' } } as Pick<Origin, 'upstream'>
const forever = (signal: AbortSignal): Promise<never> =>
  sleep(60_000, undefined, { signal }).then(fail, (): never => {
    throw signal.reason
  })

function fail(): never {
  throw new Error('nobody waits so long')
}

test('work in time is its answer, and its failure its failure', async (t) => {
  t.equal(await withHeaderBudget({ origin, ms: 60_000 }, () => Promise.resolve(1)), 1)
  await t.rejects(withHeaderBudget({ origin, ms: 60_000 }, fail), { message: 'nobody waits so long' })
})

test('work that is late is a failure of upstream, or what is said instead', async (t) => {
  const late = {
    failure: 'unreachable',
    upstream: 'docker.io',
    message: 'no answer within the header budget',
  }
  await t.rejects(withHeaderBudget({ origin, ms: 1 }, forever), late)
  await t.rejects(withHeaderBudget({ origin, ms: 1, message: 'too late' }, forever), { message: 'too late' })
  t.match(await withHeaderBudget<unknown>({ origin, ms: 1 }, forever, (it) => it), late)
})

test('a client that leaves is no failure of upstream', async (t) => {
  const client = AbortSignal.abort(new Error('gone'))
  await t.rejects(withHeaderBudget({ origin, ms: 60_000, client }, forever), { message: 'gone' })
})
