/**
 * One way in which an upstream has a bad day, as the fault matrix and the client emulators switch it on.
 *
 * A fault is data: what the simulator is started with, what is switched on when the bad day begins, and what
 * clients may see of it. The matrix crosses every fault with every state of the cache and every number of
 * clients, so a fault must not depend on what was asked before.
 */
import type { Image } from '../images.ts'
import type { UpstreamOptions, UpstreamSimulator } from '../upstream.ts'

/**
 * How a pull of a whole image ends:
 *
 * - `served`: every manifest and blob came whole and right
 * - `refused`: an honest answer with an OCI error, before the first byte of what could not be had
 * - `broken`: a transfer that broke off visibly; never a complete wrong one
 */
export type Ending = 'served' | 'refused' | 'broken'

/**
 * How it stands with the cache when the fault begins:
 *
 * - `cold`: it holds nothing
 * - `stale`: everything, with an old tag
 * - `in flight`: half of a running fill
 * - `over budget`: other things, so many that they have to go for whatever comes, or that it may not stay at all
 * - `disk full`: nothing, on a disk with no room for anything
 * - `breaker open`: everything, with an old tag, of an upstream that could not be reached a moment ago
 */
export const CACHE_STATES = [
  'cold',
  'stale',
  'in flight',
  'over budget',
  'disk full',
  'breaker open',
] as const
export type CacheState = (typeof CACHE_STATES)[number]

export interface Fault {
  /** The toggle as the wire notes name it, with its variant where it has some: `dropAfterBytes: rst`. */
  readonly name: string
  /** Its section in the wire notes. */
  readonly section: '4.1' | '4.2' | '4.3' | '4.4' | '4.5'
  /** What the simulator is started with, good days included. */
  readonly upstream?: UpstreamOptions
  /** Of the mirror's configuration of this upstream. */
  readonly settings?: Readonly<Record<string, unknown>>
  /** The bad day begins. `repo` holds `image`; faults that need no distinction strike everything. */
  readonly begin: (
    upstream: UpstreamSimulator,
    target: { repo: string; image: Image },
  ) => void | Promise<void>
  /** What may happen to a pull; the first is what is expected of an undisturbed machine. Default: served. */
  readonly endings: Partial<Readonly<Record<CacheState, readonly [Ending, ...Ending[]]>>>
  /** The longest a pull may take, over the usual budget; only for faults that are slow by nature. */
  readonly budgetMs?: number
}

/** Where nothing may stay, or nothing can, things have to be had as with nothing here. */
const LIKE: Partial<Readonly<Record<CacheState, CacheState>>> = {
  'over budget': 'cold',
  'disk full': 'cold',
}

export function endingsOf({ endings }: Fault, state: CacheState): readonly [Ending, ...Ending[]] {
  const like = LIKE[state]
  return endings[state] ?? (like === undefined ? undefined : endings[like]) ?? ['served']
}
