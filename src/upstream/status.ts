/**
 * How an upstream does, for people: what `explain`, `/readyz` and the metrics tell of it.
 *
 * Times are spans from now, so that they mean the same on both ends of a wire.
 */
import type { Milliseconds } from '../base/units.ts'

export interface UpstreamStatus {
  /** The configuration says so. */
  readonly offline: boolean
  /** One for each account, in the order of the configuration; one without credentials where there are none. */
  readonly accounts: readonly AccountStatus[]
}

export interface AccountStatus {
  /** `anonymous`, or its place in the configuration: `1`, `2` … A label of metrics, so never a name. */
  readonly account: string
  readonly breaker: BreakerStatus
  /** As the upstream last told; undefined: never, or that is longer ago than its window. */
  readonly pulls?: PullBudget | undefined
  /** It has had enough of our pulls (429 to a manifest) for so much longer; the rest goes on. */
  readonly pullsStoppedForMs?: Milliseconds | undefined
  /** It has had enough of us altogether for so much longer. */
  readonly stoppedForMs?: Milliseconds | undefined
  /** A sentence, while it does not take our credentials. */
  readonly complaint?: string | undefined
}

export interface BreakerStatus {
  readonly state: 'closed' | 'open' | 'half-open'
  /** Until somebody may try again. */
  readonly forMs?: Milliseconds | undefined
  /** The failure that opened it. */
  readonly why?: string | undefined
}

/** Docker Hub's `ratelimit-limit: 100;w=21600` and `ratelimit-remaining`. */
export interface PullBudget {
  readonly limit: number | undefined
  readonly remaining: number
  readonly windowMs: Milliseconds | undefined
  readonly toldMsAgo: Milliseconds
}
