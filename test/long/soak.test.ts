/**
 * A short piece of the soak bench, with a budget of three images, so that everything happens at once.
 */
import { test } from 'tap'
import { soak } from '../../bench/support/soak/run.ts'

const MiB = 1024 * 1024
const BUDGET_MIB = 16

test('pulls, pushes, evictions, collections and bad days beside each other: nothing fails that need not', async (t) => {
  const seed = Number(process.env['SOAK_SEED'] ?? Date.now() % 100_000)
  t.comment(`SOAK_SEED=${seed} does as much in the same order`)
  const result = await soak({
    ...{
      seed,
      minutes: 0.25,
      minRequests: 300,
      requests: 4_000,
      clients: 8,
      budgetMiB: BUDGET_MIB,
      lines: 3,
    },
    print: (line) => t.comment(line),
  })
  t.same(result.failures, [])
  t.ok(result.requests > 300, `${result.requests} requests`)
  t.ok(result.end.evictedBytes > 0, 'something was evicted')
  t.ok(result.end.mirroredBytes <= BUDGET_MIB * MiB, 'at the end it is within its budget')
  t.ok(result.pushes.acknowledged > 0, 'something was pushed')
  t.ok(Object.keys(result.weather).length > 3, 'there were bad days')
})
