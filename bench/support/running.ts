/**
 * Benches run one after the other, each as a process of its own that may not hang: what it started ends with it.
 */
import { spawn } from 'node:child_process'
import type { Row } from './compare.ts'
import { belongsTo, readResults } from './results.ts'
import { isOurs } from './spent.ts'

export interface Outcome {
  readonly bench: string
  readonly seconds: number
  /** Why it says nothing; undefined when it ran to its end and reported figures. */
  readonly failure: string | undefined
}

export interface RunOptions {
  readonly bench: string
  readonly file: string
  readonly args: readonly string[]
  readonly limitMs: number
  /** Where it keeps what it reports: it is told of it. */
  readonly results: string
  readonly env?: NodeJS.ProcessEnv
  /** What it prints. */
  readonly output?: 'inherit' | 'ignore'
}

export async function runBench(options: RunOptions): Promise<Outcome> {
  const { bench, results } = options
  const began = performance.now()
  const failure = (await ending(options)) ?? silence(bench, results)
  return { bench, seconds: (performance.now() - began) / 1000, failure }
}

/** @returns what is wrong with it; undefined when it ended well */
async function ending(options: RunOptions): Promise<string | undefined> {
  const { file, args, results, limitMs, env = process.env, output = 'inherit' } = options
  // A group of its own, which ends when it does: registries, clients, and what those start.
  const child = spawn(process.execPath, [file, ...args, '--results', results], {
    stdio: ['ignore', output, output],
    detached: true,
    env,
  })
  const killGroup = (): void => {
    try {
      if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL')
    } catch {
      // Nobody is left in it.
    }
  }
  // Before whoever removes the folders that it works in.
  process.prependListener('exit', killGroup)
  let late = false
  const timer = setTimeout(() => {
    late = true
    killGroup()
  }, limitMs)
  try {
    return await new Promise((resolve) => {
      child.once('error', (error) => resolve(error.message))
      child.once('exit', (code, signal) => {
        if (late) resolve(`not done after ${String(limitMs / 1000)} s`)
        else resolve(code === 0 ? undefined : `ended with ${String(code ?? signal)}`)
      })
    })
  } finally {
    clearTimeout(timer)
    process.off('exit', killGroup)
    killGroup()
  }
}

/** @returns what is wrong with what it reported: nothing, no rows, or rows that say nothing */
function silence(bench: string, results: string): string | undefined {
  const own = Object.values(readResults(results)).filter((kept) => belongsTo(bench, kept.bench))
  if (own.length === 0) return 'reported nothing'
  const mute = own.find(({ rows }) => rows.length === 0 || rows.some(isMute))
  return mute === undefined ? undefined : `has no figures in ${mute.bench}`
}

/** Not everything can be measured of others. */
function isMute(row: Row): boolean {
  const figures = Object.values(row.figures)
  return isOurs(row) ? !figures.every(Number.isFinite) : !figures.some(Number.isFinite)
}
