/**
 * Pull quota (rate limit) of one upstream account, as the upstream last told it: Docker Hub's
 * `ratelimit-limit: 100;w=21600` and `ratelimit-remaining`. (`docker-ratelimit-source`, the client, is unused.)
 *
 * The windows roll: figures that are older than a window are forgotten, and removed from the metrics.
 */
import type { Milliseconds } from '../../base/units.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import type { PullBudget } from '../status.ts'
import { headerOf, type ResponseHeaders } from '../transport/transport.ts'

interface RateBudgetOptions {
  readonly key: string
  /** The label of {@link Metrics}. */
  readonly account: string
  readonly metrics: Metrics
  readonly log?: { warn(fields: object, message: string): void } | undefined
  /** Monotonic. */
  readonly now: () => Milliseconds
}

interface Told {
  readonly limit: number | undefined
  readonly remaining: number
  readonly windowMs: Milliseconds | undefined
  readonly at: Milliseconds
}

/** Docker Hub's window. */
const USUAL_WINDOW: Milliseconds = 6 * 3_600_000
/** Below these shares of the limit the operator is warned. */
const SCARCE = [0.05, 0.2] as const
/** The quota has recovered at one and a half times the share: in a rolling window it goes up and down by one. */
const RECOVERED = 1.5

export class PullQuota {
  readonly #options: RateBudgetOptions
  #told: Told | undefined
  /** The shares that the operator was warned of. */
  readonly #warned = new Set<number>()
  readonly #beforeScrape = (): void => {
    this.#forgetOld()
    this.#show()
  }

  constructor(options: RateBudgetOptions) {
    this.#options = options
    options.metrics.beforeScrape.add(this.#beforeScrape)
  }

  get current(): PullBudget | undefined {
    this.#forgetOld()
    if (this.#told === undefined) return undefined
    const { limit, remaining, windowMs, at } = this.#told
    return { limit, remaining, windowMs, toldMsAgo: this.#options.now() - at }
  }

  /** @param headers of any answer about a manifest, also of a refusal */
  read(headers: ResponseHeaders): void {
    const left = parseRatelimit(headerOf(headers, 'ratelimit-remaining'))
    if (left === undefined) return
    const most = parseRatelimit(headerOf(headers, 'ratelimit-limit'))
    const { now } = this.#options
    this.#told = {
      limit: most?.count,
      remaining: left.count,
      windowMs: left.windowMs ?? most?.windowMs,
      at: now(),
    }
    this.#show()
    if (most !== undefined && most.count > 0) this.#warn(left.count, most.count)
  }

  close(): void {
    this.#options.metrics.beforeScrape.delete(this.#beforeScrape)
    this.#forget()
  }

  /** Warns once below each share, and again only after a recovery. */
  #warn(remaining: number, limit: number): void {
    const { key, account, log } = this.#options
    const share = remaining / limit
    for (const scarce of SCARCE) if (share >= scarce * RECOVERED) this.#warned.delete(scarce)
    const below = SCARCE.filter((scarce) => share < scarce)
    const [lowest] = below
    const news = lowest !== undefined && !this.#warned.has(lowest)
    for (const scarce of below) this.#warned.add(scarce)
    if (news) {
      log?.warn(
        { upstream: key, account, remaining, limit },
        `less than ${lowest * 100} % of the pulls are left`,
      )
    }
  }

  /** Called again before every scrape: closing a replaced client of the same account removes the figures. */
  #show(): void {
    if (this.#told === undefined) return
    const { key, account, metrics } = this.#options
    const { remaining, limit } = this.#told
    metrics.upstreamRatelimitRemaining.set({ upstream: key, account }, remaining)
    if (limit !== undefined) metrics.upstreamRatelimitLimit.set({ upstream: key, account }, limit)
  }

  #forgetOld(): void {
    if (this.#told === undefined) return
    const { windowMs = USUAL_WINDOW, at } = this.#told
    if (this.#options.now() - at > windowMs) this.#forget()
  }

  #forget(): void {
    const { key, account, metrics } = this.#options
    this.#told = undefined
    metrics.upstreamRatelimitRemaining.remove({ upstream: key, account })
    metrics.upstreamRatelimitLimit.remove({ upstream: key, account })
  }
}

/** Parses `97;w=21600`: a count, and a window in seconds. */
export function parseRatelimit(
  header: string | undefined,
): { readonly count: number; readonly windowMs: Milliseconds | undefined } | undefined {
  const match = /^\s*(\d{1,12})\s*(?:;\s*w=(\d{1,9})\s*)?(?:[;,]|$)/.exec(header ?? '')
  if (match === null) return undefined
  const windowMs = match[2] === undefined ? undefined : Number(match[2]) * 1000
  return { count: Number(match[1]), windowMs }
}
