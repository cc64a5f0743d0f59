/**
 * A sequence diagram, drawn as SVG from lines of text.
 *
 *     # a comment
 *     title The way of a pull
 *     lane cache cache/ = what is mirrored
 *     client -> http: GET …                a request, or bytes; "-->" is an answer, drawn with dashes
 *     note cache: text                     a box on one lane, or on several: "note cache, storage: …"
 *     == When the blob is here             a rule across everything
 *
 * The lanes stand from left to right in the order of their lines. A text is broken into rows; a word that has no room
 * where it belongs is an error, so that nothing is drawn over something else. The picture has a ground of its own and follows the theme of
 * whoever looks at it: it can be read on a light and on a dark page.
 */

const LANE = 176
const MARGIN = 16
const LINE = 17
/** Of a character of 13 px in the widest of the fonts that browsers have for sans-serif. */
const SMALL = 7.1
const CAPITAL = 9.3
const BOLD = 1.12

const STYLE = `
  .ground { fill: #ffffff; stroke: #d0d7de }
  .lane { fill: #ddf4ff; stroke: #0969da }
  .life { stroke: #afb8c1; stroke-dasharray: 2 4 }
  .note { fill: #fff8c5; stroke: #d4a72c }
  .rule { stroke: #8c959f }
  .arrow { stroke: #1f2328; fill: none; stroke-width: 1.4 }
  .answer { stroke-dasharray: 6 4 }
  .head { fill: #1f2328 }
  text { font: 13px Arial, Helvetica, sans-serif; fill: #1f2328 }
  .title, .name, .part { font-weight: bold }
  .small { font-size: 12px; fill: #57606a }
  .behind { fill: #ffffff }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117; stroke: #30363d }
    .lane { fill: #12294a; stroke: #4493f8 }
    .life { stroke: #484f58 }
    .note { fill: #332a08; stroke: #9e7a1a }
    .rule { stroke: #6e7681 }
    .arrow { stroke: #e6edf3 }
    .head, text { fill: #e6edf3 }
    .small { fill: #9198a1 }
    .behind { fill: #0d1117 }
  }`

interface Lane {
  readonly id: string
  readonly name: string
  readonly about: string
  readonly x: number
}

export class DiagramError extends Error {
  override readonly name = 'DiagramError'
}

export function drawDiagram(source: string): string {
  const lines = source.split('\n').filter((it) => it.trim() !== '' && !it.startsWith('#'))
  const title = /^title (.+)$/m.exec(source)?.[1] ?? ''
  const lanes = lanesOf(lines)
  const width = 2 * MARGIN + lanes.size * LANE
  const body: string[] = []
  let y = 112
  for (const line of lines) {
    if (/^(?:title|lane) /.test(line)) continue
    const { svg, height } = drawLine(line, lanes, y, width)
    body.push(...svg)
    y += height
  }
  const height = y + MARGIN
  const all = [...lanes.values()]
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">`,
    `<title>${escaped(title)}</title>`,
    `<style>${STYLE}\n</style>`,
    `<rect class="ground" x="0.5" y="0.5" width="${width - 1}" height="${height - 1}" rx="8"/>`,
    text(MARGIN, 30, title, 'title', 'start'),
    ...all.map(({ x }) => `<line class="life" x1="${x}" y1="92" x2="${x}" y2="${height - MARGIN}"/>`),
    ...all.flatMap(drawLane),
    ...body,
    '</svg>\n',
  ].join('\n')
}

function lanesOf(lines: readonly string[]): Map<string, Lane> {
  const lanes = new Map<string, Lane>()
  for (const line of lines) {
    const [, id = '', name = '', about = ''] = /^lane (\w+) ([^=]+?)(?: = (.+))?$/.exec(line) ?? []
    if (id === '') continue
    const x = MARGIN + (lanes.size + 0.5) * LANE
    fits(name, (LANE - 12) / BOLD, line)
    fits(about, LANE - 12, line)
    lanes.set(id, { id, name, about, x })
  }
  return lanes
}

function drawLane({ x, name, about }: Lane): string[] {
  return [
    `<rect class="lane" x="${x - LANE / 2 + 6}" y="46" width="${LANE - 12}" height="46" rx="6"/>`,
    text(x, about === '' ? 74 : 66, name, 'name'),
    ...(about === '' ? [] : [text(x, 83, about, 'small')]),
  ]
}

