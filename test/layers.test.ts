/** Imports go one way. Who may import whom, folder by folder. */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { test } from 'tap'

const SRC = join(import.meta.dirname, '../src')
const STORE = 'blob-store eviction ingest inventory metadata storage-error upstream-answers young-garbage'
  .split(' ')
  .map((it) => `store/${it}.ts`)
const AUDIT = ['store/audit.ts']

/** What a room may import besides its own files: paths, or folders ending in a slash. */
const VALUES: Record<string, string[]> = {
  oci: [],
  telemetry: [],
  store: ['oci/'],
  upstream: ['oci/'],
  // Interfaces, the errors they throw, and who gives memory back: no concrete class of another room.
  cache: ['oci/', ...STORE, 'upstream/upstream.ts'],
  registry: ['oci/', 'cache/', ...STORE],
  upkeep: ['oci/', 'registry/refused.ts', 'registry/push-rules.ts', ...STORE, ...AUDIT],
  auth: ['oci/'],
  http: ['oci/', 'auth/', 'registry/'],
  notifications: [],
  control: ['oci/', 'registry/refused.ts'],
  config: ['oci/'],
  'config.ts': ['oci/', 'config/'],
  'start-error.ts': ['http/tls.ts', 'store/storage-error.ts'],
  'live-config.ts': ['config.ts'],
  // The builders: `app.ts` says in which order they come, each knows the classes of its part.
  'app.ts': [
    'config.ts',
    ...[
      'keeping.ts',
      'evicting.ts',
      'hiding.ts',
      'live-config.ts',
      'mirroring.ts',
      'pushing.ts',
      'reaching.ts',
      'reloading.ts',
      'scrubbing.ts',
      'start-error.ts',
      'tending.ts',
    ],
    ...['state.ts', 'telling.ts', 'trusting.ts', 'upstream-set.ts'],
    ...'cache control http registry store telemetry upstream'.split(' ').map((room) => `${room}/`),
  ],
  'state.ts': ['config.ts', 'registry/', 'store/'],
  'reaching.ts': ['config.ts', 'cache/', 'registry/', 'telemetry/', 'upstream/'],
  'hiding.ts': ['oci/', 'config.ts', 'registry/', 'start-error.ts'],
  'upstream-set.ts': ['config.ts', 'reaching.ts', 'registry/', 'upstream/'],
  'trusting.ts': ['config.ts', 'config/certificates.ts', 'live-config.ts', 'telemetry/'],
  'reloading.ts': [
    ...['config.ts', 'config/', 'hiding.ts', 'live-config.ts', 'reaching.ts', 'registry/'],
    'upstream-set.ts',
  ],
  'evicting.ts': ['config.ts', 'live-config.ts', 'state.ts', 'cache/', 'telemetry/'],
  'mirroring.ts': [
    'oci/',
    'config.ts',
    'evicting.ts',
    'live-config.ts',
    'state.ts',
    'cache/',
    'registry/',
    'store/',
    'telemetry/',
  ],
  'tending.ts': ['oci/', 'evicting.ts', 'live-config.ts', 'state.ts', 'registry/'],
  'tending-alone.ts': [
    ...['config.ts', 'evicting.ts', 'live-config.ts', 'mirroring.ts', 'pushing.ts', 'state.ts', 'tending.ts'],
    ...['upstream-set.ts', 'cache/', 'registry/', 'telemetry/'],
  ],
  'pushing.ts': ['oci/', 'config.ts', 'live-config.ts', 'state.ts', 'registry/', 'store/', 'telemetry/'],
  'scrubbing.ts': [
    ...['oci/', 'cache/', 'live-config.ts', 'state.ts', 'registry/', 'store/', 'telemetry/', 'upkeep/'],
  ],
  'telling.ts': ['config.ts', 'notifications/', 'upstream/proxy.ts'],
  'keeping.ts': [
    'oci/',
    ...[
      'config.ts',
      'config/units.ts',
      'evicting.ts',
      'hiding.ts',
      'live-config.ts',
      'pushing.ts',
      'start-error.ts',
      'state.ts',
      'tending.ts',
      'tending-alone.ts',
      'telling.ts',
    ],
    ...['registry/', 'store/', 'telemetry/', 'upkeep/'],
  ],
  cli: [
    ...['app.ts', 'config.ts', 'keeping.ts', 'start-error.ts', 'store/storage-error.ts', 'telemetry/'],
    ...['control/client.ts', 'oci/errors.ts', 'registry/refused.ts', 'registry/words.ts'],
  ],
  'main.ts': ['cli/'],
}

/** What a room may besides know the types of. Metrics and logs arrive by constructor everywhere. */
const TYPES: Record<string, string[]> = {
  registry: ['store/holds.ts', 'store/locks.ts', 'store/reserve.ts', 'upstream/status.ts'],
  'pushing.ts': ['cache/push-room.ts'],
  upkeep: ['store/holds.ts', 'store/locks.ts', 'registry/'],
  notifications: ['registry/events.ts', 'store/metadata.ts'],
  'telling.ts': ['store/metadata.ts'],
  control: ['cache/eviction.ts', 'registry/', 'upkeep/'],
  'keeping.ts': ['cache/', 'control/'],
  'tending.ts': ['control/'],
  cli: ['cache/eviction.ts', 'control/', 'registry/', 'upkeep/'],
  http: ['store/blob-store.ts'],
  cache: ['upstream/slots.ts', 'upstream/status.ts', 'store/holds.ts', 'store/locks.ts'],
  config: ['config.ts'],
}

const STATIC = /^(?:import|export)\s+(type\s)?(?:[^'";]*?\sfrom\s+)?['"](\.[^'"]+\.ts)['"]/gm
const DYNAMIC = /\b(?:import|new URL)\(()\s*['"](\.[^'"]+\.ts)['"]/g

test('imports go one way', (t) => {
  const files = readdirSync(SRC, { recursive: true, encoding: 'utf8' }).filter((path) => path.endsWith('.ts'))
  let imports = 0
  for (const file of files) {
    const room = file.split('/', 1)[0] ?? ''
    const values = VALUES[room]
    t.ok(values, `${file} is in a room of the house`)
    const text = readFileSync(join(SRC, file), 'utf8')
    for (const [, type, target = ''] of [...text.matchAll(STATIC), ...text.matchAll(DYNAMIC)]) {
      const path = normalize(join(dirname(file), target))
      const allowed = [...(values ?? []), ...(type ? ['telemetry/', ...(TYPES[room] ?? [])] : [])]
      const own = path.startsWith(`${room}/`)
      t.ok(
        own || allowed.some((may) => path === may || (may.endsWith('/') && path.startsWith(may))),
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
