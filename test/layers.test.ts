/** Imports go one way: which room may import which, and who may import the folder of a backend. */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { test } from 'tap'

const SRC = join(import.meta.dirname, '../src')

/** What each room may import besides its own files, from the bottom of the house to its top. */
const ROOMS: Readonly<Record<string, string>> = {
  oci: '',
  base: 'oci',
  telemetry: 'oci base',
  config: 'oci base',
  storage: 'oci base telemetry',
  upstream: 'oci base telemetry',
  auth: 'oci base telemetry config storage',
  cache: 'oci base telemetry storage upstream',
  registry: 'oci base telemetry config storage auth cache',
  http: 'oci base telemetry storage auth registry',
  admin: 'oci base telemetry config storage upstream auth cache registry http',
  app: 'oci base telemetry config storage upstream auth cache registry http admin',
}

/** Exchangeable behind an interface: besides their own room only the builders know them. */
const BACKENDS = [
  'storage/blobs/disk-',
  'storage/metadata/sql/',
  'storage/metadata/sqlite/',
  'upstream/client/',
  'upstream/login/',
  'upstream/transport/',
]

const STATIC = /^(?:import|export)\s+(?:type\s)?(?:[^'";]*?\sfrom\s+)?['"](\.[^'"]+\.ts)['"]/gm
const DYNAMIC = /\b(?:import|new URL)\(\s*['"](\.[^'"]+\.ts)['"]/g

function roomOf(path: string): string {
  return path.split('/', 1)[0] ?? ''
}

test('imports go one way', (t) => {
  const files = readdirSync(SRC, { recursive: true, encoding: 'utf8' }).filter((path) => path.endsWith('.ts'))
  let imports = 0
  for (const file of files) {
    const room = roomOf(file)
    t.ok(room in ROOMS, `${file} is in a room of the house`)
    const others = (ROOMS[room] ?? '').split(' ')
    const text = readFileSync(join(SRC, file), 'utf8')
    for (const [, target = ''] of [...text.matchAll(STATIC), ...text.matchAll(DYNAMIC)]) {
      const path = normalize(join(dirname(file), target))
      const own = roomOf(path) === room
      const backend = BACKENDS.some((it) => path.startsWith(it))
      t.ok(own || (others.includes(roomOf(path)) && (room === 'app' || !backend)), `${file} imports ${path}`)
      imports++
    }
  }
  t.ok(
    files.length > 20 && imports > 2 * files.length,
    `${files.length} files and ${imports} imports were seen`,
  )
  t.end()
})
