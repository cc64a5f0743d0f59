/**
 * Decides what a pull does: the manifest cache executes the plan, and `explain` prints it.
 *
 * It is pure, and asks nobody. docs/architecture.md "Freshness" is its law.
 */
import type { Milliseconds } from '../../base/units.ts'

/**
 * - `unknown repository`, `absent`: 404, because upstream said so a short while ago
 * - `fresh`: what is known is believed; what is not here of it is fetched by digest
 * - `kept`: from here, although upstream says that the tag is gone
 * - `spared`: from here, because the tag has moved, and no pull is spent on what it names now
 * - `stale`: from here, because upstream cannot be asked
 * - `moved`: what a HEAD told of the tag within its TTL
 * - `ask`: upstream is asked, and what is here answers if it cannot say
 */
export type Plan = 'unknown repository' | 'absent' | 'fresh' | 'kept' | 'spared' | 'stale' | 'moved' | 'ask'

/** What decides about a tag before the bytes that it names are looked for. */
export interface KnownFacts {
  /** What upstream said a short while ago that it does not have. */
  readonly absent: 'repository' | 'manifest' | undefined
  readonly fresh: boolean
}

/** What decides about a tag that is not believed any more. A fact that is left out does not hold. */
export interface PullFacts extends KnownFacts {
  /** Time since upstream confirmed what is here; undefined: nothing here can answer. */
  readonly ageMs?: Milliseconds | undefined
  readonly kept?: boolean
  /** It has moved, and its upstream is short of pulls. */
  readonly spared?: boolean
  /** How long what is here answers where upstream does not say. */
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
