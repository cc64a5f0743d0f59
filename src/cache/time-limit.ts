/**
 * Time limit of one question upstream: what takes longer counts as an upstream that cannot be reached.
 */
import type { Milliseconds } from '../base/units.ts'
import { UpstreamError, type Upstream } from '../upstream/upstream.ts'

/** @throws UpstreamError with that message when the limit is over first; the reason of `signal`, and what `ask` throws */
export async function withTimeLimit<T>(
  { key }: Pick<Upstream, 'key'>,
  limitMs: Milliseconds,
  message: string,
  signal: AbortSignal,
  ask: (limit: AbortSignal) => Promise<T>,
): Promise<T> {
  const limit = AbortSignal.timeout(limitMs)
  try {
    return await ask(AbortSignal.any([signal, limit]))
  } catch (error) {
    if (error !== limit.reason || signal.aborted) throw error
    throw new UpstreamError('unreachable', key, message)
  }
}
