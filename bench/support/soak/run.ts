/**
 * Years of a mirror's life in some minutes: clients that pull, push and go away, upstreams with bad days, tags that
 * move, a budget that is always too small, collections, evictions, scrubs, and configurations that change.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { randomOf } from '../../../test/support/power-loss-luck.ts'
import { Server } from '../server.ts'
import { Asking, type Failure } from './asking.ts'
import { Clients } from './clients.ts'
import { diskOf, sampleOf, type Disk, type Sample } from './figures.ts'
import { Pushes } from './pushed.ts'
import { DRIZZLES, STORMS, Weather } from './weather.ts'
import { World } from './world.ts'

const MiB = 1024 * 1024
const SECOND = 1000
/** Longer than the slowest push takes, on a machine that is very busy: nobody may collect what it has sent so far. */
const GRACE = '30s'
/** A command is a process of its own: no more often than that. */
const LEAST_MS = 4 * SECOND
/** How long an upstream has good and bad days. */
const GOOD: readonly [number, number] = [12 * SECOND, 40 * SECOND]
const BAD: readonly [number, number] = [2 * SECOND, 6 * SECOND]
/** Whatever a storm leaves behind, downloads that nobody waits for any more included. */
const KEPT_MS = 150 * SECOND
const SETTLED_MS = 60 * SECOND

export interface SoakOptions {
  readonly minutes: number
  /** On a slow machine it goes on after its time until so many were made; 0 when left out. */
  readonly minRequests?: number
  /** At the most. */
  readonly requests: number
  readonly clients: number
  /** What may be mirrored. */
  readonly budgetMiB: number
  readonly seed: number
  /** In how many parts the time is told of; after the first one all is warm. */
  readonly lines: number
  readonly print: (line: string) => void
}

export interface SoakResult {
  readonly requests: number
  readonly servedBytes: number
  readonly injected: number
  readonly failures: readonly Failure[]
  readonly weather: Readonly<Record<string, number>>
  /** After the first part of the time, and when all was over. */
  readonly start: Sample
  readonly end: Sample
  readonly disk: Disk
  readonly pushes: { readonly acknowledged: number; readonly deleted: number; readonly alive: number }
  readonly operations: Readonly<Record<string, number>>
}

export async function soak(options: SoakOptions): Promise<SoakResult> {
  await using run = await Run.start(options)
  return await run.toTheEnd()
}

class Run implements AsyncDisposable {
  readonly #options: SoakOptions
  readonly #world: World
  readonly #server: Server
  readonly #weather: Weather
  readonly #asking: Asking
  readonly #pushes: Pushes
  readonly #random: () => number
  readonly #over = new AbortController()
  readonly #operations: Record<string, number> = {}
  readonly #began = performance.now()

  private constructor(options: SoakOptions, world: World, server: Server) {
    this.#options = options
    this.#world = world
    this.#server = server
    this.#random = randomOf(options.seed)
    this.#weather = new Weather()
    this.#asking = new Asking(server.url, server.root, this.#weather)
    this.#pushes = new Pushes(this.#asking, this.#random, 40)
  }

  static async start(options: SoakOptions): Promise<Run> {
    const world = await World.start(options.budgetMiB * MiB)
    try {
      return new Run(options, world, await Server.start('', { config: configOf(world, options, false) }))
    } catch (error) {
      await world[Symbol.asyncDispose]()
      throw error
    }
  }