function drawLine(line: string, lanes: ReadonlyMap<string, Lane>, y: number, width: number) {
  const rule = /^== (.+)$/.exec(line)?.[1]
  if (rule !== undefined) {
    const long = Math.ceil(widthOf(rule) * BOLD)
    fits(rule, (width - 4 * MARGIN) / BOLD, line)
    const svg = [
      `<line class="rule" x1="${MARGIN}" y1="${y + 20}" x2="${width - MARGIN}" y2="${y + 20}"/>`,
      `<rect class="behind" x="${2 * MARGIN - 6}" y="${y + 8}" width="${long + 12}" height="22"/>`,
      text(2 * MARGIN, y + 24, rule, 'part', 'start'),
    ]
    return { svg, height: 46 }
  }
  const note = /^note (\w+)(?:, (\w+))?: (.+)$/.exec(line)
  if (note)
    return drawNote(
      line,
      laneOf(lanes, note[1], line),
      laneOf(lanes, note[2] ?? note[1], line),
      note[3] ?? '',
      y,
    )
  const arrow = /^(\w+) (--?>) (\w+): (.+)$/.exec(line)
  if (!arrow) throw new DiagramError(`not a line of a diagram: ${line}`)
  const from = laneOf(lanes, arrow[1], line)
  const to = laneOf(lanes, arrow[3], line)
  return drawArrow(line, from, to, arrow[2] === '-->', arrow[4] ?? '', y)
}

function drawNote(line: string, first: Lane, last: Lane, words: string, y: number) {
  const left = first.x - LANE / 2 + 6
  const room = last.x + LANE / 2 - 6 - left
  const rows = rowsOf(words, room - 12, line)
  const height = rows.length * LINE + 10
  const svg = [
    `<rect class="note" x="${left}" y="${y}" width="${room}" height="${height}" rx="4"/>`,
    ...rows.map((row, at) => text(left + room / 2, y + 18 + at * LINE, row)),
  ]
  return { svg, height: height + 14 }
}

function drawArrow(line: string, from: Lane, to: Lane, isAnswer: boolean, words: string, y: number) {
  const rows = rowsOf(words, Math.abs(to.x - from.x) - 14, line)
  const way = Math.sign(to.x - from.x)
  const middle = (from.x + to.x) / 2
  const at = y + rows.length * LINE + 4
  const widest = Math.max(...rows.map(widthOf))
  const svg = [
    // Hides the lines of the lanes between, which would cross the text.
    `<rect class="behind" x="${middle - widest / 2}" y="${y}" width="${widest}" height="${rows.length * LINE}"/>`,
    ...rows.map((row, index) => text(middle, y + 13 + index * LINE, row)),
    `<path class="arrow${isAnswer ? ' answer' : ''}" d="M${from.x} ${at}H${to.x - way * 6}"/>`,
    `<path class="head" d="M${to.x} ${at}l${-way * 9} -4.5v9z"/>`,
  ]
  return { svg, height: rows.length * LINE + 20 }
}

function laneOf(lanes: ReadonlyMap<string, Lane>, id: string | undefined, line: string): Lane {
  const lane = lanes.get(id ?? '')
  if (!lane) throw new DiagramError(`no such lane: ${line}`)
  return lane
}

/** Broken between words. */
function rowsOf(words: string, room: number, line: string): string[] {
  const rows: string[] = []
  for (const word of words.split(' ')) {
    const longer = rows.length === 0 ? word : `${rows.at(-1) ?? ''} ${word}`
    if (rows.length > 0 && widthOf(longer) <= room) rows.splice(-1, 1, longer)
    else rows.push(word)
  }
  for (const row of rows) fits(row, room, line)
  return rows
}

function widthOf(words: string): number {
  const capitals = words.match(/[\p{Lu}_?=…]/gu)?.length ?? 0
  return Math.ceil(capitals * CAPITAL + (words.length - capitals) * SMALL)
}

function fits(words: string, room: number, line: string): void {
  if (widthOf(words) > room) throw new DiagramError(`${widthOf(words)} px where ${room} are free: ${line}`)
}

function text(x: number, y: number, words: string, kind = '', anchor = 'middle'): string {
  const kindOf = kind === '' ? '' : ` class="${kind}"`
  return `<text${kindOf} x="${x}" y="${y}" text-anchor="${anchor}">${escaped(words)}</text>`
}

function escaped(words: string): string {
  return words.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}
