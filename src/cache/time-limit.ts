/**
 * Time limit of one question upstream, such as the header budget, within which a client has its answer or an honest
 * error: an upstream that takes longer counts as unreachable.
 */
import type { Milliseconds } from '../base/units.ts'
import { UpstreamError, type Upstream } from '../upstream/upstream.ts'

export const HEADER_BUDGET_IS_OVER = 'no answer within the header budget'

/**
 * @param client the one that waits; undefined: several may
 * @param late answers, or throws, when the limit is over and the client still waits; default: throws the failure
 * @throws UpstreamError with that message when the limit is over first; the client's reason, and what `ask` throws
 */
export async function withTimeLimit<T>(
  { key }: Pick<Upstream, 'key'>,
  limitMs: Milliseconds,
  message: string,
  client: AbortSignal | undefined,
  ask: (limit: AbortSignal) => Promise<T>,
  late?: (failure: UpstreamError) => T | Promise<T>,
): Promise<T> {
  const limit = AbortSignal.timeout(limitMs)
  try {
    return await ask(client === undefined ? limit : AbortSignal.any([client, limit]))
  } catch (error) {
    if (error !== limit.reason || client?.aborted === true) throw error
    const failure = new UpstreamError('unreachable', key, message)
    if (late === undefined) throw failure
    return await late(failure)
  }
}
