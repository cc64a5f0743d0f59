/**
 * The fault matrix: every fault, in every state of the cache, with one client and with twenty.
 *
 * One real entrepot, started as `npm start` does, goes through all of it with one upstream for each cell, and
 * another one through what happens on a full disk. Many cells run at once: nearly all that they do is wait.
 */
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { request } from 'undici'
import { CACHE_STATES, type CacheState, type Fault } from './faults/fault.ts'
import { CellRun, maxSizeOf, TIMEOUTS, type Cell, type Row } from './matrix-cell.ts'
import { newAgent, pullImage } from './matrix-client.ts'
import { settledFootprint, type Footprint } from './matrix-footprint.ts'
import { FullDisk, startAsUsersDo } from './matrix-process.ts'
import type { Entrepot } from './process.ts'
import type { Owner } from './programs.ts'
import { mountable } from './tmpfs.ts'
import { image } from './images.ts'
import { startUpstream, type UpstreamSimulator } from './upstream.ts'

const CLIENTS = [1, 20] as const
/** Of these states twenty clients see only every so-manyeth fault. */
const FEWER: readonly CacheState[] = ['over budget', 'disk full', 'breaker open']
const EVERY = 6
/** Most of them wait. */
const AT_ONCE = 48
/** More than the manifests that are kept in memory may weigh, all together: from then on one drives out another. */
const VISITED_PAD = 64 * 1024
/** More than a chunk, so that all buffers of the pool are in use when so many are pulled at once. */
const VISITED_LAYERS = [600 * 1024, 20 * 1024]
/** A little longer than the budget is looked at by itself. */
const EVICTED_MS = 40_000
/** Longer than all that any cell waits for. */
const STUCK_MS = 400_000
/** A machine that takes longer to say that it lives is busy enough. */
const BUSY_MS = 150

/** Nothing is wrong. */
const GOOD_DAY: Fault = { name: 'a good day', section: '4.4', begin: () => undefined, endings: {} }

export class Matrix {
  readonly entrepot: Entrepot
  readonly root: string
  readonly cells: readonly Cell[]
  /** Every kind of work that there is, on upstreams of its own, and as many at once as there will ever be. */
  readonly warmUp: readonly Cell[]
  /** A good day, for the end. */
  readonly goodDay: readonly Cell[]
  readonly #upstreams: ReadonlyMap<string, UpstreamSimulator>
  /** Without it the state `disk full` is left out. */
  readonly #fullDisk: FullDisk | undefined
  #queue: Promise<void> = Promise.resolve()

  private constructor(
    entrepot: Entrepot,
    root: string,
    cells: { all: readonly Cell[]; warmUp: readonly Cell[]; goodDay: readonly Cell[] },
    upstreams: ReadonlyMap<string, UpstreamSimulator>,
    fullDisk: FullDisk | undefined,
  ) {
    this.entrepot = entrepot
    this.root = root
    this.#fullDisk = fullDisk
    this.cells = cells.all
    this.warmUp = cells.warmUp
    this.goodDay = cells.goodDay
    this.#upstreams = upstreams
  }

  static async start(owner: Owner, dir: string, faults: readonly Fault[]): Promise<Matrix> {
    const all = cellsOf(faults, 'f').filter(({ state }) => state !== 'disk full' || mountable)
    const warmUp = [
      ...cellsOf(
        Array.from({ length: 6 }, () => GOOD_DAY),
        'good',
      ),
      ...cellsOf(
        faults.filter((_, position) => position % 20 === 0),
        'warm',
      ),
    ].filter(({ state }) => state !== 'disk full')
    const goodDay = cellsOf([GOOD_DAY], 'last').filter(({ state }) => state !== 'disk full' || mountable)
    const upstreams = new Map<string, UpstreamSimulator>()
    const configured: Record<string, unknown> = {}
    const onFullDisk: Record<string, unknown> = {}
    for (const [position, cell] of [...warmUp, ...all, ...goodDay].entries()) {
      const { key, fault, state } = cell
      const upstream = await startUpstream({ host: hostOf(position, fault), ...fault.upstream })
      upstreams.set(key, upstream)
      const maxSize = maxSizeOf(cell)
      const settings = { url: upstream.url, timeouts: TIMEOUTS, ...fault.settings }
      const mine = state === 'disk full' ? onFullDisk : configured
      mine[key] = { ...settings, ...(maxSize === undefined ? {} : { maxSize: `${maxSize}B` }) }
    }
    owner.teardown(() => Promise.all([...upstreams.values()].map((it) => it.close())))
    const root = path.join(dir, 'data')
    const cells = { all, warmUp, goodDay }
    const fullDisk = mountable ? await FullDisk.start(owner, dir, onFullDisk) : undefined
    return new Matrix(await startAsUsersDo(owner, dir, root, configured), root, cells, upstreams, fullDisk)
  }

