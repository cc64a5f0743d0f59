/** Imports go one way. Who may import whom, room by room. */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { test } from 'tap'

const SRC = join(import.meta.dirname, '../src')

/** The rooms from the bottom to the top; a room imports its own files and those of rooms below. */
const ORDER = [
  ['oci'],
  ['telemetry'],
  ['base'],
  ['config', 'config.ts'],
  ['storage', 'store'],
  ['upstream'],
  ['auth'],
  ['cache'],
  ['registry', 'notifications'],
  ['http'],
  ['admin', 'cli', 'control', 'upkeep'],
]

/** Imports that go up, each to be mended. */
const UPWARD = new Set([
  'backoff.ts > upstream.ts',
  'connect.ts > keeping.ts',
  'connect.ts > operations.ts',
  'connect.ts > start-error.ts',
  'dispatch.ts > explain-endpoint.ts',
  'examiner.ts > registry.ts',
  'keeper.ts > keeping.ts',
  'keeper.ts > start-error.ts',
  'pull-headers.ts > explainer.ts',
  'rereading.ts > app.ts',
  'rereading.ts > start-error.ts',
  'serve.ts > app.ts',
  'serve.ts > start-error.ts',
  'server.ts > explainer.ts',
  'shadowed-names.ts > start-error.ts',
  'verify.ts > operator-error.ts',
  'verify.ts > refused.ts',
])

const STATIC = /^(?:import|export)\s+(?:type\s)?(?:[^'";]*?\sfrom\s+)?['"](\.[^'"]+\.ts)['"]/gm
const DYNAMIC = /\b(?:import|new URL)\(\s*['"](\.[^'"]+\.ts)['"]/g

/** How high the room of a file is; what is in none of them builds the program out of all of them. */
function height(path: string): number {
  const room = path.split('/', 1)[0] ?? ''
  const found = ORDER.findIndex((names) => names.includes(room))
  return found < 0 ? ORDER.length : found
}

function nameOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1)
}

test('imports go one way', (t) => {
  const files = readdirSync(SRC, { recursive: true, encoding: 'utf8' }).filter((path) => path.endsWith('.ts'))
  let imports = 0
  for (const file of files) {
    const text = readFileSync(join(SRC, file), 'utf8')
    for (const [, target = ''] of [...text.matchAll(STATIC), ...text.matchAll(DYNAMIC)]) {
      const path = normalize(join(dirname(file), target))
      t.ok(
        height(path) <= height(file) || UPWARD.has(`${nameOf(file)} > ${nameOf(path)}`),
        `${file} imports ${path}`,
      )
      imports++
    }
  }
  t.ok(
    files.length > 20 && imports > 2 * files.length,
    `${files.length} files and ${imports} imports were seen`,
  )
  t.end()
})
