/**
 * Read cache (LRU) in front of the index: the reads of a pull are answered from memory until the next commit.
 *
 * Reads see what was committed, as without it. A commit by any thread or process changes the version that the
 * database gives its state, and a new version empties the cache. The cache asks for the version before the first read
 * of each turn of the event loop, and again after each write of ours: no client that was told of a commit can ask in
 * between. So the cache need not know which write concerns which read.
 */
import { LRUCache } from 'lru-cache'
import type { BlobIndex, MetadataStore, RepositoryKey } from './metadata.ts'

/** Half a kilobyte each: the tags and manifests of a few thousand images. */
const MOST = 10_000

/** @param version changes with each commit; throws when the database cannot be read */
export function cachingMetadata(inner: MetadataStore, version: () => number): MetadataStore {
  /** Single-flight: it keeps promises, so an equal read meanwhile waits for the first. */
  const reads = new LRUCache<string, Promise<unknown>>({ max: MOST })
  let known: number | undefined
  let looked = false

  const look = (): void => {
    if (looked) return
    const present = version()
    if (present !== known) reads.clear()
    known = present
    looked = true
    setImmediate(() => {
      looked = false
    })
  }

  // It is not `async`, so that it returns the remembered promise itself.
  const remember = <T>(key: string, read: () => Promise<T>): Promise<T> => {
    try {
      look()
    } catch (error) {
      return Promise.reject(error instanceof Error ? error : new Error(String(error)))
    }
    const before = reads.get(key) as Promise<T> | undefined
    if (before !== undefined) return before
    const reading = read()
    reads.set(key, reading)
    // A failure is not cached: the next call reads again.
    reading.catch(() => reads.get(key) === reading && reads.delete(key))
    return reading
  }

  const { repositories, tags, manifests, blobs, upstreamAnswers } = inner
  const linkedAt: BlobIndex['linkedAt'] = (repository, digest) =>
    remember(`linked ${of(repository)}@${digest}`, () => blobs.linkedAt(repository, digest))
  return {
    ...inner,
    repositories: {
      ...repositories,
      get: (repository) => remember(`repository ${of(repository)}`, () => repositories.get(repository)),
    },
    tags: {
      ...tags,
      get: (repository, tag) => remember(`tag ${of(repository)}:${tag}`, () => tags.get(repository, tag)),
    },
    manifests: {
      ...manifests,
      get: (repository, digest) =>
        remember(`manifest ${of(repository)}@${digest}`, () => manifests.get(repository, digest)),
      descriptor: (repository, digest) =>
        remember(`descriptor ${of(repository)}@${digest}`, () => manifests.descriptor(repository, digest)),
    },
    blobs: {
      linked: async (repository, digest) => (await linkedAt(repository, digest)) !== undefined,
      linkedAt,
      deliveredBy: (registry, digest) =>
        remember(`delivered ${registry}@${digest}`, () => blobs.deliveredBy(registry, digest)),
      size: (digest) => remember(`size ${digest}`, () => blobs.size(digest)),
    },
    upstreamAnswers: {
      // Bodies are not kept here: a list is large, and its reader keeps what it needs of it.
      ...upstreamAnswers,
      get: (repository, question) =>
        remember(`answer ${of(repository)} ${question}`, () => upstreamAnswers.get(repository, question)),
    },

    async transaction(fill) {
      try {
        await inner.transaction(fill)
      } finally {
        looked = false
      }
    },
  }
}

function of({ registry, name }: RepositoryKey): string {
  return `${registry}/${name}`
}
