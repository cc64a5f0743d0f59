import { test } from 'tap'
import { FAULTS } from './support/faults/all.ts'
import { Matrix } from './support/matrix.ts'
import { problemsOf, tableOf } from './support/matrix-table.ts'

test('the fault matrix', async (t) => {
  const matrix = await Matrix.start(t, t.testdir(), FAULTS)
  const warm = await matrix.run(matrix.warmUp)
  t.same(problemsOf(warm), [])
  const before = await matrix.footprint()
  const rows = await matrix.run(matrix.cells)
  const after = await matrix.footprint()
  for (const line of tableOf(rows)) t.comment(line)
  t.same(problemsOf(rows), [])
  t.comment(JSON.stringify({ before, after }))
})
