/**
 * Who runs the benches sees it when one of them is broken.
 */
import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { test, type Test } from 'tap'
import { runBench, type Outcome } from '../../bench/support/running.ts'
import { eventually } from '../support/app.ts'

const SUPPORT = path.resolve('bench/support')

/** @param source of a bench, which may `report` and `sized` */
function run(t: Test, source: string, limitMs = 30_000): Promise<Outcome> {
  const folder = t.testdir({
    'bench.ts': `import { report } from '${SUPPORT}/compare.ts'
      import { sized } from '${SUPPORT}/sizes.ts'
      ${source}`,
  })
  return runBench({
    bench: 'bench',
    file: path.join(folder, 'bench.ts'),
    args: ['--smoke'],
    limitMs,
    results: path.join(folder, 'results.json'),
    output: 'ignore',
  })
}

test('a bench that reports figures is good, and its figures are kept with its size', async (t) => {
  const outcome = await run(
    t,
    `const { rounds } = sized({ smoke: { rounds: 1 }, small: { rounds: 2 }, full: { rounds: 3 } })
    report({ bench: 'bench', what: '', rows: [
      { name: 'entrepot', figures: { rounds } }, { name: 'direct', figures: { rounds, cpu: NaN } }] })`,
  )
  t.equal(outcome.failure, undefined)
  const kept: unknown = JSON.parse(readFileSync(path.join(t.testdirName, 'results.json'), 'utf8'))
  t.match(kept, {
    bench: {
      size: 'smoke',
      sizes: { rounds: 1 },
      rows: [{ figures: { rounds: 1 } }, { figures: { cpu: null } }],
    },
  })
})

test('a bench that crashes is broken, whatever it reported before', async (t) => {
  const reported = `report({ bench: 'bench', what: '', rows: [{ name: 'entrepot', figures: { a: 1 } }] })`
  t.equal((await run(t, `${reported}; throw new Error('broken')`)).failure, 'ended with 1')
})

test('a bench that hangs is broken, and ends with what it started', async (t) => {
  const outcome = await run(
    t,
    `import { spawn } from 'node:child_process'
    import { writeFileSync } from 'node:fs'
    const child = spawn('sleep', ['1000'])
    writeFileSync(new URL('pid', import.meta.url), String(child.pid))`,
    5_000,
  )
  t.equal(outcome.failure, 'not done after 5 s')
  const pid = readFileSync(path.join(t.testdirName, 'pid'), 'utf8')
  // Told to end, it may take a moment.
  await t.resolves(eventually('nobody is left behind', () => !isRunning(pid)))
})

test('a bench that ends well and says nothing is broken', async (t) => {
  t.equal((await run(t, '')).failure, 'reported nothing')
})

test('a bench that has a row without a figure, or one of entrepot that is not whole, is broken', async (t) => {
  for (const row of [
    `{ name: 'direct', figures: {} }`,
    `{ name: 'direct', figures: { a: NaN } }`,
    `{ name: 'entrepot', figures: { a: 1, b: NaN } }`,
  ]) {
    const { failure } = await run(t, `report({ bench: 'bench of some', what: '', rows: [${row}] })`)
    t.equal(failure, 'has no figures in bench of some', row)
  }
  t.equal((await run(t, `report({ bench: 'bench', what: '', rows: [] })`)).failure, 'has no figures in bench')
})

test('what another bench reported is none of its own', async (t) => {
  const row = `{ name: 'entrepot', figures: { a: 1 } }`
  t.equal(
    (await run(t, `report({ bench: 'benches', what: '', rows: [${row}] })`)).failure,
    'reported nothing',
  )
})

/** A process that was killed may wait for somebody to ask how it ended. */
function isRunning(pid: string): boolean {
  const stat = `/proc/${pid}/stat`
  return existsSync(stat) && !readFileSync(stat, 'utf8').includes(') Z ')
}
