/**
 * The table of clients: every client and verb, cold, hot, and with an upstream that is killed, hangs, has had enough
 * of us, or must not be asked; and once more with each of these after a new start.
 *
 * All rows share one entrepot, in which each has a repository of its own. Between two columns the clock goes on for
 * longer than a tag is believed: what would be believed anyway proves nothing. There is no other registry that a
 * client could turn to.
 */
import type { Test } from 'tap'
import { loadConfig } from '../../../src/config/schema.ts'
import { ownFolder, simulate, startMirror, type Mirror } from '../app.ts'
import { quiet } from '../quiet.ts'
import type { UpstreamSimulator } from '../upstream.ts'
import { run, Shelf, type Outcome } from './client.ts'
import { TAG, type Registry, type Row } from './rows.ts'

/** Nobody listens there. */
const NOWHERE = 'http://127.0.0.1:1'
/** 15 s and 5 s shortened: waiting for them proves nothing more. A machine that is busy answers within the first. */
const BUDGETS = { budgetMs: 8_000, staleBudgetMs: 1_500 }
const TIMEOUTS = { connect: '3s', headers: '6s', idle: '6s' }
const HANG_MS = 20_000
/** Longer than any answer is fresh, and than any failure is remembered; in all not so long that it is too old. */
const LATER_MS = 25 * 3_600_000

export const BAD_DAYS = ['killed', 'hanging', '429', 'offline'] as const
export type BadDay = (typeof BAD_DAYS)[number]
export type Column = 'cold' | 'hot' | BadDay | `${BadDay}, restarted`
export const COLUMNS: readonly Column[] = [
  'cold',
  'hot',
  ...BAD_DAYS,
  ...BAD_DAYS.map((day) => `${day}, restarted` as const),
]

/** `wrong`: the client was content with less than there is, or with what came from elsewhere. */
export type Word = 'here' | 'refused' | 'refused although here' | 'wrong'

export interface Cell {
  readonly row: Row
  readonly column: Column
  readonly word: Word
  /** Sentences; none when all is well. */
  readonly problems: readonly string[]
}

export async function fillTable(t: Test, rows: readonly Row[]): Promise<Cell[]> {
  const table = new Table(t, await startUpstreams(t), rows)
  await table.fill()
  return table.cells
}

async function startUpstreams(t: Test): Promise<Record<Registry, UpstreamSimulator>> {
  return {
    'docker.io': await simulate(t, { listEtags: true }),
    'quay.io': await simulate(t, { referrers: 'unsupported', pageSize: 2 }),
  }
}

class Table {
  readonly cells: Cell[] = []
  readonly #t: Test
  readonly #upstreams: Readonly<Record<Registry, UpstreamSimulator>>
  readonly #rows: readonly Row[]
  readonly #root: string
  /** What clients keep that pull again. */
  readonly #shelves = new Map<Row, Shelf>()
  #now = Date.now()

