/**
 * Fail-open blob store of the mirror (decorator): a blob that cannot be opened is a miss, and fails no pull.
 *
 * An open reader holds its blob. It serves mirrored repositories only, since upstream has their bytes too. Pushed
 * content has no other copy, and "not here" would be a lie.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import type { Logger } from 'pino'
import type { Digest } from '../../oci/digest.ts'
import { isOutOfFiles } from '../../base/open-files.ts'
import type { BlobInfo, BlobReader, BlobStore, ListedBlob } from '../../storage/blobs/blob-store.ts'
import type { BlobHolds } from '../../storage/locks/blob-holds.ts'
import type { VerifiedFile } from '../../storage/ingest/ingest.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import { OutageLog } from './outage-log.ts'
import type { StorageHealth } from './storage-health.ts'

export class FailOpenBlobStore implements BlobStore {
  readonly #inner: BlobStore
  readonly #holds: BlobHolds
  readonly #health: Pick<StorageHealth, 'writeFailed'>
  readonly #metrics: Metrics
  readonly #outage: OutageLog

  constructor(
    inner: BlobStore,
    options: {
      holds: BlobHolds
      health: Pick<StorageHealth, 'writeFailed'>
      metrics: Metrics
      log: Logger
      now: () => Milliseconds
    },
  ) {
    this.#inner = inner
    this.#holds = options.holds
    this.#health = options.health
    this.#metrics = options.metrics
    this.#outage = new OutageLog({
      ...options,
      begins: 'cached blobs cannot be read: upstream is asked instead',
      ends: 'cached blobs can be read again',
    })
  }

  stat(digest: Digest): Promise<BlobInfo | undefined> {
    return this.#or(() => this.#inner.stat(digest))
  }

  open(digest: Digest): Promise<BlobReader | undefined> {
    return this.#or(() => this.#open(digest))
  }

  adopt(file: VerifiedFile, commit?: () => Promise<void>): Promise<BlobInfo> {
    return this.#inner.adopt(file, commit)
  }

  delete(digest: Digest): Promise<void> {
    return this.#inner.delete(digest)
  }

  list(): AsyncIterable<ListedBlob> {
    return this.#inner.list()
  }

  async #open(digest: Digest): Promise<BlobReader | undefined> {
    // Held before it is looked for: else it could be removed between both.
    const held = this.#holds.hold(digest)
    try {
      const reader = await this.#inner.open(digest)
      if (reader === undefined) held[Symbol.dispose]()
      return reader && new HeldReader(reader, held)
    } catch (error) {
      held[Symbol.dispose]()
      throw error
    }
  }

  async #or<T>(look: () => Promise<T>): Promise<T | undefined> {
    try {
      const found = await look()
      if (found !== undefined) this.#outage.worked()
      return found
    } catch (error) {
      if (isOutOfFiles(error)) {
        // The process has no descriptors left: the blob may be fine, and a connection to upstream may exist already.
        this.#health.writeFailed('a cached blob', error)
        return undefined
      }
      this.#metrics.bypasses.inc({ reason: 'unreadable' })
      this.#outage.failed(error)
      return undefined
    }
  }
}

class HeldReader implements BlobReader {
  readonly size: Bytes
  readonly #inner: BlobReader
  readonly #held: Disposable

  constructor(inner: BlobReader, held: Disposable) {
    this.size = inner.size
    this.#inner = inner
    this.#held = held
  }

  get descriptor(): number | undefined {
    return this.#inner.descriptor
  }

  read(buffer: Buffer, position: Bytes): Promise<Bytes> {
    return this.#inner.read(buffer, position)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#inner[Symbol.asyncDispose]()
    } finally {
      this.#held[Symbol.dispose]()
    }
  }
}
