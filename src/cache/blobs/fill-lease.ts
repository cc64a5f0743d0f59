/**
 * Who downloads a blob, when several processes share one cache.
 *
 * In one process the answer is always "you": single-flight is the map of running fills. The seam is here so
 * that replicas can point a late one at the holder, which then is just another upstream.
 */
import type { Digest } from '../../oci/digest.ts'

export interface FillLease {
  /** `held`: download it, and dispose when done. Otherwise it runs behind that address. */
  acquire(
    registry: string,
    digest: Digest,
    signal: AbortSignal,
  ): Promise<{ readonly held: AsyncDisposable } | { readonly runsAt: URL }>
}

export class InProcessFillLease implements FillLease {
  acquire(): Promise<{ readonly held: AsyncDisposable }> {
    return Promise.resolve({ held: { [Symbol.asyncDispose]: () => Promise.resolve() } })
  }
}
