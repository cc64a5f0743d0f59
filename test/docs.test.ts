/** The pages for people: short where one begins, and every link of theirs leads somewhere. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'tap'

const ROOT = path.join(import.meta.dirname, '..')
const MOST_LINES = 150

const pages = [
  'README.md',
  'bench/README.md',
  ...readdirSync(path.join(ROOT, 'docs')).map((it) => `docs/${it}`),
]

function textOf(page: string): string {
  return readFileSync(path.join(ROOT, page), 'utf8')
}

/** As the usual renderers name headings. */
function anchorsOf(page: string): Set<string> {
  const headings = textOf(page)
    .replace(/^```.*?^```/gms, '')
    .matchAll(/^#+ (.+)$/gm)
  return new Set(
    Array.from(headings, ([, heading = '']) =>
      heading
        .toLowerCase()
        .replace(/[^\p{L}\p{N} _-]/gu, '')
        .replaceAll(' ', '-'),
    ),
  )
}

test('the README is read in five minutes', (t) => {
  t.ok(textOf('README.md').split('\n').length <= MOST_LINES)
  t.end()
})

test('every link between the pages leads somewhere', (t) => {
  let links = 0
  for (const page of pages) {
    for (const [, target = ''] of textOf(page).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue
      const [file = '', anchor] = target.split('#')
      const to = file === '' ? page : path.normalize(path.join(path.dirname(page), file))
      t.ok(existsSync(path.join(ROOT, to)), `${page} links to ${target}`)
      if (anchor !== undefined) t.ok(anchorsOf(to).has(anchor), `${page} links to a heading: ${target}`)
      links += 1
    }
  }
  t.ok(links > 30)
  t.end()
})

test('every page is linked from the README', (t) => {
  const readme = textOf('README.md')
  for (const page of pages) if (page !== 'README.md') t.ok(readme.includes(`](${page})`), page)
  t.end()
})