  constructor(t: Test, upstreams: Readonly<Record<Registry, UpstreamSimulator>>, rows: readonly Row[]) {
    this.#t = t
    this.#upstreams = upstreams
    this.#rows = rows
    this.#root = ownFolder(t)
    for (const row of rows) row.subject.hold(upstreams[row.registry], this.#repositoryOf(row))
  }

  async fill(): Promise<void> {
    let mirror = await this.#start()
    await this.#column('cold', mirror, (row) => row.broughtBy !== 'nobody')
    await quiet(mirror, ...Object.values(this.#upstreams))
    for (const { log } of Object.values(this.#upstreams)) log.clear()
    // Who asks more than what was brought would bring it.
    await this.#column('hot', mirror, (row) => row.broughtBy === row.client)
    await quiet(mirror, ...Object.values(this.#upstreams))
    this.#t.strictSame(this.#asked(), [], 'what is hot costs upstream nothing')
    for (const day of BAD_DAYS) {
      await this.#on(day, mirror, () => this.#column(day, mirror))
    }
    for (const day of BAD_DAYS) {
      await mirror.close()
      mirror = await this.#start(day === 'offline')
      await this.#on(day, mirror, () => this.#column(`${day}, restarted`, mirror))
    }
    await mirror.close()
  }

  async #start(offline = false): Promise<Mirror> {
    return await startMirror(
      this.#t,
      { url: '' },
      { root: this.#root, config: this.#config(offline), ...BUDGETS, now: () => this.#now },
    )
  }

  #config(offline: boolean): Record<string, unknown> {
    const settings = { timeouts: TIMEOUTS, offline }
    return {
      upstreams: {
        'docker.io': { url: this.#upstreams['docker.io'].url, default: true, ...settings },
        'quay.io': { url: this.#upstreams['quay.io'].url, ...settings },
      },
    }
  }

  /** It is such a day from longer ago than anything is believed, until the column is full. */
  async #on(day: BadDay, mirror: Mirror, work: () => Promise<void>): Promise<void> {
    this.#now += LATER_MS
    const upstreams = Object.values(this.#upstreams)
    if (day === 'killed') await Promise.all(upstreams.map((it) => it.stop()))
    if (day === 'hanging') for (const it of upstreams) it.fault({}, { hang: 'headers' })
    if (day === '429') for (const it of upstreams) it.fault({}, { status: 429 })
    if (day === 'offline') await this.#reload(mirror, true)
    await work()
    if (day === 'killed') await Promise.all(upstreams.map((it) => it.start()))
    if (day === 'offline') await this.#reload(mirror, false)
    for (const it of upstreams) it.rules.clear()
  }

  async #reload(mirror: Mirror, offline: boolean): Promise<void> {
    const storage = { root: this.#root }
    const text = JSON.stringify({ server: { port: 0 }, storage, cache: {}, ...this.#config(offline) })
    await mirror.app.reload(loadConfig({ text, env: {} }).config)
  }

  async #column(column: Column, mirror: Mirror, has: (row: Row) => boolean = () => true): Promise<void> {
    const rows = this.#rows.filter(has)
    this.cells.push(
      ...(await Promise.all(
        rows.map(async (row): Promise<Cell> => {
          const outcome = await this.#run(column, row, mirror)
          const word = wordOf(column, row, outcome)
          return { row, column, word, problems: problemsOf(column, row, outcome, word) }
        }),
      )),
    )
  }

  async #run(column: Column, row: Row, mirror: Mirror): Promise<Outcome> {
    const { client, broughtBy, registry, again } = row
    const doer = column === 'cold' && broughtBy !== 'nobody' ? broughtBy : client
    const shelf = this.#shelves.get(row) ?? new Shelf()
    if (again) this.#shelves.set(row, shelf)
    const where = {
      mirror: mirror.url,
      real: NOWHERE,
      registry,
      repository: this.#repositoryOf(row),
      tag: TAG,
    }
    return await run(doer, { ...where, shelf, hangMs: HANG_MS })
  }

  #repositoryOf(row: Row): string {
    return `library/row-${String(this.#rows.indexOf(row))}`
  }

  #asked(): string[] {
    return Object.values(this.#upstreams).flatMap(({ log }) =>
      log.of({ listener: 'registry' }).map(({ method, url }) => `${method} ${url}`),
    )
  }
}

function wordOf(column: Column, row: Row, outcome: Outcome): Word {
  if (outcome.ending === 'pulled') return isWhole(column, row, outcome) ? 'here' : 'wrong'
  return row.broughtBy === 'nobody' ? 'refused' : 'refused although here'
}

function isWhole(column: Column, row: Row, { shelf, exchanges }: Outcome): boolean {
  if (exchanges.some(({ endpoint, status }) => endpoint === 'real' && status !== 0)) return false
  // Who only brings it need not take all that the other one will want.
  if (column === 'cold' && row.broughtBy !== row.client) return true
  const { digests, tags, referrers } = row.subject
  return (
    digests.every((digest) => shelf.has(digest)) &&
    (tags === undefined || same(shelf.tags ?? [], tags)) &&
    (referrers === undefined || same(shelf.referrers ?? [], referrers))
  )
}

function same(one: readonly string[], other: readonly string[]): boolean {
  return one.toSorted().join(' ') === other.toSorted().join(' ')
}

function problemsOf(
  column: Column,
  row: Row,
  { error, exchanges, shelf, ending }: Outcome,
  word: Word,
): string[] {
  const problems: string[] = []
  const expected = row.broughtBy === 'nobody' ? 'refused' : 'here'
  if (word !== expected) {
    const found = `found ${[...shelf.contents.keys()].join(' ')}, tags ${String(shelf.tags)}`
    problems.push(`${word}: ${error?.message ?? found}`)
  }
  if (ending === 'hung') problems.push('it hung')
  for (const { method, path, status, headers } of exchanges) {
    const isList = /\/(tags\/list|referrers\/[^/]+)(\?|$)/.test(path)
    if (column === 'cold' || !isList || status !== 200) continue
    const marked = headers['x-cache'] === 'stale' && headers['warning']?.startsWith('299 ') === true
    if (column === 'hot' ? headers['x-cache'] !== 'hit' : !marked) {
      const marks = `X-Cache ${String(headers['x-cache'])}, Warning ${String(headers['warning'])}`
      problems.push(`${method} ${path} is not marked: ${marks}`)
    }
  }
  return problems
}

/** Lines. */
export function linesOf(cells: readonly Cell[]): string[] {
  const rows = [...new Set(cells.map(({ row }) => row))]
  const all = [
    ['', ...COLUMNS.map((column) => column.replace(', restarted', ' ↻'))],
    ...rows.map((row) => [
      `${row.verb}: ${row.name}`,
      ...COLUMNS.map((column) => {
        const cell = cells.find((it) => it.row === row && it.column === column)
        if (cell === undefined) return ''
        const { word, problems } = cell
        return `${word === 'refused although here' ? 'REFUSED' : word}${problems.length === 0 ? '' : ' !'}`
      }),
    ]),
  ]
  const widths = (all[0] ?? []).map((_, column) => Math.max(...all.map((row) => row[column]?.length ?? 0)))
  return all.map((row) =>
    row
      .map((text, column) => text.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  )
}
