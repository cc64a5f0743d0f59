/**
 * The upstreams of the configuration as it is now, and those it had before that somebody still uses.
 *
 * One whose settings have not changed stays what it is, with its connections, its breaker and all it remembers.
 * Who is replaced or taken away is asked only for what somebody waits for already; it is closed when nothing has been
 * under way for longer than any transfer pauses between two of its questions.
 */
import { isDeepStrictEqual } from 'node:util'
import type { Config, UpstreamConfig } from '../../config/schema.ts'
import { createEntry, type UpstreamTools } from './upstreams.ts'
import type { UpstreamEntry } from '../../registry/registry.ts'
import { InFlight } from '../../upstream/transport/in-flight.ts'

const QUIET_MS = 90_000
const LOOK_EVERY_MS = 15_000

/** What is about names and freshness, not about how the upstream is asked. */
const OF_THE_ENTRY = {
  aliases: undefined,
  default: undefined,
  allow: undefined,
  deny: undefined,
  tagTtl: undefined,
  immutableTags: undefined,
  on404: undefined,
  reserve: undefined,
  maxSize: undefined,
}

interface Member {
  readonly config: UpstreamConfig
  readonly entry: UpstreamEntry
  readonly activity: InFlight
}

export class UpstreamSet implements AsyncDisposable {
  readonly #tools: Omit<UpstreamTools, 'activity'>
  #members = new Map<string, Member>()
  readonly #leaving = new Set<Member>()
  #timer: NodeJS.Timeout | undefined

  constructor(tools: Omit<UpstreamTools, 'activity'>) {
    this.#tools = tools
  }

  get entries(): readonly UpstreamEntry[] {
    return [...this.#members.values()].map(({ entry }) => entry)
  }

  /** Those that are to be closed. */
  get leaving(): number {
    return this.#leaving.size
  }

  apply(config: Config): void {
    const before = this.#members
    this.#members = new Map(config.upstreams.map((it) => [it.key, this.#member(config, it, before)]))
    const used = new Set([...this.#members.values()].map(({ entry }) => entry.origin.upstream))
    for (const member of before.values()) {
      if (!used.has(member.entry.origin.upstream)) this.#leaving.add(member)
    }
    if (this.#leaving.size > 0)
      this.#timer ??= setInterval(() => void this.closeQuiet(), LOOK_EVERY_MS).unref()
  }

  /** Closes those that nobody uses any more. */
  async closeQuiet(): Promise<void> {
    const quiet = [...this.#leaving].filter(({ activity }) => activity.quietForMs >= QUIET_MS)
    for (const member of quiet) this.#leaving.delete(member)
    if (this.#leaving.size === 0) this.#stopLooking()
    await Promise.all(quiet.map((it) => this.#close(it)))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopLooking()
    const all = [...this.#members.values(), ...this.#leaving]
    this.#leaving.clear()
    await Promise.all(all.map((it) => this.#close(it)))
  }

  #member(config: Config, upstream: UpstreamConfig, before: ReadonlyMap<string, Member>): Member {
    const known = before.get(upstream.key)
    if (known !== undefined && isDeepStrictEqual(known.config, upstream)) return known
    const same = known !== undefined && isDeepStrictEqual(asking(known.config), asking(upstream))
    const activity = same ? known.activity : new InFlight(this.#tools.monotonic)
    const reused = same ? known.entry.origin : undefined
    return {
      config: upstream,
      entry: createEntry(config, upstream, { ...this.#tools, activity }, reused),
      activity,
    }
  }

  async #close({ entry }: Member): Promise<void> {
    const { upstream } = entry.origin
    try {
      await upstream.close()
    } catch (error) {
      this.#tools.log.warn({ upstream: upstream.key, err: error }, 'an upstream could not be closed')
    }
  }

  #stopLooking(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }
}

function asking(upstream: UpstreamConfig): object {
  return { ...upstream, ...OF_THE_ENTRY }
}
