/**
 * Set of upstreams: those of the present configuration, and those of earlier ones that are still in use.
 *
 * An upstream with unchanged settings keeps its connections, its breaker and its caches over a reload. One that was
 * replaced or removed serves only the transfers that have begun; it is closed after 90 s without a request, longer
 * than any transfer pauses between two requests.
 */
import { isDeepStrictEqual } from 'node:util'
import type { Config, UpstreamConfig } from '../../config/schema.ts'
import { createEntry, type UpstreamTools } from './upstreams.ts'
import type { UpstreamEntry } from '../../registry/registry.ts'
import { InFlight } from '../../upstream/transport/in-flight.ts'

const QUIET_MS = 90_000
const CHECK_EVERY_MS = 15_000

/** Settings of names and freshness: changing them needs no new client of the upstream. */
const ENTRY_SETTINGS = {
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
  readonly inFlight: InFlight
}

export class UpstreamSet implements AsyncDisposable {
  readonly #tools: Omit<UpstreamTools, 'inFlight'>
  #members = new Map<string, Member>()
  readonly #leaving = new Set<Member>()
  #timer: NodeJS.Timeout | undefined

  constructor(tools: Omit<UpstreamTools, 'inFlight'>) {
    this.#tools = tools
  }

  get entries(): readonly UpstreamEntry[] {
    return [...this.#members.values()].map(({ entry }) => entry)
  }

  /** The number of upstreams that wait to be closed. */
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
      this.#timer ??= setInterval(() => void this.closeQuiet(), CHECK_EVERY_MS).unref()
  }

  /** Closes the replaced and removed upstreams that have been idle for long enough. */
  async closeQuiet(): Promise<void> {
    const quiet = [...this.#leaving].filter(({ inFlight }) => inFlight.quietForMs >= QUIET_MS)
    for (const member of quiet) this.#leaving.delete(member)
    if (this.#leaving.size === 0) this.#stopTimer()
    await Promise.all(quiet.map((it) => this.#close(it)))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopTimer()
    const all = [...this.#members.values(), ...this.#leaving]
    this.#leaving.clear()
    await Promise.all(all.map((it) => this.#close(it)))
  }

  #member(config: Config, upstream: UpstreamConfig, before: ReadonlyMap<string, Member>): Member {
    const known = before.get(upstream.key)
    if (known !== undefined && isDeepStrictEqual(known.config, upstream)) return known
    const same =
      known !== undefined && isDeepStrictEqual(clientSettings(known.config), clientSettings(upstream))
    const inFlight = same ? known.inFlight : new InFlight(this.#tools.monotonic)
    const reused = same ? known.entry.origin : undefined
    return {
      config: upstream,
      entry: createEntry(config, upstream, { ...this.#tools, inFlight }, reused),
      inFlight,
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

  #stopTimer(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }
}

function clientSettings(upstream: UpstreamConfig): object {
  return { ...upstream, ...ENTRY_SETTINGS }
}
