/**
 * The last results as Markdown; with `--write`, between its two marks in `bench/README.md`.
 *
 *     node bench/table.ts [--results bench/results/latest.json] [--write]
 */
import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { readResults } from './support/results.ts'
import { markdownOf } from './support/table.ts'

const BEGIN = '<!-- results -->'
const END = '<!-- end of results -->'

const { values } = parseArgs({
  options: {
    results: { type: 'string', default: path.join(import.meta.dirname, 'results/latest.json') },
    write: { type: 'boolean', default: false },
  },
})
const markdown = markdownOf(readResults(values.results))
if (values.write) {
  const readme = path.join(import.meta.dirname, 'README.md')
  const text = readFileSync(readme, 'utf8')
  const [begin, end] = [text.indexOf(BEGIN), text.indexOf(END)]
  if (begin < 0 || end < begin) throw new Error(`${readme} has no place for results`)
  writeFileSync(readme, `${text.slice(0, begin + BEGIN.length)}\n\n${markdown}\n\n${text.slice(end)}`)
} else {
  console.log(markdown)
}
