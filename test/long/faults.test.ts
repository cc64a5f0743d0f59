/**
 * Every fault, in every state of the cache, with one client and with twenty; and what is left of it all.
 */
import { t as file, test } from 'tap'
import { FAULTS } from '../support/faults/all.ts'
import { Matrix } from '../support/matrix.ts'
import { describeFootprint, growthOf, wrongAtRest } from '../support/matrix-footprint.ts'
import { problemsOf, tableOf } from '../support/matrix-table.ts'
import '../support/folders-last.ts'

// A minute or two on two cores that do nothing else; a machine that is busy may take its time.
file.setTimeout(1_200_000)

test('the fault matrix', async (t) => {
  const matrix = await Matrix.start(t, t.testdir(), FAULTS)
  const { entrepot } = matrix
  // Node has compiled, the pools are filled, and the allocator has seen as many clients at once as it ever will:
  // from here on, nothing has a reason to stay.
  t.same(
    problemsOf(await matrix.run(matrix.warmUp)),
    [],
    'good days are good, and some bad ones as they should be',
  )
  await matrix.visitAll()
  const before = await matrix.footprint()

  const rows = await matrix.run(matrix.cells)
  for (const line of tableOf(rows)) t.comment(line)
  t.same(problemsOf(rows), [], 'every cell ends as its fault says, within its budget')
  t.same(problemsOf(await matrix.run(matrix.goodDay)), [], 'a good upstream is served as ever')

  const after = await matrix.footprint()
  t.comment(`before: ${describeFootprint(before)}`)
  t.comment(`after:  ${describeFootprint(after)}`)
  t.same(growthOf(before, after), [], 'the process holds no more than before')
  t.equal(await entrepot.metric('entrepot_fills_in_flight'), 0)
  t.same(await matrix.overBudget(), [], 'every budget is kept')
  t.same(await matrix.wrongOnFullDisk(), [], 'nothing wrong is on the full disk')

  await entrepot.program.stop()
  t.same(await entrepot.program.exited, { code: 0, signal: null })
  t.same(wrongAtRest(matrix.root), [], 'nothing wrong is on the disk')
  const alarms = entrepot.log.filter(({ level }) => level === 'error' || level === 'fatal')
  t.same(alarms, [], 'no upstream is worth an alarm')
})
