/**
 * The table of a real client, and the test that is one: no cell of it may say that what is here was refused.
 */
import { test } from 'tap'
import type { RealClient } from './client.ts'
import { tryClient, type Cell, type Row } from './trial.ts'

/** @param options.quick for a few seconds: cold, hot, and with the registry stopped */
export function testClient(client: RealClient, options = { quick: false }): void {
  const title = `${client.name} gets what is here, whatever becomes of the registry`
  test(title, { skip: client.missing }, async (t) => {
    const rows = await tryClient(t, client, options)
    for (const line of tableOf(rows)) t.comment(line)
    for (const row of rows) {
      for (const [state, { failure }] of row.cells) {
        t.equal(failure, undefined, `${titleOf(row)}, ${state}${failure === undefined ? '' : `: ${failure}`}`)
      }
    }
  })
}

function titleOf({ client, verb, referrersApi }: Row): string {
  return `${client} ${verb.what}${referrersApi ? '' : ', of a registry without referrers'}`
}

/** Lines that a person can read. */
function tableOf(rows: readonly Row[]): string[] {
  const states = [...(rows[0]?.cells.keys() ?? [])]
  const table = [
    ['client', 'kind', 'command', 'referrers API', ...states],
    ...rows.map(({ client, verb, referrersApi, cells }) => [
      ...[client, verb.kind, verb.what, referrersApi ? 'yes' : 'no'],
      ...states.map((state) => wordsOf(cells.get(state))),
    ]),
  ]
  const widths = table[0]!.map((_, column) => Math.max(...table.map((row) => row[column]!.length)))
  return table.map((row) =>
    row
      .map((text, column) => text.padEnd(widths[column]!))
      .join('  ')
      .trimEnd(),
  )
}

function wordsOf(cell: Cell | undefined): string {
  if (cell === undefined) return '-'
  const took = `${(cell.tookMs / 1000).toFixed(1)} s`
  return cell.failure === undefined ? took : `REFUSED ${took}`
}
