/**
 * One real client before a mirror: each of its commands, in each state of the cache and of the registry behind it.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Test } from 'tap'
import { ACCEPT_MANIFESTS } from '../../../src/oci/descriptor.ts'
import { Entrepot } from '../../support/process.ts'
import { shortDir } from '../../support/programs.ts'
import type { Behaviour } from '../../support/upstream-rules.ts'
import { startUpstream, type UpstreamSimulator } from '../../support/upstream.ts'
import type { Place, RealClient, Verb } from './client.ts'
import { NEWEST_ONE, stock, stockChart, TAGS, type Goods } from './goods.ts'

/**
 * With nothing here, with all of it, and then under what befalls upstream. `first asked` is of what somebody else has
 * pulled: the registry was gone before the command, and what it asks for, was ever heard of.
 */
export type State =
  'cold' | 'hot' | 'hanging' | 'limited' | 'stopped' | 'first asked' | 'restarted' | 'offline'

export interface Cell {
  readonly tookMs: number
  /** What the client said; undefined: it got what it asked for. */
  readonly failure: string | undefined
}

export interface Row {
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

const HANGING: Behaviour = { hang: 'headers' }
const LIMITED: Behaviour = { status: 429, retryAfter: 60 }

interface Line {
  readonly row: Row
  readonly registry: string
  /** For this command alone. */
  readonly asked: Stand
  /** Pulled by somebody else before. */
  readonly warmed: Stand
}

interface Stand {
  readonly repository: string
  readonly goods: Goods
}

/** @param quick only what takes no time: nothing is waited for, and nothing restarted */
export async function tryClient(t: Test, client: RealClient, { quick }: { quick: boolean }): Promise<Row[]> {
  const trial = new Trial(t)
  await trial.open(client)
  await trial.run('cold')
  await trial.settle()
  const fetched = trial.blobsSent
  await trial.run('hot')
  t.equal(trial.blobsSent, fetched, 'hot: no blob came again')
  if (!quick) {
    // Each begins with a process that knows of no trouble yet.
    await trial.restart()
    await trial.run('hanging', HANGING)
    await trial.restart()
    await trial.run('limited', LIMITED)
    await trial.restart()
    await trial.warm()
    await trial.settle()
  }
  await trial.stopUpstreams()
  await trial.run('stopped')
  if (quick) return trial.rows
  await trial.run('first asked')
  await trial.restart()
  await trial.run('restarted')
  await trial.restart({ offline: true })
  await trial.run('offline')
  return trial.rows
}

class Trial {
  readonly #test: Test
  readonly #dir: string
  readonly #upstreams = new Map<string, UpstreamSimulator>()
  #lines: readonly Line[] = []
  #entrepot: Entrepot | undefined

  constructor(t: Test) {
    this.#test = t
    this.#dir = shortDir(t)
  }

  async open(client: RealClient): Promise<void> {
    for (const { registry, referrersApi } of REGISTRIES) {
      const upstream = await startUpstream({ referrers: referrersApi ? 'ok' : 'unsupported' })
      this.#test.teardown(() => upstream.close())
      this.#upstreams.set(registry, upstream)
    }
    const verbs = await client.open(this.#test)
    this.#lines = REGISTRIES.flatMap(({ registry, referrersApi }) => {
      // Who asks for no referrers meets no difference.
      const different = verbs.filter(({ kind }) => referrersApi || kind === 'verify')
      return different.map((verb, position) => {
        const row = { client: client.name, verb, referrersApi, cells: new Map<State, Cell>() }
        const stand = (folder: string): Stand => this.#stock(`${folder}/verb-${position}`, registry, row)
        return { row, registry, asked: stand('asked'), warmed: stand('warmed') }
      })
    })
    await this.restart()
  }

  get rows(): Row[] {
    return this.#lines.map(({ row }) => row)
  }

  /** How often a blob was asked of upstream. */
  get blobsSent(): number {
    return this.#count((upstream) => upstream.log.count({ kind: 'blob', method: 'GET' }))
  }

