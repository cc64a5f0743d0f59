/** That long lists are sorted and written in turns of the event loop, and as the platform would. */
import { test } from 'tap'
import { jsonInTurns, sortedInTurns } from '../../src/base/large-list.ts'

function shuffled(count: number): string[] {
  return Array.from({ length: count }, (_, at) => `v${((at * 7919) % count).toString(36)}-ü"`)
}

for (const count of [0, 1, 16_384, 16_385, 50_000, 200_001]) {
  test(`${count} names`, async (t) => {
    const list = [...shuffled(count), ...shuffled(Math.min(count, 3))]
    const before = [...list]
    const sorted = await sortedInTurns(list)
    t.equal(await jsonInTurns(sorted), JSON.stringify(before.toSorted()))
    t.ok(
      list.every((name, at) => name === before[at]),
      'the list that was given is left as it is',
    )
  })
}

test('meanwhile everybody else has a turn', async (t) => {
  let turns = 0
  let over = false
  const others = (): void => {
    turns += 1
    if (!over) setImmediate(others)
  }
  setImmediate(others)
  await jsonInTurns(await sortedInTurns(shuffled(200_000)))
  over = true
  t.ok(turns > 20, String(turns))
})
