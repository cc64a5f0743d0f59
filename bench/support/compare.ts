/**
 * Several candidates in turns, in one run: medians of the rounds, ratios to the best or to one of them, a table.
 *
 * What slows down a round slows down all of them, so a ratio says more than its figures.
 */
import { keep } from './results.ts'
import { resultsFile, size } from './sizes.ts'

/** Figures by name: `MB/s`, `CPU s/GB` … */
export type Figures = Readonly<Record<string, number>>

export interface Row {
  readonly name: string
  /** Medians. */
  readonly figures: Figures
  /** What they are the medians of. */
  readonly rounds?: readonly Figures[]
}

/** A ratio that was promised, and what this run shows of it. */
export interface Goal {
  readonly what: string
  readonly reached: number
  /** `at least 1.25`, `at most 0.3` */
  readonly wanted: string
  readonly met: boolean
}

export interface Comparison {
  readonly bench: string
  readonly what: string
  readonly rows: readonly Row[]
  readonly goals?: readonly Goal[]
}

export function atLeast(what: string, reached: number, limit: number): Goal {
  return { what, reached, wanted: `at least ${String(limit)}`, met: reached >= limit }
}

export function atMost(what: string, reached: number, limit: number): Goal {
  return { what, reached, wanted: `at most ${String(limit)}`, met: reached <= limit }
}

/** One round that does not count, unless that is not wanted, and then so many. Every second goes backwards. */
export async function compare<Candidate extends { readonly name: string }>(
  candidates: readonly Candidate[],
  rounds: number,
  measure: (candidate: Candidate) => Promise<Figures>,
  { warmUp = size !== 'smoke' }: { readonly warmUp?: boolean } = {},
): Promise<Row[]> {
  const results = new Map<string, Figures[]>(candidates.map(({ name }) => [name, []]))
  for (let round = warmUp ? 0 : 1; round <= rounds; round++) {
    for (const candidate of round % 2 === 0 ? candidates : candidates.toReversed()) {
      const figures = await measure(candidate)
      if (round > 0) results.get(candidate.name)?.push(figures)
    }
  }
  return [...results].map(([name, all]) => ({
    name,
    figures: Object.fromEntries(
      Object.keys(all[0] ?? {}).map((figure) => [figure, median(all.map((it) => it[figure] ?? NaN))]),
    ),
    rounds: all,
  }))
}

/** Of each round, not of the medians: what slows down a round slows down both. */
export function ratio(one: Row, other: Row, figure: string): number {
  const { rounds = [one.figures] } = one
  const { rounds: others = [other.figures] } = other
  return median(rounds.map((it, at) => (it[figure] ?? NaN) / (others[at]?.[figure] ?? NaN)))
}

/** To the one that does it best: of what there should be much of the smallest ratio, else the largest. */
export function ratioToBest(one: Row, others: readonly Row[], figure: string, good: 'more' | 'less'): number {
  if (others.length === 0) return NaN
  const ratios = others.map((other) => ratio(one, other, figure))
  return good === 'more' ? Math.min(...ratios) : Math.max(...ratios)
}

/** Of those that are numbers: what could not be measured in one round may be in another. */
export function median(numbers: readonly number[]): number {
  const sorted = numbers.filter((it) => !Number.isNaN(it)).toSorted((one, other) => one - other)
  const middle = sorted.length >> 1
  const [low = NaN, high = NaN] =
    sorted.length % 2 === 0 ? sorted.slice(middle - 1, middle + 1) : [sorted[middle], sorted[middle]]
  return (low + high) / 2
}

/** Prints it, and keeps it where the command line says. */
export function report(comparison: Comparison): void {
  const { bench, what, rows, goals = [] } = comparison
  const names = [...new Set(rows.flatMap(({ figures }) => Object.keys(figures)))]
  const wide = Math.max(...rows.map(({ name }) => name.length), 12)
  console.log(`\n${bench}: ${what}\n`)
  console.log([' '.repeat(wide), ...names.map((name) => name.padStart(12))].join(' '))
  for (const { name, figures } of rows) {
    console.log(
      [name.padEnd(wide), ...names.map((it) => shown(figures[it]).padStart(Math.max(12, it.length)))].join(
        ' ',
      ),
    )
  }
  for (const { what: goal, reached, wanted, met } of goals) {
    // Of a smoke it means nothing.
    const judged = size === 'smoke' ? '' : met ? 'reached: ' : 'NOT reached: '
    console.log(`  ${judged}${goal} ${shown(reached)}, ${wanted}`)
  }
  if (resultsFile !== undefined) keep(resultsFile, comparison, size)
}

/** To three places or so. */
export function shown(figure: number | null | undefined): string {
  if (figure === undefined || figure === null || !Number.isFinite(figure)) return '-'
  if (Math.abs(figure) >= 100) return String(Math.round(figure))
  return figure.toFixed(Math.abs(figure) >= 10 ? 1 : 2)
}
