/** That large documents are read one in each turn of the event loop. */
import { test } from 'tap'
import { turnFor } from '../../src/base/turns.ts'

test('between two large documents everybody else has a turn', async (t) => {
  const MiB = 1024 * 1024
  let read = 0
  let turns = 0
  const others = (): void => {
    turns += 1
    if (read < 5) setImmediate(others)
  }
  setImmediate(others)
  const turnsAt: number[] = []
  const one = async (): Promise<void> => {
    await turnFor(MiB)
    read += 1
    turnsAt.push(turns)
  }
  await Promise.all([one(), one(), one(), one(), one()])
  t.equal(new Set(turnsAt).size, 5, turnsAt.join(' '))
})

test('a small one waits for nobody', async (t) => {
  const large = turnFor(1024 * 1024)
  let over = false
  void large.then(() => {
    over = true
  })
  await turnFor(1000)
  t.notOk(over)
  await large
})
