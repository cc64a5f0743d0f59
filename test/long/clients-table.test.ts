/**
 * That what is here answers, whatever today's clients ask: every client and verb on its upstream's bad days.
 */
import { test } from 'tap'
import { ROWS } from '../support/clients/rows.ts'
import { fillTable, linesOf } from '../support/clients/table.ts'

test('no client is refused what is here', async (t) => {
  const cells = await fillTable(t, ROWS)
  for (const line of linesOf(cells)) t.comment(line)
  for (const { row, column, word, problems } of cells) {
    t.strictSame(problems, [], `${row.verb}: ${row.name}: ${column}: ${word}`)
  }
})
