/**
 * Retry with exponential backoff of requests to upstreams, and the parser of `Retry-After`.
 *
 * It takes only idempotent requests. A 429 is never retried: the caller decides what to do meanwhile.
 */
import { backoff } from '../../base/backoff.ts'
import type { Milliseconds } from '../../base/units.ts'
import { setTimeout as sleep } from 'node:timers/promises'
import { UpstreamError } from '../upstream.ts'

const DEFAULT_TRIES = 3
/** A longer wait is left to the caller, who may have something stale. */
const LONGEST_WAIT: Milliseconds = 2000

type RetryReason = 'reused-connection' | 'connection' | 'status'

interface RetryOptions {
  readonly signal: AbortSignal
  /** Upper end of the first pause; it doubles. Default 250. */
  readonly backoffMs?: Milliseconds | undefined
  /** Default 3. */
  readonly tries?: number | undefined
  readonly onRetry?: (reason: RetryReason, error: UpstreamError) => void
}

/** @throws the last attempt's error, or the signal's reason */
export async function withRetries<T>(attempt: () => Promise<T>, options: RetryOptions): Promise<T> {
  const { signal, backoffMs = 250, tries = DEFAULT_TRIES, onRetry } = options
  let silentRetryLeft = true
  for (let tried = 1; ;) {
    try {
      return await attempt()
    } catch (error) {
      const reason = error instanceof UpstreamError ? retryReason(error) : undefined
      if (reason === undefined || !(error instanceof UpstreamError)) throw error
      const silent = reason === 'reused-connection' && silentRetryLeft
      if (!silent && (tried >= tries || (error.retryAfterMs ?? 0) > LONGEST_WAIT)) throw error
      onRetry?.(reason, error)
      if (silent) {
        silentRetryLeft = false
        continue
      }
      // Full jitter: many clients of one stumbling upstream must not come back in step.
      const pause = Math.random() * backoff(tried - 1, { first: backoffMs, most: Infinity })
      tried += 1
      await pauseFor(Math.max(pause, error.retryAfterMs ?? 0), signal)
    }
  }
}

/** @throws the signal's reason */
export async function pauseFor(duration: Milliseconds, signal: AbortSignal): Promise<void> {
  await sleep(duration, undefined, { signal }).catch(() => {
    signal.throwIfAborted()
  })
}

/** A time-out is not among them: it has cost its time already, and the client's request has a budget. */
const TRANSIENT = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ENETUNREACH',
  'EHOSTUNREACH',
  'EAI_AGAIN',
  'UND_ERR_SOCKET',
])

function retryReason(error: UpstreamError): RetryReason | undefined {
  if (error.status !== undefined) return [502, 503, 504].includes(error.status) ? 'status' : undefined
  const cause = error.cause as { code?: unknown; socket?: { bytesRead?: number } } | undefined
  if (typeof cause?.code !== 'string' || !TRANSIENT.has(cause.code)) return undefined
  // A kept-alive connection may close just as it is used again, which is no failure. RFC 9112 § 9.6.
  return (cause.socket?.bytesRead ?? 0) > 0 ? 'reused-connection' : 'connection'
}

/** Parses `Retry-After` in either form; undefined for a moment that has passed. @param now Unix time in ms */
export function parseRetryAfter(header: string | undefined, now: number): Milliseconds | undefined {
  if (header === undefined) return undefined
  const text = header.trim()
  if (/^\d{1,9}(\.\d+)?$/.test(text)) return Math.ceil(Number(text) * 1000)
  const date = /[a-z]{3}/i.test(text) ? Date.parse(text) : NaN
  return date > now ? date - now : undefined
}
