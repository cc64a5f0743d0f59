/**
 * The blobs as the mirror may use them: one that cannot be opened is not here, it does not fail a pull.
 *
 * Only for mirrored repositories: upstream has their bytes too. Of what was pushed nobody else has a copy, and
 * "not here" would be a lie.
 */
import type { Logger } from 'pino'
import type { Digest } from '../oci/digest.ts'
import type { BlobInfo, BlobReader, BlobStore, ListedBlob } from '../store/blob-store.ts'
import type { VerifiedFile } from '../store/ingest.ts'
import type { Metrics } from '../telemetry/metrics.ts'
import type { Milliseconds } from '../upstream/upstream.ts'
import { Outage } from './outage.ts'

export class TolerantBlobStore implements BlobStore {
  readonly #inner: BlobStore
  readonly #metrics: Metrics
  readonly #outage: Outage

  constructor(inner: BlobStore, options: { metrics: Metrics; log: Logger; now: () => Milliseconds }) {
    this.#inner = inner
    this.#metrics = options.metrics
    this.#outage = new Outage({
      ...options,
      begins: 'cached blobs cannot be read: upstream is asked instead',
      ends: 'cached blobs can be read again',
    })
  }

  stat(digest: Digest): Promise<BlobInfo | undefined> {
    return this.#or(() => this.#inner.stat(digest))
  }

  open(digest: Digest): Promise<BlobReader | undefined> {
    return this.#or(() => this.#inner.open(digest))
  }

  adopt(file: VerifiedFile): Promise<BlobInfo> {
    return this.#inner.adopt(file)
  }

  delete(digest: Digest): Promise<void> {
    return this.#inner.delete(digest)
  }

  list(): AsyncIterable<ListedBlob> {
    return this.#inner.list()
  }

  async #or<T>(look: () => Promise<T>): Promise<T | undefined> {
    try {
      const found = await look()
      if (found !== undefined) this.#outage.worked()
      return found
    } catch (error) {
      this.#metrics.bypasses.inc({ reason: 'unreadable' })
      this.#outage.failed(error)
      return undefined
    }
  }
}
