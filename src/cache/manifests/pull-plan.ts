/**
 * Pull plan: decides what a pull does; the manifest cache executes it, and `explain` prints it.
 *
 * It is a pure function, and asks no upstream. Its rules are docs/architecture.md "Freshness".
 */
import type { Milliseconds } from '../../base/units.ts'

/**
 * - `unknown repository`, `absent`: 404, because upstream said so a short while ago
 * - `fresh`: the cached tag is believed; a missing manifest is fetched by digest
 * - `kept`: from here, although upstream says that the tag is gone
 * - `spared`: from here, because the tag has moved, and no pull is spent on what it names now
 * - `stale`: from here, because upstream cannot be asked
 * - `moved`: from the HEAD that told the tag's move within its TTL
 * - `ask`: upstream is asked, and the cached manifest answers if it cannot say
 */
export type Plan = 'unknown repository' | 'absent' | 'fresh' | 'kept' | 'spared' | 'stale' | 'moved' | 'ask'

/** Decides about a tag before its manifest is looked for. */
export interface KnownFacts {
  /** What upstream lacks, as it said a short while ago. */
  readonly absent: 'repository' | 'manifest' | undefined
  readonly fresh: boolean
}

/** Decides about a tag that is not believed any more. A fact that is left out does not hold. */
export interface PullFacts extends KnownFacts {
  /** Time since upstream confirmed the cached manifest; undefined: nothing here can answer. */
  readonly ageMs?: Milliseconds | undefined
  readonly kept?: boolean
  /** The tag has moved, and the quota of pulls is nearly spent. */
  readonly spared?: boolean
  /** How long the cached manifest answers where upstream does not say. */
  readonly staleForMs?: Milliseconds
  /** The same while upstream is known to fail; undefined: it is not. */
  readonly failingForMs?: Milliseconds | undefined
  readonly moved?: boolean
}

export function planPull(facts: PullFacts): Plan {
  const { absent, fresh, ageMs = Infinity, kept, spared, staleForMs = 0, failingForMs, moved } = facts
  if (absent !== undefined) return absent === 'repository' ? 'unknown repository' : 'absent'
  if (fresh) return 'fresh'
  if (kept === true) return 'kept'
  const here = facts.ageMs !== undefined
  if (here && spared === true && ageMs <= staleForMs) return 'spared'
  if (failingForMs !== undefined) return here && ageMs <= failingForMs ? 'stale' : 'ask'
  return moved === true ? 'moved' : 'ask'
}
