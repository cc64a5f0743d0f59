/**
 * The table of real clients: each of their commands, in each state of the cache and of the registry behind it.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { ACCEPT_MANIFESTS } from '../../../src/oci/descriptor.ts'
import { Entrepot } from '../../support/process.ts'
import { shortDir } from '../../support/programs.ts'
import type { Behaviour } from '../../support/upstream-rules.ts'
import { startUpstream, type UpstreamSimulator } from '../../support/upstream.ts'
import type { Place, RealClient, Verb } from './client.ts'
import { NEWEST_ONE, stock, stockChart, TAGS, type Goods } from './goods.ts'

/**
 * What each column stands for: with nothing here, with all of it, and then under what befalls upstream. `first asked`
 * is of what somebody else pulled: the registry is gone before the command, and what it asks for, was ever heard of.
 */
const STATES = [
  'cold',
  'hot',
  'stopped',
  'restarted',
  'first asked',
  'hanging',
  'limited',
  'offline',
] as const
type State = (typeof STATES)[number]

interface Cell {
  readonly tookMs: number
  /** What the client said; none: it got what it asked for. */
  readonly failure: string | undefined
}

interface Row {
  readonly client: string
  readonly verb: Verb
  /** Whether the registry behind has an API of referrers. */
  readonly referrersApi: boolean
  readonly cells: Map<State, Cell>
}

/** A registry that has the API, and one that has not: clients ask them differently. */
const REGISTRIES = [
  { registry: 'quay.io', referrersApi: true },
  { registry: 'ghcr.io', referrersApi: false },
]

const TROUBLES: Partial<Record<State, Behaviour>> = {
  hanging: { hang: 'headers' },
  limited: { status: 429, retryAfter: 60 },
}

interface Line {
  readonly row: Row
  readonly registry: string
  /** Pulled by this command alone, and one that it asks for only when upstream is gone. */
  readonly asked: Stand
  readonly warmed: Stand
}

interface Stand {
  readonly repository: string
  readonly goods: Goods
}

/** What a test of one client is: the table of it, and that nothing which is here is refused. */
export function testClient(client: RealClient): void {
  const title = `${client.name} gets what is here, whatever becomes of the registry`
  test(title, { skip: client.missing }, async (t) => {
    const rows = await tryClient(t, client)
    for (const line of tableOf(rows)) t.comment(line)
    for (const row of rows) {
      for (const state of STATES) {
        const { failure } = row.cells.get(state) ?? { failure: 'it was not tried' }
        t.equal(failure, undefined, `${titleOf(row)}, ${state}${failure === undefined ? '' : `: ${failure}`}`)
      }
    }
  })
}

/** Runs all commands of a client through all states. */
async function tryClient(t: Test, client: RealClient): Promise<Row[]> {
  const upstreams = new Map<string, UpstreamSimulator>()
  for (const { registry, referrersApi } of REGISTRIES) {
    const upstream = await startUpstream({ referrers: referrersApi ? 'ok' : 'unsupported' })
    t.teardown(() => upstream.close())
    upstreams.set(registry, upstream)
  }
  const registries = Object.fromEntries([...upstreams].map(([name, { url }]) => [name, { url }]))
  const dir = shortDir(t)
  // Whatever can be asked again is: what has befallen upstream is noticed at once.
  const cache = { tagTtl: 0, negativeTtl: 0 }
  const start = (offline = false): Promise<Entrepot> =>
    Entrepot.start(t, { dir, config: { cache: { ...cache, offline }, upstreams: registries } })
  let entrepot = await start()
  const verbs = await client.open(t)
  const lines = REGISTRIES.flatMap(({ registry, referrersApi }) =>
    // Who asks for no referrers meets no difference.
    verbs
      .filter(({ kind }) => referrersApi || kind === 'verify')
      .map((verb, position): Line => {
        const fill = (folder: string): Stand => {
          const upstream = upstreams.get(registry)!
          const repository = `${folder}/${client.name.replaceAll(/[^a-z0-9]+/g, '-')}-${position}`
          if (verb.chart) stockChart(upstream, repository)
          return {
            repository,
            goods: stock(upstream, verb.chart ? `${repository}/none` : repository, referrersApi),
          }
        }
        const row = { client: client.name, verb, referrersApi, cells: new Map<State, Cell>() }
        return { row, registry, asked: fill('asked'), warmed: fill('warmed') }
      }),
  )
  const runAll = async (state: State, stand: 'asked' | 'warmed' = 'asked'): Promise<void> => {
    for (const line of lines) {
      const where = { ...line[stand], entrepot, registry: line.registry, complete: stand === 'asked' }
      line.row.cells.set(state, await tryVerb(line.row.verb, where))
    }
  }

  const all = [...upstreams.values()]

  await runAll('cold')
  await runAll('hot')
  for (const { registry, warmed, row } of lines) await warm(entrepot, registry, warmed, row.verb)
  await quiet(all)
  for (const upstream of all) await upstream.stop()
  await runAll('stopped')
  // From here on each begins with a process that knows of no trouble.
  entrepot = await restart(entrepot, start)
  await runAll('restarted')
  await runAll('first asked', 'warmed')
  for (const upstream of all) await upstream.start()
  for (const [state, behaviour] of Object.entries(TROUBLES)) {
    entrepot = await restart(entrepot, start)
    const rules = all.map((upstream) => upstream.fault({}, behaviour))
    await runAll(state as State)
    for (const rule of rules) rule.remove()
  }
  entrepot = await restart(entrepot, () => start(true))
  await runAll('offline')
  await entrepot.program.stop()
  return lines.map(({ row }) => row)
}

