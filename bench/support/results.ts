/**
 * The file that keeps what benches reported: by the name of the comparison, each with the size and the machine of its run.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus, release, totalmem } from 'node:os'
import path from 'node:path'
import type { Comparison } from './compare.ts'
import { sizes, type Size } from './sizes.ts'

export interface Kept extends Comparison {
  readonly size: Size
  /** What that, and the command line, meant for the bench. */
  readonly sizes: Readonly<Record<string, number | string>>
  readonly machine: string
  /** ISO 8601 */
  readonly at: string
}

/** In the order in which they were reported. */
export type Results = Readonly<Record<string, Kept>>

/** Nothing when there is no such file. */
export function readResults(file: string): Results {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Results
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return {}
    throw error
  }
}

export function writeResults(file: string, results: Results): void {
  mkdirSync(path.dirname(file), { recursive: true })
  const short = (_: string, value: unknown): unknown =>
    typeof value === 'number' ? Number(value.toPrecision(5)) : value
  writeFileSync(file, `${JSON.stringify(results, short, 2)}\n`)
}

/** Beside those that are there. */
export function keep(file: string, comparison: Comparison, size: Size): void {
  const { [comparison.bench]: older, ...others } = readResults(file)
  const kept = { ...comparison, size, sizes, machine: machine(), at: new Date().toISOString() }
  writeResults(file, { ...others, [comparison.bench]: kept })
}

/** `hot-manifest by tag` is of `hot-manifest`, and so is `hot-manifest-by-tag`. */
export function belongsTo(bench: string, comparison: string): boolean {
  return comparison === bench || comparison.startsWith(`${bench} `) || comparison.startsWith(`${bench}-`)
}

export function machine(): string {
  const [processor] = cpus()
  return [
    `${String(cpus().length)} cores`,
    processor?.model.trim() ?? 'of some kind',
    `${String(Math.round(totalmem() / 2 ** 30))} GiB`,
    `Linux ${release().replace(/-.*/, '')}`,
    `Node ${process.version}`,
  ].join(', ')
}
