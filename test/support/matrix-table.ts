/**
 * The fault matrix as a table that a person can read.
 */
import type { Row } from './matrix-cell.ts'

const HEADINGS = ['fault', 'cache', 'clients', 'ended', 'X-Cache', 'upstream', 'longest'] as const

/** Lines. Of one fault the name stands once. */
export function tableOf(rows: readonly Row[]): string[] {
  const cells = rows.map((row, position): string[] => [
    rows[position - 1]?.fault === row.fault ? '' : row.fault.name,
    row.state,
    String(row.clients),
    endingOf(row),
    [...row.words].map(([word, count]) => `${word} ${count}`).join(', '),
    `${row.ratio.toFixed(2)}x in ${row.requests}`,
    `${(row.longestMs / 1000).toFixed(1)} s${row.problems.length === 0 ? '' : '  <- NOT AS IT SHOULD BE'}`,
  ])
  const widths = HEADINGS.map((heading, column) =>
    Math.max(heading.length, ...cells.map((cell) => cell[column]!.length)),
  )
  return [[...HEADINGS], ...cells].map((cell) =>
    cell
      .map((text, column) => text.padEnd(widths[column]!))
      .join('  ')
      .trimEnd(),
  )
}

/** What is wrong with them; none: nothing. */
export function problemsOf(rows: readonly Row[]): string[] {
  return rows.flatMap(({ fault, state, clients, problems }) =>
    problems.map((problem) => `${fault.name}, ${state}, ${clients}: ${problem}`),
  )
}

function endingOf({ outcomes, refusals, unverified }: Row): string {
  const parts = [...outcomes].map(([outcome, count]) => {
    const statuses = outcome === 'refused' ? ` ${[...refusals].join('/')}` : ''
    return `${outcome}${statuses}${outcomes.size > 1 ? ` ${count}` : ''}`
  })
  return [...parts, ...(unverified > 0 ? [`${unverified} unverified`] : [])].join(', ')
}
