/** The pages for people: short where one begins, true where they name something, and what is generated is up to date. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'tap'
import { DiagramError, drawDiagram } from '../docs/source/diagram.ts'
import { generatedPages } from '../docs/source/pages.ts'
import { loadConfig } from '../src/config/schema.ts'
import { createMetrics } from '../src/telemetry/metrics.ts'

const ROOT = path.join(import.meta.dirname, '..')
const MOST_LINES = 150

const pages = [
  'README.md',
  'bench/README.md',
  ...readdirSync(path.join(ROOT, 'docs'))
    .filter((it) => it.endsWith('.md'))
    .map((it) => `docs/${it}`),
]

/** Of every file of the program, and its path. */
const sources = readdirSync(path.join(ROOT, 'src'), { recursive: true, encoding: 'utf8' })
  .filter((it) => /\.[jt]s$/.test(it))
  .map((it) => ({ file: `src/${it}`, text: textOf(`src/${it}`) }))

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

test('what is generated is what docs/source and the program give: npm run docs', async (t) => {
  const generated = await generatedPages()
  t.ok(generated.size >= 5)
  for (const [file, text] of generated) t.equal(textOf(file), text, `${file} is up to date`)
})

test('the entry of the example that is a comment is valid, too', (t) => {
  const example = textOf('config.example.yaml')
  const entry = /^notifications: \[\].*\n((?:#.*\n)+)/m.exec(example)?.[1] ?? ''
  const text = example
    .replace('notifications: []', 'notifications:')
    .replace(entry, entry.replaceAll(/^#/gm, ''))
  const { config } = loadConfig({ text, env: { HOOK_TOKEN: 'x' } })
  t.match(config.notifications, [{ url: 'https://hooks.example/registry', timeout: 5000, backoff: 60_000 }])
  t.end()
})

test('a drawing is refused where a text has no room, or a line is none', (t) => {
  const lanes = 'title A title\nlane a one\nlane b two = about it\n'
  const svg = drawDiagram(`${lanes}a -> b: 1 < 2 & 3\nnote a, b: some words\n== A part\nb --> a: so`)
  t.match(svg, '<title>A title</title>')
  t.match(svg, '1 &lt; 2 &amp; 3')
  t.match(svg, 'prefers-color-scheme: dark')
  const word = 'x'.repeat(60)
  for (const line of [
    `a -> b: ${word}`,
    `note a: ${word}`,
    `lane c ${word}`,
    `== ${word}`,
    'a => b: x',
    'a -> c: x',
  ])
    t.throws(() => drawDiagram(`${lanes}${line}`), DiagramError, line.slice(0, 12))
  t.end()
})

test('every metric that a page names exists', async (t) => {
  const names = new Set(
    createMetrics()
      .registry.getMetricsAsArray()
      .map((it) => it.name),
  )
  for (const page of pages) {
    for (const [name] of textOf(page).matchAll(/\bentrepot_[a-z_]+[a-z]\b/g)) {
      t.ok(names.has(name.replace(/_(?:bucket|sum|count)$/, '')), `${page}: ${name}`)
    }
  }
})

test('every message of the log that a page names is written somewhere', (t) => {
  const table = textOf('docs/monitoring.md').split('## The log')[1]?.split('## ')[0] ?? ''
  const cells = Array.from(
    table.matchAll(/^\| (`.*?) *\|.*\|(.*)\|$/gm),
    ([, first = '', last = '']) => first + last,
  )
  const messages = cells.flatMap((it) =>
    Array.from(it.matchAll(/`([a-z][^`]+)`/g), ([, message = '']) => message),
  )
  t.ok(messages.length > 20)
  for (const message of messages) {
    const name = /^(?:error|server\.tls)$/.test(message)
    t.ok(name || sources.some(({ text }) => text.includes(`'${message}'`)), message)
  }
  t.end()
})

test('every file that a page names exists', (t) => {
  let files = 0
  for (const page of pages) {
    for (const [, file = ''] of textOf(page).matchAll(
      /`([a-z][\w-]*(?:\/[\w.-]+)*\/[\w-]+\.(?:ts|js|conf|md))`/g,
    )) {
      const folders = ['', 'src', path.dirname(page)]
      t.ok(
        folders.some((it) => existsSync(path.join(ROOT, it, file))),
        `${page}: ${file}`,
      )
      files += 1
    }
  }
  t.ok(files > 20)
  t.end()
})

test('the program cites sections of the architecture that are there', (t) => {
  const page = textOf('docs/architecture.md')
  let cited = 0
  for (const { file, text } of sources) {
    for (const [, section = ''] of text.matchAll(/docs\/architecture\.md[\s*:]+"([^"]+)"/g)) {
      t.ok(
        page.includes(`\n## ${section}\n`) || page.includes(`**${section.replace(/\s*\n \* /, ' ')}.**`),
        `${file}: ${section}`,
      )
      cited += 1
    }
  }
  t.ok(cited > 3)
  t.end()
})

test('the program cites no document that is not here', (t) => {
  for (const { file, text } of sources) {
    for (const [document] of text.matchAll(/\b(?:docs\/[\w./-]+|[A-Z]+)\.md\b/g)) {
      t.ok(existsSync(path.join(ROOT, document)), `${file} cites ${document}`)
    }
    t.notMatch(text, /\b(?:DESIGN|WIRE|HOUSE|FACTS|STYLE|FIELD)\b(?!['_])/, file)
  }
  t.end()
})
