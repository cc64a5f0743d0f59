/**
 * One cell of the fault matrix: a fault, what the cache holds when it begins, and so many clients at once.
 *
 * Every cell has an upstream of its own, and so a repository, a memory of failures and a circuit of its own:
 * what happened in another cell can explain nothing here.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { request, type Agent } from 'undici'
import { endingsOf, type CacheState, type Fault } from './faults/fault.ts'
import { image, index, type Content, type Image } from './images.ts'
import { newAgent, pullImage, UNACCEPTABLE, type Outcome, type Pull } from './matrix-client.ts'
import type { UpstreamSimulator } from './upstream.ts'

const KiB = 1024

/** Large enough for a transfer to be in the middle, and for many a hold-back; one that is held back as a whole. */
const LAYERS = [640 * KiB, 20 * KiB]
const REPOSITORY = 'team/app'
const TAG = '1'
/** So many of the clients ask for parts as well. */
const WITH_RANGES = 3
/** What else there is, for a budget to be full. */
const OTHER = 'team/other'
const OTHER_LAYERS = [300 * KiB, 20 * KiB]

/**
 * The mirror's time-outs for an upstream. Long ones would make a matrix of waiting; but a head that is late because
 * this machine is busy is a refusal that nobody deserves, while a body that pauses is only continued.
 */
export const TIMEOUTS = { connect: '3s', headers: '3s', idle: '1s' }

/**
 * How long a pull may take. The head of an answer has its own budget, below; what is long is a body that breaks
 * off: it gets six more chances, each as long as a time-out, with up to 11 s of pauses between them.
 */
const BUDGET_MS: Readonly<Record<CacheState, number>> = {
  cold: 35_000,
  stale: 7_000,
  'in flight': 35_000,
  'over budget': 35_000,
  'disk full': 35_000,
  'breaker open': 5_000,
}
/** Until the head of any answer is there: the mirror's own promise, and a little for a machine that is busy. */
const HEAD_BUDGET_MS: Readonly<Record<CacheState, number>> = {
  cold: 16_000,
  stale: 6_000,
  'in flight': 16_000,
  'over budget': 16_000,
  // They wait for each other's turns.
  'disk full': 25_000,
  // Nobody is waited for; a machine that is busy may be.
  'breaker open': 2_000,
}
/** A breaker that has opened stays so a little longer than that. */
const OPEN_MS = 9_000
/**
 * Until upstream's word is written down. Where a pull joined an earlier one it never is, and another has to be made; but
 * on a machine that is busy a write takes long, and whoever looks too few times would pull again for ever.
 */
const CONFIRMING_LOOKS = 100
/** For what must work without a fault, however many other cells get ready beside it on a machine that is busy. */
const GOOD_DAY_MS = 180_000

export interface Cell {
  readonly fault: Fault
  readonly state: CacheState
  readonly clients: number
  /** Of the upstream in the mirror's configuration. */
  readonly key: string
}

export interface Row extends Cell {
  /** How many pulls ended in which way. */
  readonly outcomes: ReadonlyMap<Outcome, number>
  /** Statuses of refusals. */
  readonly refusals: ReadonlySet<number>
  /** How many answers carried which word in `X-Cache`. */
  readonly words: ReadonlyMap<string, number>
  /** Broken bodies whose beginning was wrong, and parts of a running download that were. */
  readonly unverified: number
  /** What upstream saw. */
  readonly requests: number
  /** What upstream sent, in sizes of the image. */
  readonly ratio: number
  /** The longest pull since the fault began. */
  readonly longestMs: number
  readonly budgetMs: number
  /** Sentences; none when all is well. */
  readonly problems: readonly string[]
}

/**
 * Of an upstream whose budget is to be too small: for one client the other things have to go, for many the large
 * layer may not stay at all.
 */
export function maxSizeOf({ state, clients }: Pick<Cell, 'state' | 'clients'>): number | undefined {
  if (state !== 'over budget') return undefined
  return clients === 1 ? 900 * KiB : 500 * KiB
}

export function budgetOf({ fault, state }: Cell): number {
  return Math.max(BUDGET_MS[state], fault.budgetMs ?? 0)
}

export class CellRun {
  readonly #cell: Cell
  readonly #upstream: UpstreamSimulator
  readonly #image: Image
  readonly #made: Map<string, Buffer>
  readonly #base: string
  readonly #agent: Agent = newAgent()
  readonly #over = new AbortController()
  readonly #pulls: { pull: Pull; endedAt: number }[] = []

  readonly #problems: string[] = []

