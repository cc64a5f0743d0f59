/**
 * What benches make of their rounds, and what is kept and told of it.
 */
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'tap'
import {
  atLeast,
  atMost,
  compare,
  median,
  ratio,
  ratioToBest,
  shown,
  type Row,
} from '../../bench/support/compare.ts'
import { loopDelayP99Ms } from '../../bench/support/metrics.ts'
import { belongsTo, keep, readResults } from '../../bench/support/results.ts'
import { loopGoal } from '../../bench/support/spent.ts'
import { markdownOf } from '../../bench/support/table.ts'
import '../support/folders-last.ts'

test('candidates take turns, every second round backwards, and the first round does not count', async (t) => {
  const asked: string[] = []
  const rows = await compare([{ name: 'ours' }, { name: 'theirs' }], 3, ({ name }) => {
    asked.push(name)
    return Promise.resolve({ count: asked.length })
  })
  t.same(asked, ['ours', 'theirs', 'theirs', 'ours', 'ours', 'theirs', 'theirs', 'ours'])
  t.match(rows, [
    { name: 'ours', figures: { count: 5 } },
    { name: 'theirs', figures: { count: 6 } },
  ])
})

test('a ratio is that of the rounds, and to the best of several the hardest one', (t) => {
  const row = (name: string, all: readonly number[]): Row => ({
    name,
    figures: { figure: median(all) },
    rounds: all.map((figure) => ({ figure })),
  })
  // The second round was slow for both.
  const ours = row('ours', [200, 20, 220])
  const [good, better] = [row('good', [100, 10, 100]), row('better', [160, 16, 160])]
  t.equal(ratio(ours, good, 'figure'), 2)
  t.equal(ratioToBest(ours, [good, better], 'figure', 'more'), 1.25)
  t.equal(ratioToBest(ours, [good, better], 'figure', 'less'), 2)
  t.end()
})

test('what could not be measured is no median, and reaches no goal', (t) => {
  t.equal(median([3, NaN, 1, 2]), 2)
  t.equal(median([4, 1]), 2.5)
  t.ok(Number.isNaN(median([])))
  t.ok(Number.isNaN(median([NaN])))
  t.equal(atLeast('it', NaN, 1).met, false)
  t.equal(atMost('it', NaN, 1).met, false)
  t.equal(loopGoal([{ name: 'nginx', figures: { 'loop p99 ms': 1 } }]).met, false)
  t.same([NaN, null, undefined, 0.123, 12.34, 1234.5].map(shown), ['-', '-', '-', '0.12', '12.3', '1235'])
  t.end()
})

test('the delay of the loop is without the time between two looks, and that of a stranger is not 0', (t) => {
  t.equal(Math.round(loopDelayP99Ms(() => 0.0143) * 10), 43)
  t.equal(
    loopDelayP99Ms(() => 0.0099),
    0,
  )
  t.ok(Number.isNaN(loopDelayP99Ms(() => 0)))
  t.end()
})

test('results are kept beside those of others, and the newer one of the same', (t) => {
  const file = path.join(t.testdir(), 'folder/latest.json')
  const comparison = (bench: string, figure: number) => ({
    ...{ bench, what: bench },
    rows: [{ name: 'entrepot', figures: { 'MB/s': figure, none: NaN } }],
    goals: [atLeast('a | b', figure, 2)],
  })
  t.same(readResults(file), {})
  keep(file, comparison('cold', 1), 'full')
  keep(file, comparison('herd', 2), 'full')
  keep(file, comparison('cold', 3), 'small')
  const results = readResults(file)
  t.match(results, { cold: { size: 'small', rows: [{ figures: { 'MB/s': 3 } }] }, herd: { size: 'full' } })
  t.match(readFileSync(file, 'utf8'), /"machine": "\d+ cores, .+ Node v\d/)

  const markdown = markdownOf(results)
  t.match(markdown, '| cold  | a \\| b | at least 2 | 3.00 | yes     |')
  t.match(markdown, '| entrepot | 2.00 | -    |')
  t.match(markdownOf({}), /Nothing/)
  t.end()
})

test('a comparison is of the bench that its name begins with', (t) => {
  t.ok(belongsTo('cold', 'cold'))
  t.ok(belongsTo('cold', 'cold-image'))
  t.ok(belongsTo('hot-manifest', 'hot-manifest by tag'))
  t.notOk(belongsTo('cold', 'coldest'))
  t.notOk(belongsTo('hot-blob', 'hot-manifest by tag'))
  t.end()
})
