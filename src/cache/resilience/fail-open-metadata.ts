/**
 * Fail-open index of the mirror (decorator): a database that cannot be read knows nothing, and fails no pull.
 *
 * Upstream is asked again for what cannot be read. Local repositories use the index itself: there
 * "not known" would be a lie.
 */
import type { Milliseconds } from '../../base/units.ts'
import type { Logger } from 'pino'
import type { InventoryIndex } from '../../storage/metadata/inventory-index.ts'
import type {
  BlobIndex,
  EventQueue,
  FinishedUploadIndex,
  GarbageIndex,
  ManifestIndex,
  MetadataStore,
  MetadataTransaction,
  RepositoryIndex,
  TagIndex,
} from '../../storage/metadata/metadata.ts'
import type { EvictionIndex } from '../../storage/metadata/eviction-index.ts'
import type { UpstreamAnswerIndex } from '../../storage/metadata/upstream-answer-index.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import { OutageLog } from './outage-log.ts'

export class FailOpenMetadata implements MetadataStore {
  readonly repositories: RepositoryIndex
  readonly tags: TagIndex
  readonly manifests: ManifestIndex
  readonly blobs: BlobIndex
  readonly events: EventQueue
  readonly garbage: GarbageIndex
  readonly eviction: EvictionIndex
  readonly inventory: InventoryIndex
  readonly upstreamAnswers: UpstreamAnswerIndex
  readonly finishedUploads: FinishedUploadIndex
  readonly audit: MetadataStore['audit']
  readonly scrub: MetadataStore['scrub']
  readonly #inner: MetadataStore
  readonly #metrics: Metrics
  readonly #writes: OutageLog

  constructor(inner: MetadataStore, options: { metrics: Metrics; log: Logger; now: () => Milliseconds }) {
    const reads = new OutageLog({
      ...options,
      begins: 'the index cannot be read: upstream is asked instead',
      ends: 'the index can be read again',
    })
    const or = async <T>(unknown: T, read: Promise<T>): Promise<T> => {
      try {
        const known = await read
        reads.worked()
        return known
      } catch (error) {
        options.metrics.bypasses.inc({ reason: 'database' })
        reads.failed(error)
        return unknown
      }
    }
    this.#inner = inner
    this.events = inner.events
    this.garbage = inner.garbage
    this.eviction = inner.eviction
    this.inventory = inner.inventory
    this.finishedUploads = inner.finishedUploads
    this.audit = inner.audit
    this.scrub = inner.scrub
    this.#metrics = options.metrics
    this.#writes = new OutageLog({
      ...options,
      begins: 'the index takes no writes: what is pulled is not remembered',
      ends: 'the index takes writes again',
    })
    this.repositories = {
      get: (repository) => or(undefined, inner.repositories.get(repository)),
      list: (registry, page) => or([], inner.repositories.list(registry, page)),
      catalog: (page, containing) => or([], inner.repositories.catalog(page, containing)),
    }
    this.tags = {
      get: (repository, tag) => or(undefined, inner.tags.get(repository, tag)),
      list: (repository, page) => or([], inner.tags.list(repository, page)),
      of: (repository, manifest) => or([], inner.tags.of(repository, manifest)),
      held: (repository, limit) => or([], inner.tags.held(repository, limit)),
    }
    this.manifests = {
      get: (repository, digest) => or(undefined, inner.manifests.get(repository, digest)),
      list: (repository, page) => or([], inner.manifests.list(repository, page)),
      descriptor: (repository, digest) => or(undefined, inner.manifests.descriptor(repository, digest)),
      references: (manifest) => or([], inner.manifests.references(manifest)),
      referrers: (repository, subject) => or([], inner.manifests.referrers(repository, subject)),
    }
    this.blobs = {
      linked: (repository, digest) => or(false, inner.blobs.linked(repository, digest)),
      linkedAt: (repository, digest) => or(undefined, inner.blobs.linkedAt(repository, digest)),
      deliveredBy: (registry, digest) => or(false, inner.blobs.deliveredBy(registry, digest)),
      size: (digest) => or(undefined, inner.blobs.size(digest)),
    }
    const answers = inner.upstreamAnswers
    this.upstreamAnswers = {
      get: (repository, question) => or(undefined, answers.get(repository, question)),
      body: (repository, question) => or(undefined, answers.body(repository, question)),
      // Fails instead: the bound of the answers must not take an unreadable weight for zero.
      weight: () => answers.weight(),
    }
  }

  /** Counts a failed write, and logs when failures begin; the caller goes on without it. */
  async transaction(fill: (tx: MetadataTransaction) => void): Promise<void> {
    try {
      await this.#inner.transaction(fill)
      this.#writes.worked()
    } catch (error) {
      this.#metrics.failedWrites.inc()
      this.#writes.failed(error)
      throw error
    }
  }

  snapshot(): ReturnType<MetadataStore['snapshot']> {
    return this.#inner.snapshot()
  }

  createdAt(): Promise<Milliseconds> {
    return this.#inner.createdAt()
  }

  close(): Promise<void> {
    return this.#inner.close()
  }
}