  async toTheEnd(): Promise<SoakResult> {
    const { minutes, minRequests = 0, requests, clients, lines, budgetMiB } = this.#options
    const until = this.#began + minutes * 60 * SECOND
    const isTooFew = (): boolean => this.#asking.requests <= minRequests
    const goOn = (): boolean =>
      (performance.now() < until || isTooFew()) && this.#asking.requests < requests && this.#server.running
    const crowd = new Clients({
      ...{ world: this.#world, asking: this.#asking, pushes: this.#pushes, random: this.#random, goOn },
    })
    const samples: Sample[] = []
    const everyMs = (minutes * 60 * SECOND) / lines
    const beside = [
      ...[...this.#world.upstreams].map(([key]) => this.#days(key)),
      this.#everyNowAndThen(2 * SECOND, () => this.#moveTag()),
      this.#everyNowAndThen(this.#scaled(20 * SECOND), () => this.#command('gc')),
      this.#everyNowAndThen(this.#scaled(30 * SECOND), () =>
        this.#command('evict', '--to', `${String(budgetMiB >> 1)}MiB`),
      ),
      this.#everyNowAndThen(this.#scaled(25 * SECOND), () => this.#offlineForAWhile()),
      this.#everyNowAndThen(everyMs, async () => {
        samples.push(await this.#sample())
      }),
    ]
    await crowd.run(clients)
    this.#over.abort()
    await Promise.all(beside)
    if (!this.#server.running) throw new Error('entrepot has ended')
    const last = await this.#sample()
    return await this.#result(samples[0] ?? last)
  }

  async #result(start: Sample): Promise<SoakResult> {
    await this.#settle()
    await this.#pushes.lookAtAll()
    await this.#command('gc')
    await this.#command('verify')
    // Also counts what is there.
    await this.#command('evict')
    await this.#asking.leave()
    const end = await this.#rest(start)
    const disk = diskOf(this.#server.root)
    if (disk.blobs + disk.parts + disk.answers !== end.mirroredBytes + end.pushedBytes) {
      const account = `${String(end.mirroredBytes)} and ${String(end.pushedBytes)}`
      this.#asking.fail('the account', `${account} is not what is on the disk: ${JSON.stringify(disk)}`)
    }
    for (const line of this.#server.alarms) this.#asking.fail('the log', line)
    const { requests, bytes: servedBytes, injected, failures } = this.#asking
    const { acknowledged, deleted, alive } = this.#pushes
    return {
      ...{ requests, servedBytes, injected, failures, start, end, disk },
      weather: Object.fromEntries(this.#weather.seen),
      pushes: { acknowledged, deleted, alive },
      operations: this.#operations,
    }
  }

  /** Until nothing is fetched any more. */
  async #settle(): Promise<Sample> {
    const deadline = performance.now() + SETTLED_MS
    for (let quiet = 0; quiet < 3;) {
      await sleep(500)
      const { fills } = await sampleOf(this.#server)
      quiet = fills === 0 ? quiet + 1 : 0
      if (performance.now() < deadline) continue
      this.#asking.fail('the end', `${String(fills)} downloads do not end`)
      break
    }
    return sampleOf(this.#server)
  }

  /** Connections to upstreams, also to those that a reload has replaced, are kept for a while after their last use. */
  async #rest(start: Sample): Promise<Sample> {
    const deadline = performance.now() + KEPT_MS
    for (;;) {
      const end = await this.#settle()
      if (end.descriptors <= start.descriptors || performance.now() > deadline) return end
    }
  }

  async #sample(): Promise<Sample> {
    const it = await sampleOf(this.#server)
    const inMiB = (bytes: number): string => (bytes / MiB).toFixed(0)
    const columns = [
      `${((performance.now() - this.#began) / 60_000).toFixed(1)} min`,
      `${String(this.#asking.requests)} requests`,
      `${inMiB(it.residentBytes)} MiB resident`,
      `${String(it.descriptors)} fds`,
      `p99 ${it.lagP99Ms.toFixed(0)} ms`,
      `${inMiB(it.mirroredBytes)} MiB mirrored`,
      `${inMiB(it.pushedBytes)} pushed`,
      `${inMiB(it.evictedBytes)} evicted`,
      `${String(this.#asking.injected)} injected`,
      `${String(this.#asking.failures.length)} failed`,
    ]
    this.#options.print(columns.join('  '))
    return it
  }

  /** Of one upstream: one has all kinds, one only what must not be felt, one none. */
  async #days(key: string): Promise<void> {
    const kinds = key === 'docker.io' ? [...STORMS, ...DRIZZLES] : key === 'quay.io' ? DRIZZLES : []
    const upstream = this.#world.upstreams.get(key)
    if (kinds.length === 0 || upstream === undefined) return
    for (let number = 0; await this.#wait(this.#between(GOOD)); number++) {
      const kind = kinds[number % kinds.length]
      if (kind === undefined) return
      const end = await this.#weather.begin(key, upstream, kind)
      await this.#wait(this.#between(BAD))
      await end()
    }
  }

  async #moveTag(): Promise<void> {
    const it = this.#world.tags[Math.floor(this.#random() * this.#world.tags.length)]
    if (it !== undefined) this.#world.move(it, this.#random() < 0.5 ? 0 : 1)
    await Promise.resolve()
  }

  /** By a configuration that is read again, and then once more as it was. */
  async #offlineForAWhile(): Promise<void> {
    const finish = this.#weather.record('quay.io', { name: 'offline', storm: true, wake: 5 * SECOND })
    this.#server.reconfigure(configOf(this.#world, this.#options, true))
    await this.#wait(this.#between(BAD))
    this.#server.reconfigure(configOf(this.#world, this.#options, false))
    finish()
    this.#count('reload')
  }

  async #command(...words: string[]): Promise<void> {
    const { code, output } = await this.#server.command(words)
    this.#count(words[0] ?? '')
    if (code !== 0) this.#asking.fail(`entrepot ${words.join(' ')}`, `ended with ${String(code)}: ${output}`)
  }

  #count(operation: string): void {
    this.#operations[operation] = (this.#operations[operation] ?? 0) + 1
  }

  async #everyNowAndThen(ms: number, act: () => Promise<void>): Promise<void> {
    while (await this.#wait(ms)) await act()
  }

  #between([least, most]: readonly [number, number]): number {
    return this.#scale * (least + this.#random() * (most - least))
  }

  #scaled(ms: number): number {
    return Math.max(LEAST_MS, this.#scale * ms)
  }

  /** A short run has short days. */
  get #scale(): number {
    return Math.min(1, this.#options.minutes / 3)
  }

  /** False: it is over. */
  async #wait(ms: number): Promise<boolean> {
    await sleep(ms, undefined, { signal: this.#over.signal }).catch(() => undefined)
    return !this.#over.signal.aborted
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over.abort()
    await this.#asking.leave()
    await this.#server[Symbol.asyncDispose]()
    await this.#world[Symbol.asyncDispose]()
  }
}

function configOf(
  world: World,
  { budgetMiB, minutes }: SoakOptions,
  offline: boolean,
): Record<string, unknown> {
  // So that all of it is read several times.
  const scrubInterval = `${String(Math.ceil(minutes * 15))}s`
  const timeouts = { connect: '4s', headers: '4s', idle: '4s' }
  return {
    cache: { maxSize: `${String(budgetMiB)}MiB`, minFree: '64MiB', tagTtl: '3s', scrubInterval },
    local: ['team/own*'],
    push: { gcGrace: GRACE, sessionTtl: '1m' },
    upstreams: Object.fromEntries(
      [...world.upstreams].map(([key, { url }]) => [
        key,
        { url, timeouts, ...(offline && key === 'quay.io' ? { offline: true } : {}) },
      ]),
    ),
  }
}
