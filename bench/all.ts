/**
 * All benches that compare, one after the other: `npm run bench`, with `-- --smoke` to see that they run, `-- --full`
 * for what the README shows, and `-- --only cold,herd` for some of them.
 *
 * What they report goes to `bench/results/latest.json` and its chart beside it; of a smoke, nothing stays. Ends with 1
 * when a bench crashes, hangs or reports no figures; whether a goal was reached is told, and judged by whoever reads it.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { chartOf } from './support/chart.ts'
import { shown } from './support/compare.ts'
import { builtProgram, GO_PROGRAMS, goProgram } from './support/go-programs.ts'
import { belongsTo, machine, readResults, writeResults } from './support/results.ts'
import { runBench, type Outcome } from './support/running.ts'
import { resultsFile, size, sized, without } from './support/sizes.ts'

const BENCHES = ['hot-blob', 'hot-manifest', 'cold', 'herd', 'push', 'start']
/** Of one bench: who takes longer hangs. */
const LIMIT_MS = { smoke: 120_000, small: 300_000, full: 1_800_000 }

const defaults = { only: BENCHES.join(',') }
const { only } = sized({ smoke: defaults, small: defaults, full: defaults })
const chosen = only.split(',')
const unknown = chosen.filter((bench) => !BENCHES.includes(bench))
if (unknown.length > 0) throw new Error(`there is no bench ${unknown.join(', ')}`)

// Whatever a bench leaves behind goes with this folder, also when it was killed.
const folder = mkdtempSync(path.join(tmpdir(), 'entrepot-benches-'))
process.on('exit', () => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }))
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(1))

const latest = size === 'smoke' ? folder : path.join(import.meta.dirname, 'results')
const results = path.resolve(resultsFile ?? path.join(latest, 'latest.json'))
dropOld()
const args = [
  ...(size === 'small' ? [] : [`--${size}`]),
  ...['--without', [...without, ...(await notBuilt())].join(',')],
]
const outcomes: Outcome[] = []
for (const bench of chosen) {
  console.log(`\n# ${bench}`)
  const file = path.join(import.meta.dirname, `${bench}.ts`)
  const env = { ...process.env, TMPDIR: folder }
  const outcome = await runBench({ bench, file, args, results, limitMs: LIMIT_MS[size], env })
  if (outcome.failure !== undefined) console.log(`\n${bench} failed: ${outcome.failure}`)
  outcomes.push(outcome)
}
writeFileSync(results.replace(/(\.json)?$/, '.svg'), chartOf(readResults(results)))
summarize()

/** What stays is of benches that do not run now, and beside which the new figures can stand. */
function dropOld(): void {
  const kept = Object.entries(readResults(results)).filter(
    ([name, { size: ofSize, machine: ofMachine }]) =>
      !chosen.some((bench) => belongsTo(bench, name)) && ofSize === size && ofMachine === machine(),
  )
  writeResults(results, Object.fromEntries(kept))
}

/** Once for all benches: none of them waits for a build, or for one that fails. A smoke builds nothing. */
async function notBuilt(): Promise<string[]> {
  const absent: string[] = []
  for (const name of GO_PROGRAMS) {
    if (builtProgram(name) !== undefined && size !== 'smoke') continue
    try {
      if (size === 'smoke') throw new Error('not in a smoke')
      console.log(`building ${name} …`)
      await goProgram(name)
    } catch (error) {
      console.log(`without ${name}: ${error instanceof Error ? error.message : String(error)}`)
      absent.push(name)
    }
  }
  return absent
}

function summarize(): void {
  const all = Object.values(readResults(results))
  console.log(`\n# summary: ${size}, ${machine()}\n`)
  for (const { bench, goals = [] } of all) {
    for (const { what, reached, wanted, met } of goals) {
      // Of a smoke they mean nothing.
      const judged = size === 'smoke' ? '' : met ? 'reached      ' : 'NOT reached  '
      console.log(`${judged}${bench}: ${what} ${shown(reached)}, ${wanted}`)
    }
  }
  console.log('')
  for (const { bench, seconds, failure } of outcomes) {
    console.log(
      `${failure === undefined ? 'ok    ' : 'FAILED'}  ${bench} (${seconds.toFixed(0)} s)  ${failure ?? ''}`,
    )
  }
  if (size !== 'smoke') console.log(`\n${path.relative('.', results)}`)
  const failed = outcomes.filter(({ failure }) => failure !== undefined).length
  // As tap ends: CI counts by it.
  console.log(
    `\n# { total: ${String(outcomes.length)}, pass: ${String(outcomes.length - failed)}, fail: ${String(failed)} }`,
  )
  process.exitCode = failed > 0 ? 1 : 0
}