  constructor(cell: Cell, upstream: UpstreamSimulator, mirror: string) {
    this.#cell = cell
    this.#upstream = upstream
    this.#base = `${mirror}/v2/${cell.key}/`
    this.#image = index({ images: { amd64: image({ layers: LAYERS, seed: cell.key }) } })
    upstream.addImage(REPOSITORY, TAG, this.#image)
    // A fault may take things away upstream; what they were stays right.
    this.#made = new Map([...this.#image.manifests, ...this.#image.blobs].map((it) => [it.digest, it.bytes]))
  }

  /** @throws when it has not come to its end by then: nothing in it may wait so long */
  async run(stuckMs: number): Promise<Row> {
    const over = new AbortController()
    const stuck = sleep(stuckMs, undefined, { signal: over.signal }).then(() => {
      throw new Error(`${this.#cell.key} is stuck: ${this.#cell.fault.name}`)
    })
    try {
      return await Promise.race([this.#run(), stuck])
    } finally {
      over.abort()
    }
  }

  async #run(): Promise<Row> {
    let begunAt = performance.now()
    try {
      begunAt = await this.#live()
    } catch (error) {
      this.#problems.push((error as Error).message)
    } finally {
      this.#over.abort()
      await this.#agent.destroy()
    }
    const row = this.#row(begunAt)
    await this.#upstream.close()
    this.#upstream.holdings.repositories.clear()
    this.#upstream.log.clear()
    return row
  }

  /** Returns when the fault began. */
  async #live(): Promise<number> {
    const { state } = this.#cell
    if (state === 'in flight') return this.#strikeInFlight()
    if (state === 'stale' || state === 'breaker open') await this.#cacheAll(REPOSITORY)
    if (state === 'over budget') {
      this.#upstream.addImage(OTHER, TAG, image({ layers: OTHER_LAYERS, seed: `${this.#cell.key} other` }))
      await this.#cacheAll(OTHER)
    }
    this.#upstream.log.clear()
    if (state === 'breaker open') return this.#leftAlone()
    await this.#begin()
    const begunAt = performance.now()
    using _budget = this.#deadline(budgetOf(this.#cell))
    await Promise.all(this.#clients())
    return begunAt
  }

  /** Upstream is down for a moment, so that it is left alone; when it is back, the fault begins. */
  async #leftAlone(): Promise<number> {
    await this.#upstream.stop()
    const good = this.#deadline(GOOD_DAY_MS)
    const { outcome } = await this.#pull({ repository: OTHER })
    good[Symbol.dispose]()
    if (outcome !== 'refused') throw new Error(`with its upstream down, a pull was ${outcome}`)
    const openedAt = performance.now()
    await this.#upstream.start()
    await this.#begin()
    const begunAt = performance.now()
    using _budget = this.#deadline(budgetOf(this.#cell))
    const elsewhere = this.#pull({ repository: OTHER })
    await Promise.all(this.#clients())
    const other = await elsewhere
    if (other.outcome !== 'refused') this.#problems.push(`what is not here was ${other.outcome}`)
    // A machine that is too busy comes so late that upstream may be asked again.
    if (performance.now() - openedAt > OPEN_MS) return begunAt
    if (this.#upstream.log.count() > 0) this.#problems.push('upstream was asked although it is left alone')
    if (other.durationMs > HEAD_BUDGET_MS['breaker open']) {
      this.#problems.push(`what is not here was refused after ${Math.round(other.durationMs)} ms`)
    }
    return begunAt
  }

  /** The body of the large layer pauses in its middle; when every client has that much, the fault begins. */
  async #strikeInFlight(): Promise<number> {
    const [big] = this.#image.layers
    const half = Math.floor(big!.bytes.length / 2)
    const holds = [
      this.#upstream.fault(
        { method: 'GET', ref: big!.digest, when: ({ headers }) => headers.range === undefined },
        { hang: 'midBody', hangAfterBytes: half },
      ),
      // Where twenty clients take longer for that than the mirror takes a pause for: the rest waits for the fault.
      this.#upstream.fault(
        { method: 'GET', ref: big!.digest, when: ({ headers }) => headers.range !== undefined },
        { hang: 'headers' },
      ),
    ]
    this.#upstream.log.clear()
    let waiting = this.#cell.clients
    const good = this.#deadline(GOOD_DAY_MS)
    let pulls: Promise<unknown>[] = []
    const reached = new Promise<void>((resolve) => {
      pulls = this.#clients(() => {
        let there = false
        return (digest, bytes) => {
          if (there || digest !== big!.digest || bytes < half) return
          there = true
          waiting -= 1
          if (waiting === 0) resolve()
        }
      })
    })
    const all = Promise.all(pulls)
    await Promise.race([reached, all])
    good[Symbol.dispose]()
    if (waiting > 0) throw new Error(`${waiting} clients never got half of the layer`)
    for (const hold of holds) hold.remove()
    await this.#begin()
    const begunAt = performance.now()
    using _budget = this.#deadline(budgetOf(this.#cell))
    await all
    return begunAt
  }

  async #begin(): Promise<void> {
    await this.#cell.fault.begin(this.#upstream, { repo: REPOSITORY, image: this.#image })
  }

  #clients(progress?: () => (digest: string, bytes: number) => void): Promise<void>[] {
    const { clients } = this.#cell
    return Array.from({ length: clients }, async (_, position) => {
      const onProgress = progress?.()
      const pull = await this.#pull({
        ranges: clients > WITH_RANGES && position < WITH_RANGES,
        ...(onProgress === undefined ? {} : { onProgress }),
      })
      this.#pulls.push({ pull, endedAt: performance.now() })
    })
  }

  #pull({
    repository = REPOSITORY,
    ...options
  }: {
    repository?: string
    ranges?: boolean
    onProgress?: (digest: string, bytes: number) => void
  }): Promise<Pull> {
    return pullImage({
      base: this.#base + repository,
      tag: TAG,
      agent: this.#agent,
      signal: this.#over.signal,
      known: (digest) => this.#known(digest),
      ...options,
    })
  }

  /**
   * Until everything is answered from here, and what upstream said of the tag is written down: that happens a little
   * behind the answers, and until then the next pull joins the one before and asks upstream nothing.
   */
  async #cacheAll(repository: string): Promise<void> {
    using _good = this.#deadline(GOOD_DAY_MS)
    for (let hits = 0; hits < 2;) {
      const startedAt = performance.now()
      const { outcome, answers } = await this.#pull({ repository })
      if (outcome !== 'served') throw new Error(`the good day was not good: ${outcome}`)
      const here =
        answers.every(({ cache }) => cache === 'hit') && (await this.#confirmed(repository, startedAt))
      hits = here ? hits + 1 : 0
      await sleep(10)
    }
  }

  /** Whether it was written down, soon, that upstream was asked since; not where the pull joined an earlier one. */
  async #confirmed(repository: string, since: number): Promise<boolean> {
    const url = new URL('/_entrepot/explain', this.#base)
    url.searchParams.set('ref', `${this.#cell.key}/${repository}:${TAG}`)
    for (let look = 0; look < CONFIRMING_LOOKS; look += 1) {
      const { body } = await request(url, { dispatcher: this.#agent })
      const { tag } = (await body.json()) as { tag?: { checkedMsAgo: number } }
      if (tag !== undefined && tag.checkedMsAgo < performance.now() - since) return true
      await sleep(10)
    }
    return false
  }

  #known(digest: string): Buffer | undefined {
    const made = this.#made.get(digest)
    if (made !== undefined) return made
    for (const { manifests, blobs } of this.#upstream.holdings.repositories.values()) {
      const found: Content | undefined = manifests.get(digest) ?? blobs.get(digest)
      if (found !== undefined) return found.bytes
    }
    return undefined
  }

  #deadline(ms: number): Disposable {
    const timer = setTimeout(() => this.#over.abort(), ms)
    return {
      [Symbol.dispose]: () => {
        clearTimeout(timer)
      },
    }
  }

  #row(begunAt: number): Row {
    const { fault, state, clients } = this.#cell
    const { log } = this.#upstream
    const answers = this.#pulls.flatMap(({ pull }) => pull.answers)
    const outcomes = tally(this.#pulls.map(({ pull }) => pull.outcome))
    const budgetMs = budgetOf(this.#cell)
    const longestMs = Math.max(0, ...this.#pulls.map(({ endedAt }) => endedAt - begunAt))
    const sent = log.bytesSent(
      ({ kind, status }) => ['manifest', 'blob', 'cdn'].includes(kind) && status < 300,
    )
    const size = [...this.#made.values()].reduce((sum, { length }) => sum + length, 0)
    const endings = endingsOf(fault, state)
    // Where nothing can be kept each of many has a stream of its own; whose turn does not come is told so.
    const allowed: readonly Outcome[] =
      state === 'disk full' && clients > 1 ? [...endings, 'refused'] : endings
    const problems = [...this.#problems]
    if (this.#pulls.length < clients) problems.push(`${clients - this.#pulls.length} pulls did not end`)
    for (const outcome of outcomes.keys()) {
      if (allowed.includes(outcome)) continue
      const culprit = answers.find((answer) => answer.outcome === outcome)
      const never = (UNACCEPTABLE as readonly string[]).includes(outcome) ? 'never' : allowed.join(' or ')
      const { what = 'nothing', status = 0, message = '' } = culprit ?? {}
      problems.push(`${outcome} instead of ${never}: ${what}, status ${status} ${message}`.trimEnd())
    }
    const slowHead = Math.max(0, ...answers.map(({ headMs }) => headMs))
    if (slowHead > HEAD_BUDGET_MS[state]) problems.push(`a head came after ${Math.round(slowHead)} ms`)
    return {
      ...this.#cell,
      outcomes,
      refusals: new Set(answers.filter(({ outcome }) => outcome === 'refused').map(({ status }) => status)),
      words: tally(answers.flatMap(({ cache }) => cache ?? [])),
      unverified: answers.filter((answer) => answer.wrongPrefix || answer.unverified).length,
      requests: log.count(),
      ratio: sent / size,
      longestMs,
      budgetMs,
      problems,
    }
  }
}

function tally<T>(values: readonly T[]): Map<T, number> {
  const counts = new Map<T, number>()
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1)
  return counts
}