  /** Every command, one after the other, while upstream behaves like this. */
  async run(state: State, behaviour: Behaviour = {}): Promise<void> {
    const rules = [...this.#upstreams.values()].map((upstream) => upstream.fault({}, behaviour))
    for (const line of this.#lines) line.row.cells.set(state, await this.#cell(line, state))
    for (const rule of rules) rule.remove()
  }

  /** Somebody else pulls all platforms, and asks for no list and no referrer. */
  async warm(): Promise<void> {
    for (const { registry, warmed, row } of this.#lines) {
      const base = `${this.#running.url}/v2/${registry}/${warmed.repository}`
      for (const tag of row.verb.chart ? [NEWEST_ONE] : TAGS) await pullAll(base, 'manifests', tag)
    }
  }

  /** What follows a pull in the background ends when nothing is left of it and upstream is not asked any more. */
  async settle(): Promise<void> {
    const asked = (): number => this.#count((upstream) => upstream.log.count())
    const running = (): Promise<number> => this.#running.metric('entrepot_prefetches_in_flight')
    for (let before = -1; before !== asked() || (await running()) > 0;) {
      before = asked()
      await sleep(500)
    }
  }

  async stopUpstreams(): Promise<void> {
    for (const upstream of this.#upstreams.values()) await upstream.stop()
  }

  /** A new process in the same folder. */
  async restart({ offline } = { offline: false }): Promise<void> {
    await this.#entrepot?.program.stop()
    const upstreams = [...this.#upstreams].map(([registry, { url }]) => [registry, { url }] as const)
    const config = {
      // Whatever can be asked again is: what has befallen upstream is noticed at once.
      cache: { tagTtl: 0, negativeTtl: 0, offline },
      upstreams: Object.fromEntries(upstreams),
    }
    this.#entrepot = await Entrepot.start(this.#test, { dir: this.#dir, config })
  }

  get #running(): Entrepot {
    if (this.#entrepot === undefined) throw new Error('nothing was opened')
    return this.#entrepot
  }

  #stock(repository: string, registry: string, { verb, referrersApi }: Row): Stand {
    const upstream = this.#upstreams.get(registry)
    if (upstream === undefined) throw new Error(`there is no ${registry}`)
    const images = verb.chart ? `${repository}/image` : repository
    if (verb.chart) stockChart(upstream, repository)
    return {
      repository,
      goods: stock(upstream, images, { referrersApi, words: `this is ${registry}/${images}` }),
    }
  }

  async #cell({ row, registry, asked, warmed }: Line, state: State): Promise<Cell> {
    const { repository, goods } = state === 'first asked' ? warmed : asked
    const host = `127.0.0.1:${this.#running.port}`
    const dir = mkdtempSync(join(tmpdir(), 'e-'))
    const place: Place = {
      ...{ host, registry, repository, goods, dir },
      name: `${host}/${registry}/${repository}`,
      complete: state !== 'first asked',
    }
    const began = performance.now()
    let failure: string | undefined
    try {
      await row.verb.run(place)
    } catch (error) {
      failure = error instanceof Error ? error.message : String(error)
    } finally {
      rmSync(dir, { recursive: true, force: true, maxRetries: 5 })
    }
    return { tookMs: performance.now() - began, failure }
  }

  #count(of: (upstream: UpstreamSimulator) => number): number {
    return [...this.#upstreams.values()].reduce((sum, upstream) => sum + of(upstream), 0)
  }
}

/** What `reference` names, with everything below it. */
async function pullAll(base: string, kind: 'manifests' | 'blobs', reference: string): Promise<void> {
  const answer = await fetch(`${base}/${kind}/${reference}`, { headers: { accept: ACCEPT_MANIFESTS } })
  const text = await answer.text()
  if (!answer.ok) throw new Error(`${base}/${kind}/${reference}: ${answer.status} ${text}`)
  if (kind === 'blobs') return
  const parsed = JSON.parse(text) as {
    manifests?: { digest: string }[]
    config?: { digest: string }
    layers?: { digest: string }[]
  }
  const { manifests = [], config, layers = [] } = parsed
  for (const { digest } of manifests) await pullAll(base, 'manifests', digest)
  for (const { digest } of [...(config === undefined ? [] : [config]), ...layers])
    await pullAll(base, 'blobs', digest)
}
