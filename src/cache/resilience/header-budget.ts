/**
 * Header budget: a deadline within which a client has its answer or an honest error, however long upstream takes.
 */
import type { Milliseconds } from '../../base/units.ts'
import { UpstreamError } from '../../upstream/upstream.ts'
import type { Origin } from '../origin.ts'

interface HeaderBudget {
  readonly origin: Pick<Origin, 'upstream'>
  readonly ms: Milliseconds
  /** The client who waits; undefined: the work is nobody's own. */
  readonly client?: AbortSignal
  readonly message?: string
}

/**
 * @param late answers, or throws, where the budget is over before the work and the client still waits; by default the
 *   failure is thrown
 * @throws what the work throws; the client's reason
 */
export async function withHeaderBudget<T>(
  { origin, ms, client, message = 'no answer within the header budget' }: HeaderBudget,
  work: (signal: AbortSignal) => Promise<T>,
  late?: (failure: UpstreamError) => T | Promise<T>,
): Promise<T> {
  const budget = AbortSignal.timeout(ms)
  try {
    return await work(client === undefined ? budget : AbortSignal.any([client, budget]))
  } catch (error) {
    if (error !== budget.reason || client?.aborted === true) throw error
    const failure = new UpstreamError('unreachable', origin.upstream.key, message)
    if (late === undefined) throw failure
    return await late(failure)
  }
}
