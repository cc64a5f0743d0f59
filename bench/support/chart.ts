/**
 * A chart of results as one SVG that needs nothing else, in light and dark: for each comparison and each of its
 * figures a bar of ours beside theirs, and below them what was promised.
 */
import { shown, type Goal, type Row } from './compare.ts'
import type { Kept, Results } from './results.ts'
import { isOurs } from './spent.ts'

const WIDE = 1000
const EDGE = 24
const COLUMNS = 3
const GAP = 24
const PANEL = (WIDE - 2 * EDGE - (COLUMNS - 1) * GAP) / COLUMNS
const NAME = 128
const VALUE = 48
const BAR = PANEL - NAME - VALUE
const LINE = 18

const STYLE = `
    text { font: 12px system-ui, sans-serif; fill: #1f2328 }
    .title { font-size: 20px; font-weight: 600 }
    .bench { font-size: 15px; font-weight: 600 }
    .figure { font-weight: 600 }
    .small { fill: #59636e }
    .page { fill: #ffffff }
    .ours { fill: #0969da }
    .theirs { fill: #afb8c1 }
    .line { stroke: #d1d9e0 }
    .met { fill: #1a7f37 }
    .missed { fill: #cf222e }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc }
      .small { fill: #9198a1 }
      .page { fill: #0d1117 }
      .ours { fill: #4493f8 }
      .theirs { fill: #57606a }
      .line { stroke: #3d444d }
      .met { fill: #3fb950 }
      .missed { fill: #f85149 }
    }
  `

/** Something drawn from 0 downwards, and how far down it goes. */
interface Drawn {
  readonly svg: string
  readonly high: number
}

export function chartOf(results: Results): string {
  const all = Object.values(results)
  const blocks = [heading(all), ...all.map(comparison)]
  let down = EDGE
  const placed = blocks.map(({ svg, high }) => {
    const group = `<g transform="translate(${String(EDGE)} ${String(down)})">${svg}</g>`
    down += high + GAP
    return group
  })
  const size = `width="${String(WIDE)}" height="${String(down)}"`
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" ${size} viewBox="0 0 ${String(WIDE)} ${String(down)}">`,
    '<title>entrepot beside others</title>',
    `<style>${STYLE}</style>`,
    `<rect class="page" ${size}/>`,
    ...placed,
    '</svg>\n',
  ].join('\n')
}

function heading(all: readonly Kept[]): Drawn {
  const sizes = [...new Set(all.map(({ size }) => size))].join(', ')
  const days = [...new Set(all.map(({ at }) => at.slice(0, 10)))].sort().join(', ')
  const machines = [...new Set(all.map(({ machine }) => machine))].join('; ')
  return {
    svg:
      text(0, 16, 'entrepot beside others', 'title') +
      text(0, 38, `${sizes} run of ${days} on ${machines}`, 'small'),
    high: 42,
  }
}

function comparison({ bench, what, rows, goals = [] }: Kept): Drawn {
  const figures = [...new Set(rows.flatMap((row) => Object.keys(row.figures)))]
  const panels = figures.map((figure) => panel(figure, rows))
  const high = (rows.length + 1) * LINE + 12
  const grid = panels.map((svg, at) => {
    const x = (at % COLUMNS) * (PANEL + GAP)
    const y = 40 + Math.floor(at / COLUMNS) * high
    return `<g transform="translate(${x.toFixed(1)} ${String(y)})">${svg}</g>`
  })
  const end = 40 + Math.ceil(panels.length / COLUMNS) * high
  return {
    svg: [
      `<path class="line" d="M0 0H${String(WIDE - 2 * EDGE)}"/>`,
      text(0, 22, bench, 'bench') + text(bench.length * 9 + 16, 22, what, 'small'),
      ...grid,
      ...goals.map((goal, at) => promise(goal, end + at * LINE + 8)),
    ].join('\n'),
    high: end + goals.length * LINE,
  }
}

function panel(figure: string, rows: readonly Row[]): string {
  const values = rows.map((row) => row.figures[figure])
  const most = Math.max(0, ...values.filter((value) => Number.isFinite(value)).map(Number))
  const good = figure.endsWith('/s') ? 'more is better' : 'less is better'
  return [
    text(0, 12, figure, 'figure') + text(NAME, 12, good, 'small'),
    ...rows.map((row, at) => {
      const y = (at + 1) * LINE
      const value = row.figures[figure]
      const part = Number.isFinite(value) && most > 0 ? Math.max(0, Number(value)) / most : 0
      const bar = `x="${String(NAME)}" y="${String(y)}" width="${(part * BAR).toFixed(1)}" height="${String(LINE - 4)}"`
      return (
        text(0, y + 12, row.name) +
        `<rect class="${isOurs(row) ? 'ours' : 'theirs'}" ${bar}/>` +
        text(Math.round(NAME + part * BAR + 6), y + 12, shown(value))
      )
    }),
  ].join('\n')
}

function promise({ what, reached, wanted, met }: Goal, y: number): string {
  return (
    text(0, y, met ? '✓' : '✗', met ? 'met' : 'missed') + text(16, y, `${what} ${shown(reached)}, ${wanted}`)
  )
}

function text(x: number, y: number, what: string, kind?: string): string {
  const styled = kind === undefined ? '' : ` class="${kind}"`
  return `<text${styled} x="${String(x)}" y="${String(y)}">${escaped(what)}</text>`
}

function escaped(what: string): string {
  return what.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}
