/**
 * Several candidates in turns, in one run: medians of the rounds, ratios to the best or to one of them, a table.
 *
 * What slows down a round slows down all of them, so a ratio says more than its figures.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import path from 'node:path'

/** Figures by name: `MB/s`, `CPU s/GB` … */
export type Figures = Readonly<Record<string, number>>

export interface Row {
  readonly name: string
  /** Medians. */
  readonly figures: Figures
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

/** One round that does not count, and then so many. Every second goes backwards. */
export async function compare<Candidate extends { readonly name: string }>(
  candidates: readonly Candidate[],
  rounds: number,
  measure: (candidate: Candidate) => Promise<Figures>,
): Promise<Row[]> {
  const results = new Map<string, Figures[]>(candidates.map(({ name }) => [name, []]))
  for (let round = 0; round <= rounds; round++) {
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
  }))
}

export function median(numbers: readonly number[]): number {
  const sorted = numbers.toSorted((one, other) => one - other)
  const middle = sorted.length >> 1
  const [low = NaN, high = NaN] =
    sorted.length % 2 === 0 ? sorted.slice(middle - 1, middle + 1) : [sorted[middle], sorted[middle]]
  return (low + high) / 2
}

export function machine(): string {
  return `${String(cpus().length)} cores, ${cpus()[0]?.model ?? 'of some kind'}, Node ${process.version}`
}

const RESULTS = path.join(import.meta.dirname, '../results/latest.json')

/** Prints it, and keeps it beside those of the other benches. */
export function report(comparison: Comparison): void {
  const { bench, what, rows, goals = [] } = comparison
  const names = [...new Set(rows.flatMap(({ figures }) => Object.keys(figures)))]
  const wide = Math.max(...rows.map(({ name }) => name.length), 12)
  console.log(`\n${bench}: ${what}\n`)
  console.log([' '.repeat(wide), ...names.map((name) => name.padStart(12))].join(' '))
  for (const { name, figures } of rows) {
    console.log([name.padEnd(wide), ...names.map((it) => shown(figures[it]).padStart(12))].join(' '))
  }
  for (const { what: goal, reached, wanted, met } of goals) {
    console.log(`  ${met ? 'reached' : 'NOT reached'}: ${goal} ${shown(reached)}, ${wanted}`)
  }
  const all = readResults()
  all[bench] = { ...comparison, machine: machine(), at: new Date().toISOString() }
  mkdirSync(path.dirname(RESULTS), { recursive: true })
  writeFileSync(RESULTS, `${JSON.stringify(all, null, 2)}\n`)
}

export function readResults(): Record<string, Comparison & { machine: string; at: string }> {
  try {
    return JSON.parse(readFileSync(RESULTS, 'utf8')) as Record<
      string,
      Comparison & { machine: string; at: string }
    >
  } catch {
    return {}
  }
}

function shown(figure: number | undefined): string {
  if (figure === undefined || Number.isNaN(figure)) return '-'
  if (Math.abs(figure) >= 100) return String(Math.round(figure))
  return figure.toFixed(Math.abs(figure) >= 10 ? 1 : 2)
}
