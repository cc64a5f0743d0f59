/**
 * Read cache in front of the index: what every pull asks is answered from memory for as long as nothing was committed.
 *
 * Reads see what was committed, as without it. Whatever thread or process writes, it changes the number that the
 * database gives its state, and with another number everything is forgotten. That number is looked at before the first
 * read of each turn of the event loop, and again after each write of ours: nobody who was told of a commit can ask in
 * between. So nothing here has to know which write concerns which read.
 */
import { LRUCache } from 'lru-cache'
import type { BlobIndex, MetadataStore, RepositoryKey } from './metadata.ts'

/** Half a kilobyte each: a few thousand images whose every tag and manifest is asked for. */
const MOST = 10_000

/** @param version another one after each commit; throws when the database cannot be read */
export function cachingMetadata(inner: MetadataStore, version: () => number): MetadataStore {
  /** The reads themselves: a second one that asks the same meanwhile waits for the first. */
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

  // It is not `async`, so that what is remembered is given out as it is.
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
    // A failure is no knowledge: the next one reads again.
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
