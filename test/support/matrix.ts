/**
 * The fault matrix: every fault, in every state of the cache, with one client and with twenty.
 *
 * One real entrepot, started as `npm start` does, goes through all of it with one upstream for each cell. Many
 * cells run at once: nearly all that they do is wait.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { stringify } from 'yaml'
import { CACHE_STATES, type Fault } from './faults/fault.ts'
import { CellRun, TIMEOUTS, type Cell, type Row } from './matrix-cell.ts'
import { footprintOf, type Footprint } from './matrix-footprint.ts'
import { Entrepot } from './process.ts'
import { Program, type Owner } from './programs.ts'
import { startUpstream, type UpstreamSimulator } from './upstream.ts'

const ROOT = path.join(import.meta.dirname, '../..')
const CLIENTS = [1, 20] as const
const AT_ONCE = 24

/** Nothing is wrong. */
const GOOD_DAY: Fault = { name: 'a good day', section: '4.4', begin: () => undefined, endings: {} }

export class Matrix {
  readonly entrepot: Entrepot
  readonly root: string
  readonly #cells: readonly Cell[]
  readonly #warming: readonly Cell[]
  readonly #upstreams: ReadonlyMap<string, UpstreamSimulator>

  private constructor(
    entrepot: Entrepot,
    root: string,
    cells: { all: readonly Cell[]; warming: readonly Cell[] },
    upstreams: ReadonlyMap<string, UpstreamSimulator>,
  ) {
    this.entrepot = entrepot
    this.root = root
    this.#cells = cells.all
    this.#warming = cells.warming
    this.#upstreams = upstreams
  }

  static async start(owner: Owner, dir: string, faults: readonly Fault[]): Promise<Matrix> {
    const all = cellsOf(faults, 'f')
    const warming = [
      ...cellsOf(
        Array.from({ length: 8 }, () => GOOD_DAY),
        'good',
      ),
      ...cellsOf(
        faults.filter((_, position) => position % 12 === 0),
        'warm',
      ),
    ]
    const upstreams = new Map<string, UpstreamSimulator>()
    const configured: Record<string, unknown> = {}
    for (const { key, fault } of [...warming, ...all]) {
      const upstream = await startUpstream(fault.upstream)
      upstreams.set(key, upstream)
      configured[key] = { url: upstream.url, timeouts: TIMEOUTS, ...fault.settings }
    }
    owner.teardown(() => Promise.all([...upstreams.values()].map((it) => it.close())))
    const root = path.join(dir, 'data')
    const file = path.join(dir, 'config.yaml')
    const cache = { tagTtl: 0 }
    writeFileSync(file, stringify({ server: { port: 0 }, storage: { root }, cache, upstreams: configured }))
    return new Matrix(await startAsUsersDo(owner, file), root, { all, warming }, upstreams)
  }

  /** Every kind of work that there is, as many at once as there will ever be. */
  async warmUp(): Promise<Row[]> {
    return this.#run(this.#warming)
  }

  async run(): Promise<Row[]> {
    return this.#run(this.#cells)
  }

  footprint(): Promise<Footprint> {
    return footprintOf(this.entrepot)
  }

  async #run(cells: readonly Cell[]): Promise<Row[]> {
    // What waits longest first; the table is in the order of the faults all the same.
    const waiting = CACHE_STATES.toReversed().flatMap((state) => cells.filter((it) => it.state === state))
    const rows = new Map<Cell, Row>()
    const worker = async (): Promise<void> => {
      for (let cell = waiting.shift(); cell !== undefined; cell = waiting.shift()) {
        const row = await new CellRun(cell, this.#upstreams.get(cell.key)!, this.entrepot.url).run()
        const alive = (await this.#isAlive()) ? [] : ['the process died']
        rows.set(cell, { ...row, problems: [...row.problems, ...alive] })
      }
    }
    await Promise.all(Array.from({ length: AT_ONCE }, worker))
    return cells.map((cell) => rows.get(cell)!)
  }

  async #isAlive(): Promise<boolean> {
    try {
      return (await fetch(`${this.entrepot.url}/livez`, { signal: AbortSignal.timeout(5_000) })).ok
    } catch {
      return false
    }
  }
}

function cellsOf(faults: readonly Fault[], prefix: string): Cell[] {
  return faults.flatMap((fault, position) =>
    CACHE_STATES.flatMap((state) =>
      CLIENTS.map((clients): Cell => {
        const key = `${prefix}${position}-${state.replace(' ', '-')}-${clients}.test`
        return { fault, state, clients, key }
      }),
    ),
  )
}

async function startAsUsersDo(owner: Owner, file: string): Promise<Entrepot> {
  const { scripts } = JSON.parse(readFileSync(path.join(ROOT, 'package.json'), 'utf8')) as {
    scripts: { start: string }
  }
  // Without npm between: the process has to be the one that is measured. No proxy and no setting of this machine.
  const env = {
    PATH: `${path.dirname(process.execPath)}:${process.env['PATH'] ?? ''}`,
    HOME: path.dirname(file),
  }
  const command = `cd "$1" && ${scripts.start} --config "$0"`
  return Entrepot.follow(new Program(owner, 'sh', ['-c', command, file, ROOT], env))
}
