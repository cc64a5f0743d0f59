/**
 * Bad days of the soak's upstreams: which there are, when one began, and what it excuses.
 *
 * A storm excuses an honest refusal, or a body that visibly broke off, of what has to be fetched. A drizzle
 * excuses nothing at all: to get over it is what a mirror is for. Nothing excuses a wrong byte or a hang.
 */
import type { UpstreamSimulator } from '../../../test/support/upstream.ts'
import type { Rule } from '../../../test/support/upstream-rules.ts'

interface Kind {
  readonly name: string
  readonly storm: boolean
  /** Milliseconds after its end in which what it has done may still be felt: a breaker that has not asked again. */
  readonly wake: number
  readonly begin: (upstream: UpstreamSimulator) => Rule[] | Promise<Rule[]>
  readonly end?: (upstream: UpstreamSimulator) => void | Promise<void>
}

const WAKE = 20_000
const ANY_BODY = ['blob', 'cdn'] as const

export const STORMS: readonly Kind[] = [
  {
    name: 'down',
    ...{ storm: true, wake: WAKE },
    begin: async (upstream) => {
      await upstream.stop()
      return []
    },
    end: (upstream) => upstream.start(),
  },
  {
    name: 'errors',
    ...{ storm: true, wake: WAKE },
    begin: (upstream) => [upstream.fault({}, { status: 503, body: 'html' })],
  },
  {
    name: 'hang',
    ...{ storm: true, wake: WAKE },
    begin: (upstream) => [upstream.fault({}, { hang: 'headers' })],
  },
  {
    name: 'cut short',
    ...{ storm: true, wake: WAKE },
    begin: (upstream) => [upstream.fault({ kind: ANY_BODY }, { dropAfterBytes: 10_000, how: 'fin' })],
  },
  {
    name: 'corrupt',
    // A digest that was wrong is not asked for again for 10 s, then for 20.
    ...{ storm: true, wake: 2 * WAKE },
    begin: (upstream) => [upstream.fault({ kind: ANY_BODY }, { corrupt: 'tail' })],
  },
  {
    name: 'limited',
    ...{ storm: true, wake: WAKE },
    begin: (upstream) => {
      upstream.set({ rateLimit: { limit: 2, windowMs: 3_000, retryAfter: 'secs', retryAfterSeconds: 2 } })
      return []
    },
    end: (upstream) => upstream.set({ rateLimit: { limit: 1_000_000 } }),
  },
]

export const DRIZZLES: readonly Kind[] = [
  {
    name: 'slow',
    ...{ storm: false, wake: 0 },
    begin: (upstream) => [upstream.fault({ kind: ANY_BODY }, { bytesPerSecond: 1_000_000 })],
  },
  {
    name: 'every third body cut',
    ...{ storm: false, wake: 0 },
    begin: (upstream) => [upstream.fault({ kind: ANY_BODY, every: 3 }, { dropAfterBytes: 150_000 })],
  },
  {
    name: 'every fourth connection lost',
    ...{ storm: false, wake: 0 },
    begin: (upstream) => [upstream.fault({ kind: 'manifest', every: 4 }, { keepAliveRace: true })],
  },
]

interface Spell {
  readonly upstream: string
  readonly storm: boolean
  readonly from: number
  to: number
}

export class Weather {
  readonly #spells: Spell[] = []
  /** Name -> how often. */
  readonly seen = new Map<string, number>()

  /** @returns to be awaited when it is over */
  async begin(key: string, upstream: UpstreamSimulator, kind: Kind): Promise<() => Promise<void>> {
    const finish = this.record(key, kind)
    const rules = await kind.begin(upstream)
    return async () => {
      for (const rule of rules) rule.remove()
      await kind.end?.(upstream)
      finish()
    }
  }

  /** Of something that is nobody's fault: an upstream that was switched off here. */
  record(upstream: string, { name, storm, wake }: Pick<Kind, 'name' | 'storm' | 'wake'>): () => void {
    this.seen.set(name, (this.seen.get(name) ?? 0) + 1)
    const spell: Spell = { upstream, storm, from: performance.now(), to: Number.POSITIVE_INFINITY }
    this.#spells.push(spell)
    return () => (spell.to = performance.now() + wake)
  }

  /** Whether there was a storm, or its wake, at any time between the two. */
  stormy(upstream: string | undefined, from: number, to: number): boolean {
    return this.#spells.some((it) => it.storm && it.upstream === upstream && it.from <= to && it.to >= from)
  }
}
