/**
 * Offline upstream, which is never asked: by `cache.offline`, or `offline` of its own.
 *
 * It fails like one that cannot be reached, so that its callers need no other error handling.
 */
import type { UpstreamStatus } from '../status.ts'
import { UpstreamError } from '../upstream.ts'
import { CandidateUpstream } from './candidates.ts'

export class OfflineUpstream extends CandidateUpstream<never> {
  protected ask(): Promise<never> {
    const message = `${this.key} is offline by configuration`
    return Promise.reject(new UpstreamError('unreachable', this.key, message, { offline: true }))
  }

  status(): UpstreamStatus {
    return { offline: true, accounts: [] }
  }

  quotaBelow(): undefined {
    // No request is sent, so none is spent.
  }

  async close(): Promise<void> {
    // There is nothing to close.
  }
}
