/**
 * Status of an upstream, as `explain`, `/readyz` and the metrics show it.
 *
 * Times are spans from now, so that they mean the same to the server and to the operator's command.
 */
import type { Milliseconds } from '../base/units.ts'

export interface UpstreamStatus {
  /** The configuration says that it is never asked. */
  readonly offline: boolean
  /** In the order of the configuration; one without credentials where it has none. */
  readonly accounts: readonly AccountStatus[]
}

export interface AccountStatus {
  /** `anonymous`, or its place in the configuration: `1`, `2` … A label of metrics, so never a name. */
  readonly account: string
  readonly breaker: BreakerStatus
  /** The upstream's last figures; undefined: it never sent any, or they are older than its window. */
  readonly pulls?: PullBudget | undefined
  /** The rest of the pause after a limit of pulls (429 to a manifest); other requests go on. */
  readonly pullsStoppedForMs?: Milliseconds | undefined
  /** The rest of the pause of all requests. */
  readonly stoppedForMs?: Milliseconds | undefined
  /** A sentence, while the upstream refuses its credentials. */
  readonly complaint?: string | undefined
}

export interface BreakerStatus {
  readonly state: 'closed' | 'open' | 'half-open'
  /** The time until a request may try again. */
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
