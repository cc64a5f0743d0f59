/**
 * Quota reserve: whether pulls may be spent on content that has a cached answer. An unknown quota counts as plenty.
 */
import type { Milliseconds } from '../../base/units.ts'
import type { AccountStatus, UpstreamStatus } from '../status.ts'
import { UpstreamError } from '../upstream.ts'

/** Implements {@link Upstream.quotaBelow}; `retryAfterMs` is set only where a pull would be refused. */
export function withheldPulls(
  key: string,
  { accounts }: UpstreamStatus,
  reserve: number,
): UpstreamError | undefined {
  const stops = accounts.map(stoppedForMs)
  if (stops.length > 0 && !stops.includes(undefined)) {
    const retryAfterMs = Math.min(...stops.filter((it) => it !== undefined))
    return new UpstreamError('busy', key, 'it limits our pulls', {
      status: 429,
      retryAfterMs,
      scope: 'pulls',
    })
  }
  const usable = accounts.filter(({ breaker }, at) => stops[at] === undefined && breaker.state !== 'open')
  if (usable.length === 0 || !usable.every(({ pulls }) => pulls !== undefined && pulls.remaining < reserve)) {
    return undefined
  }
  return new UpstreamError('busy', key, 'few pulls are left, which are kept for what is not cached', {
    scope: 'pulls',
  })
}

/** How long the account gets no manifest; undefined: it may get one. */
export function stoppedForMs({
  pullsStoppedForMs = 0,
  stoppedForMs: all = 0,
}: AccountStatus): Milliseconds | undefined {
  const longest = Math.max(pullsStoppedForMs, all)
  return longest > 0 ? longest : undefined
}
