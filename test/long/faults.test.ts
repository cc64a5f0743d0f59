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
  // Node has compiled, and the pools are filled.
  t.same(
    problemsOf(await matrix.run(matrix.warmUp)),
    [],
    'good days are good, and some bad ones as they should be',
  )
  await matrix.visitAll()

  // Every kind of fault once, alone and in a crowd: caches and the allocator have then seen what there is, and nothing
  // has a reason to stay of as many cells again.
  const isEarly = (_: unknown, at: number): boolean => at % 4 < 2
  const early = await matrix.run(matrix.cells.filter(isEarly))
  await matrix.visitAll()
  const before = await matrix.footprint()
  const late = await matrix.run(matrix.cells.filter((it, at) => !isEarly(it, at)))
  const rows = matrix.cells.map((it, at) => (isEarly(it, at) ? early : late).shift()!)
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
