/**
 * An upstream that is never asked: `cache.offline`, or `offline` of its own.
 *
 * It fails like one that cannot be reached, so everything that copes with that copes with this.
 */
import type { UpstreamStatus } from '../status.ts'
import { UpstreamError, type Upstream } from '../upstream.ts'

export class OfflineUpstream implements Upstream {
  readonly key: string

  constructor(key: string) {
    this.key = key
  }

  headManifest(): Promise<never> {
    return this.#refuse()
  }

  manifest(): Promise<never> {
    return this.#refuse()
  }

  headBlob(): Promise<never> {
    return this.#refuse()
  }

  blob(): Promise<never> {
    return this.#refuse()
  }

  tags(): Promise<never> {
    return this.#refuse()
  }

  referrers(): Promise<never> {
    return this.#refuse()
  }

  status(): UpstreamStatus {
    return { offline: true, accounts: [] }
  }

  quotaBelow(): undefined {
    // Who is not asked spends nothing.
  }

  async close(): Promise<void> {
    // There is nothing to close.
  }

  #refuse(): Promise<never> {
    const message = `${this.key} is offline by configuration`
    return Promise.reject(new UpstreamError('unreachable', this.key, message, { offline: true }))
  }
}