async function restart(entrepot: Entrepot, start: () => Promise<Entrepot>): Promise<Entrepot> {
  await entrepot.program.stop()
  return start()
}

async function tryVerb(
  verb: Verb,
  {
    entrepot,
    registry,
    repository,
    goods,
    complete,
  }: Stand & {
    entrepot: Entrepot
    registry: string
    complete: boolean
  },
): Promise<Cell> {
  const dir = mkdtempSync(join(tmpdir(), 'e-'))
  const host = `127.0.0.1:${entrepot.port}`
  const place: Place = {
    ...{ host, registry, repository, goods, dir, complete },
    name: `${host}/${registry}/${repository}`,
  }
  const began = performance.now()
  let failure: string | undefined
  try {
    await verb.run(place)
  } catch (error) {
    failure = error instanceof Error ? error.message : String(error)
  } finally {
    rmSync(dir, { recursive: true, force: true, maxRetries: 5 })
  }
  return { tookMs: performance.now() - began, failure }
}

/** Somebody else's pull of all platforms, who asks for no list and no referrer. */
async function warm(entrepot: Entrepot, registry: string, { repository }: Stand, verb: Verb): Promise<void> {
  const base = `${entrepot.url}/v2/${registry}/${repository}`
  const seen = new Set<string>()
  const bring = async (kind: 'manifests' | 'blobs', reference: string): Promise<void> => {
    if (seen.has(reference)) return
    seen.add(reference)
    const headers = { accept: ACCEPT_MANIFESTS }
    const answer = await fetch(`${base}/${kind}/${reference}`, { headers })
    const text = await answer.text()
    if (!answer.ok) throw new Error(`${kind}/${reference} of ${repository}: ${answer.status} ${text}`)
    if (kind === 'blobs') return
    const {
      manifests = [],
      config,
      layers = [],
    } = JSON.parse(text) as Record<'manifests' | 'layers', { digest: string }[] | undefined> & {
      config?: { digest: string }
    }
    for (const { digest } of manifests) await bring('manifests', digest)
    for (const { digest } of [...(config ? [config] : []), ...layers]) await bring('blobs', digest)
  }
  for (const tag of verb.chart ? [NEWEST_ONE] : TAGS) await bring('manifests', tag)
}

/** What follows a pull in the background has ended when nobody has asked upstream for a while. */
async function quiet(upstreams: readonly UpstreamSimulator[]): Promise<void> {
  const count = (): number => upstreams.reduce((sum, { log }) => sum + log.count(), 0)
  for (let before = -1; before !== count();) {
    before = count()
    await sleep(1_500)
  }
}

function titleOf({ client, verb, referrersApi }: Row): string {
  return `${client} ${verb.what}${referrersApi ? '' : ', of a registry without referrers'}`
}

/** Lines that a person can read. */
function tableOf(rows: readonly Row[]): string[] {
  const cells = rows.map(({ client, verb, referrersApi, cells }) => [
    client,
    verb.kind,
    verb.what,
    referrersApi ? 'yes' : 'no',
    ...STATES.map((state) => wordsOf(cells.get(state))),
  ])
  const table = [['client', 'kind', 'command', 'referrers API', ...STATES], ...cells]
  const widths = table[0]!.map((_, column) => Math.max(...table.map((row) => row[column]!.length)))
  return table.map((row) =>
    row
      .map((text, column) => text.padEnd(widths[column]!))
      .join('  ')
      .trimEnd(),
  )
}

function wordsOf(cell: Cell | undefined): string {
  if (cell === undefined) return '-'
  const took = `${(cell.tookMs / 1000).toFixed(1)} s`
  return cell.failure === undefined ? took : `REFUSED ${took}`
}
