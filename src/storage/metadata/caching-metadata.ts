/**
 * Read cache in front of the index: what every pull asks is answered from memory for as long as nothing was committed.
 *
 * Reads see what was committed, as without it. Whoever writes, in whatever thread or process, changes the number
 * that the database gives its state, and with another number everything is forgotten. That number is looked at before
 * the first read of each turn of the event loop, and again after each write of ours: nobody who was told of a commit
 * can ask in between. So nothing here has to know which write concerns which read.
 */
import { LRUCache } from 'lru-cache'
import type { EvictionIndex } from './eviction-index.ts'
import type { InventoryIndex } from './inventory-index.ts'
import type {
  BlobIndex,
  EventQueue,
  FinishedUploadIndex,
  GarbageIndex,
  ManifestIndex,
  MetadataStore,
  MetadataTransaction,
  RepositoryIndex,
  RepositoryKey,
  TagIndex,
} from './metadata.ts'
import type { UpstreamAnswerIndex } from './upstream-answer-index.ts'

/** Half a kilobyte each: a few thousand images whose every tag and manifest is asked for. */
const MOST = 10_000

export class CachingMetadata implements MetadataStore {
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
  readonly #inner: MetadataStore
  readonly #version: () => number
  /** The reads themselves: who asks while one is under way waits for that one. */
  readonly #reads = new LRUCache<string, Promise<unknown>>({ max: MOST })
  #known: number | undefined
  #looked = false

  /** @param version another one after each commit; throws when the database cannot be read */
  constructor(inner: MetadataStore, version: () => number) {
    this.#inner = inner
    this.#version = version
    const { repositories, tags, manifests, blobs, upstreamAnswers } = inner
    this.repositories = {
      get: (repository) => this.#read(`repository ${of(repository)}`, () => repositories.get(repository)),
      list: (registry, page) => repositories.list(registry, page),
      catalog: (page, containing) => repositories.catalog(page, containing),
    }
    this.tags = {
      get: (repository, tag) => this.#read(`tag ${of(repository)}:${tag}`, () => tags.get(repository, tag)),
      list: (repository, page) => tags.list(repository, page),
      naming: (repository, digest) => tags.naming(repository, digest),
      held: (repository, limit) => tags.held(repository, limit),
    }
    this.manifests = {
      get: (repository, digest) =>
        this.#read(`manifest ${of(repository)}@${digest}`, () => manifests.get(repository, digest)),
      storedAt: (repository, digest) =>
        this.#read(`stored ${of(repository)}@${digest}`, () => manifests.storedAt(repository, digest)),
      named: (repository, digest) =>
        this.#read(`named ${of(repository)}@${digest}`, () => manifests.named(repository, digest)),
      list: (repository, page) => manifests.list(repository, page),
      children: (manifest) => manifests.children(manifest),
      referrers: (repository, subject) => manifests.referrers(repository, subject),
    }
    this.blobs = {
      linked: async (repository, digest) => (await this.blobs.linkedAt(repository, digest)) !== undefined,
      linkedAt: (repository, digest) =>
        this.#read(`linked ${of(repository)}@${digest}`, () => blobs.linkedAt(repository, digest)),
      deliveredBy: (registry, digest) =>
        this.#read(`delivered ${registry}@${digest}`, () => blobs.deliveredBy(registry, digest)),
      size: (digest) => this.#read(`size ${digest}`, () => blobs.size(digest)),
    }
    this.events = inner.events
    this.finishedUploads = inner.finishedUploads
    this.garbage = inner.garbage
    this.eviction = inner.eviction
    this.inventory = inner.inventory
    this.upstreamAnswers = {
      get: (repository, question) =>
        this.#read(`answer ${of(repository)} ${question}`, () => upstreamAnswers.get(repository, question)),
      // As large as lists are, whoever reads them keeps what he needs.
      body: (repository, question) => upstreamAnswers.body(repository, question),
      weight: () => upstreamAnswers.weight(),
    }
  }

  async transaction(fill: (tx: MetadataTransaction) => void): Promise<void> {
    try {
      await this.#inner.transaction(fill)
    } finally {
      this.#looked = false
    }
  }

  close(): Promise<void> {
    return this.#inner.close()
  }

  // Not `async`: what is remembered is given out as it is.
  #read<T>(key: string, read: () => Promise<T>): Promise<T> {
    try {
      this.#look()
    } catch (error) {
      return Promise.reject(error instanceof Error ? error : new Error(String(error)))
    }
    const known = this.#reads.get(key) as Promise<T> | undefined
    if (known !== undefined) return known
    const reading = read()
    this.#reads.set(key, reading)
    // What could not be read is no knowledge.
    reading.catch(() => this.#reads.get(key) === reading && this.#reads.delete(key))
    return reading
  }

  #look(): void {
    if (this.#looked) return
    const version = this.#version()
    if (version !== this.#known) this.#reads.clear()
    this.#known = version
    this.#looked = true
    setImmediate(() => {
      this.#looked = false
    })
  }
}

function of({ registry, name }: RepositoryKey): string {
  return `${registry}/${name}`
}
