/**
 * Whether there are pulls to spend on what has a cached answer. An account of which nothing is known has plenty.
 */
import type { Milliseconds } from '../../base/units.ts'
import type { AccountStatus, UpstreamStatus } from '../status.ts'
import { UpstreamError } from '../upstream.ts'

/** As {@link Upstream.sparing}; `retryAfterMs` only where a pull would be refused. */
export function withheldPulls(
  key: string,
  { accounts }: UpstreamStatus,
  reserve: number,
): UpstreamError | undefined {
  const stops = accounts.map(stoppedForMs)
  if (stops.length > 0 && !stops.includes(undefined)) {
    const retryAfterMs = Math.min(...stops.filter((it) => it !== undefined))
    return new UpstreamError('busy', key, 'it limits our pulls', { status: 429, retryAfterMs, ofPulls: true })
  }
  const usable = accounts.filter(({ breaker }, at) => stops[at] === undefined && breaker.state !== 'open')
  if (usable.length === 0 || !usable.every(({ pulls }) => pulls !== undefined && pulls.remaining < reserve)) {
    return undefined
  }
  return new UpstreamError('busy', key, 'few pulls are left, which are kept for what is not cached', {
    ofPulls: true,
  })
}

/** It gives no manifest for so much longer; undefined: it may give one. */
export function stoppedForMs({
  pullsStoppedForMs = 0,
  stoppedForMs: all = 0,
}: AccountStatus): Milliseconds | undefined {
  const longest = Math.max(pullsStoppedForMs, all)
  return longest > 0 ? longest : undefined
}
