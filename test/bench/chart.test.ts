/**
 * The chart of the benches: one file that needs nothing else, and holds everything that was measured.
 */
import { test } from 'tap'
import { chartOf } from '../../bench/support/chart.ts'
import { atLeast, atMost } from '../../bench/support/compare.ts'
import type { Results } from '../../bench/support/results.ts'

const run = { size: 'small', sizes: {}, machine: '2 cores', at: '2026-11-21T20:00:00.000Z' } as const
const results: Results = {
  'hot-blob': {
    ...run,
    bench: 'hot-blob',
    what: 'a layer & <nothing> else',
    rows: [
      { name: 'entrepot', figures: { 'MB/s': 2000, 'CPU s/GB': 0.13, 'loop p99 ms': 3.4 } },
      { name: 'docker-registry', figures: { 'MB/s': 1000, 'CPU s/GB': 0.7 } },
    ],
    goals: [atMost('CPU <per> GB', 0.19, 0.3), atLeast('throughput', 1.1, 1.25)],
  },
  cold: {
    ...run,
    bench: 'cold',
    what: 'an image',
    rows: [
      { name: 'entrepot', figures: { 'MB/s': 60, 'CPU s/GB': 0 } },
      // What JSON makes of NaN, and NaN itself.
      { name: 'direct', figures: { 'MB/s': NaN, 'CPU s/GB': null as unknown as number } },
    ],
  },
}

test('everything that is opened is closed, and no text ends the element that it is in', (t) => {
  const open: string[] = []
  const text = chartOf(results).replace(
    /<(\/?)([a-z]+)((?: [\w:-]+="[^"<>]*")*)(\/?)>/g,
    (_, closes: string, name: string, __: string, alone: string) => {
      if (closes !== '') t.equal(open.pop(), name)
      else if (alone === '') open.push(name)
      return ''
    },
  )
  t.same(open, [])
  t.notMatch(text, /[<>]/, 'what is left is text')
  t.notMatch(text, /&(?!amp;|lt;|gt;)/)
  t.end()
})

test('every row of every figure has its bar and its value, and every goal its mark', (t) => {
  const chart = chartOf(results)
  // Three figures of the one and two of the other, each of two rows; the one that only entrepot has as well.
  t.equal(chart.match(/<rect class="(?:ours|theirs)"/g)?.length, 3 * 2 + 2 * 2)
  for (const said of [
    'entrepot',
    'docker-registry',
    'direct',
    '2000',
    '0.70',
    '3.40',
    'loop p99 ms',
    'hot-blob',
  ]) {
    t.match(chart, `>${said}</text>`)
  }
  t.match(chart, 'a layer &amp; &lt;nothing&gt; else')
  t.match(chart, '✓</text><text x="16"')
  t.match(chart, 'CPU &lt;per&gt; GB 0.19, at most 0.3')
  t.match(chart, '✗</text><text x="16"')
  t.match(chart, 'throughput 1.10, at least 1.25')
  t.match(chart, 'small run of 2026-11-21 on 2 cores')
  t.end()
})

test('of two bars the longer one is that of the larger figure', (t) => {
  const [ours, theirs] = [
    ...chartOf(results).matchAll(/<rect class="(?:ours|theirs)".+ width="([\d.]+)"/g),
  ].map(([, width]) => Number(width))
  t.ok(
    ours !== undefined && theirs !== undefined && Math.abs(ours - 2 * theirs) < 0.2,
    `${ours} and ${theirs}`,
  )
  t.end()
})

test('what was not measured has no length and no number', (t) => {
  const chart = chartOf(results)
  t.notMatch(chart, /NaN|undefined|null|Infinity/)
  t.match(chart, '>-</text>')
  t.notMatch(chartOf({}), /NaN|Infinity/, 'nor has a chart of nothing')
  t.end()
})

test('nothing is fetched from anywhere, and it can be read in the dark', (t) => {
  const chart = chartOf(results)
  t.notMatch(
    chart.replace('xmlns="http://www.w3.org/2000/svg"', ''),
    /https?:|href|url\(|@import|<script|<image/,
  )
  t.match(chart, 'prefers-color-scheme: dark')
  t.end()
})
