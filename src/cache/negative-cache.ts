/**
 * Negative cache of one upstream, in memory: what it said a short while ago that it does not have.
 *
 * Every entry is a hint with an expiry: losing one costs a request, never an answer. Clients choose the names, so
 * the cache is bounded by weight.
 */
import type { Bytes, Milliseconds } from '../base/units.ts'
import { LRUCache } from 'lru-cache'
import type { Reference, RepositoryName, Tag } from '../oci/reference.ts'
import type { UpstreamQuestion } from '../storage/metadata/upstream-answer-index.ts'

/** The kinds of absences, and the key of each within its repository. */
interface Absences {
  repository: []
  manifest: [Reference]
  /** A manifest by the answer to a HEAD, which proves nothing: a GET still asks upstream. */
  head: [Reference]
  /** A tag that is gone upstream and goes on answering, under `on404: keep`. */
  'kept tag': [Tag]
  list: [UpstreamQuestion]
  /** A list that is gone upstream and goes on answering. */
  'kept list': [UpstreamQuestion]
}

const MEMORY_WEIGHT: Bytes = 512 * 1024
const ENTRY_WEIGHT: Bytes = 256

export class NegativeCache {
  readonly #now: () => Milliseconds
  readonly #until = new LRUCache<string, Milliseconds>({
    maxSize: MEMORY_WEIGHT,
    sizeCalculation: (_until, key) => ENTRY_WEIGHT + key.length,
  })

  constructor(now: () => Milliseconds) {
    this.#now = now
  }

  has<Kind extends keyof Absences>(kind: Kind, name: RepositoryName, ...what: Absences[Kind]): boolean {
    return (this.#until.get(keyOf(kind, name, what[0])) ?? 0) > this.#now()
  }

  remember<Kind extends keyof Absences>(
    forMs: Milliseconds,
    kind: Kind,
    name: RepositoryName,
    ...what: Absences[Kind]
  ): void {
    this.#until.set(keyOf(kind, name, what[0]), this.#now() + forMs)
  }

  forget<Kind extends keyof Absences>(kind: Kind, name: RepositoryName, ...what: Absences[Kind]): void {
    this.#until.delete(keyOf(kind, name, what[0]))
  }
}

function keyOf(kind: keyof Absences, name: RepositoryName, what = ''): string {
  return `${kind} ${name} ${what}`
}
