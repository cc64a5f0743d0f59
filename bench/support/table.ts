/**
 * Results as Markdown, in columns as prettier wants them: all goals first, then the rows of each comparison.
 */
import { shown } from './compare.ts'
import type { Kept, Results } from './results.ts'

export function markdownOf(results: Results): string {
  const all = Object.values(results)
  const [first] = all
  if (first === undefined) return 'Nothing was measured.'
  const goals = all.flatMap(({ bench, goals: own = [] }) =>
    own.map(({ what, wanted, reached, met }) => [
      bench,
      what,
      wanted,
      shown(reached),
      met ? 'yes' : '**no**',
    ]),
  )
  return [
    `${first.machine}; ${first.size} run of ${first.at.slice(0, 10)}.`,
    ...(goals.length === 0 ? [] : [table(['bench', 'what', 'wanted', 'is', 'reached'], goals)]),
    ...all.flatMap(comparison),
  ].join('\n\n')
}

function comparison({ bench, what, rows }: Kept): string[] {
  const figures = [...new Set(rows.flatMap((row) => Object.keys(row.figures)))]
  const lines = rows.map((row) => [row.name, ...figures.map((figure) => shown(row.figures[figure]))])
  return [`\`${bench}\`: ${what}`, table(['', ...figures], lines)]
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const wide = head.map((name, at) => Math.max(3, ...[name, ...rows.map((row) => row[at] ?? '')].map(length)))
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, at) => escaped(cell).padEnd(wide[at] ?? 0)).join(' | ')} |`
  return [line(head), line(wide.map((count) => '-'.repeat(count))), ...rows.map(line)].join('\n')
}

function length(cell: string): number {
  return escaped(cell).length
}

function escaped(cell: string): string {
  return cell.replaceAll('|', '\\|')
}