  /** What is wrong on the full disk when everything is over; its server has ended then. */
  async wrongOnFullDisk(): Promise<string[]> {
    return (await this.#fullDisk?.wrong()) ?? []
  }

  /** Sentences: of upstreams that have more of the disk than they may, also after a while. */
  async overBudget(): Promise<string[]> {
    const deadline = performance.now() + EVICTED_MS
    for (;;) {
      const { body } = await request(`${this.entrepot.url}/metrics`, { reset: true })
      const lines = await body.text()
      const over = this.cells.flatMap((cell) => {
        const [, bytes] =
          new RegExp(`^entrepot_cache_bytes{upstream="${cell.key}"} (\\d+)$`, 'm').exec(lines) ?? []
        const most = maxSizeOf(cell) ?? Infinity
        return Number(bytes ?? 0) > most ? [`${cell.key} has ${bytes} bytes instead of ${most}`] : []
      })
      if (over.length === 0 || performance.now() > deadline) return over
      await sleep(1_000)
    }
  }

  footprint(): Promise<Footprint> {
    return settledFootprint(this.entrepot)
  }

  /** So that what entrepot keeps of every upstream, however its day ends, is there: the cache of a repository. */
  async visitAll(): Promise<void> {
    const agent = newAgent()
    const full = new Set(
      [...this.cells, ...this.goodDay].filter(({ state }) => state === 'disk full').map(({ key }) => key),
    )
    const waiting = [...this.#upstreams].filter(([key]) => !full.has(key))
    const worker = async (): Promise<void> => {
      for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
        const [key, upstream] = next
        upstream.addImage('visited/app', '1', image({ layers: VISITED_LAYERS, pad: VISITED_PAD, seed: key }))
        const base = `${this.entrepot.url}/v2/${key}/visited/app`
        const signal = AbortSignal.timeout(30_000)
        const { outcome } = await pullImage({ base, tag: '1', agent, signal, known: () => undefined })
        if (outcome === 'broken' || outcome === 'hang') throw new Error(`${key} was not served: ${outcome}`)
      }
    }
    await Promise.all(Array.from({ length: 2 * AT_ONCE }, worker))
    await agent.destroy()
    for (const upstream of this.#upstreams.values()) upstream.closeIdleConnections()
  }

  /** Each cell once: its upstream is gone afterwards. */
  async run(cells: readonly Cell[]): Promise<Row[]> {
    // What waits longest first; the table is in the order of the faults all the same.
    const waiting = CACHE_STATES.toReversed().flatMap((state) => cells.filter((it) => it.state === state))
    const rows = new Map<Cell, Row>()
    const worker = async (): Promise<void> => {
      for (let cell = waiting.shift(); cell !== undefined; cell = waiting.shift()) {
        const mirror = this.#mirrorOf(cell)
        await this.#oneByOne(() => this.#untilIdle(mirror))
        const row = await new CellRun(cell, this.#upstreams.get(cell.key)!, mirror.url).run(STUCK_MS)
        const died = (await livesWithin(mirror)) === undefined ? ['the process died'] : []
        rows.set(cell, { ...row, problems: [...row.problems, ...died] })
      }
    }
    await Promise.all(Array.from({ length: AT_ONCE }, worker))
    return cells.map((cell) => rows.get(cell)!)
  }

  #oneByOne(work: () => Promise<void>): Promise<void> {
    return (this.#queue = this.#queue.then(work))
  }

  /** So that no answer is late because too much is asked at once. */
  async #untilIdle(mirror: Entrepot): Promise<void> {
    while (((await livesWithin(mirror)) ?? 0) > BUSY_MS) await sleep(10)
  }

  #mirrorOf({ state }: Cell): Entrepot {
    return state === 'disk full' && this.#fullDisk !== undefined ? this.#fullDisk.entrepot : this.entrepot
  }
}

/** How long it took to say so, in milliseconds; undefined: it does not live. */
async function livesWithin(entrepot: Entrepot): Promise<number | undefined> {
  const asked = performance.now()
  try {
    // On a connection of its own, which is gone afterwards: they are counted.
    const signal = AbortSignal.timeout(10_000)
    const { statusCode, body } = await request(`${entrepot.url}/livez`, { reset: true, signal })
    await body.dump()
    return statusCode === 200 ? performance.now() - asked : undefined
  } catch {
    return undefined
  }
}

function cellsOf(faults: readonly Fault[], prefix: string): Cell[] {
  return faults.flatMap((fault, position) =>
    CACHE_STATES.flatMap((state) =>
      CLIENTS.filter((it) => it === 1 || !FEWER.includes(state) || position % EVERY === 0).map(
        (clients): Cell => {
          const key = `${prefix}${position}-${state.replaceAll(' ', '-')}-${clients}.test`
          return { fault, state, clients, key }
        },
      ),
    ),
  )
}

/**
 * A port that an upstream gives up may be somebody else's a moment later; an address of its own is nobody's. The
 * certificates are for one address only.
 */
function hostOf(position: number, { upstream }: Fault): string {
  return upstream?.tls === undefined ? `127.77.${position >> 8}.${position & 255}` : '127.0.0.1'
}
