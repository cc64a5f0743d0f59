/**
 * Recent failures and absences of one upstream (negative cache): no client waits twice for the same failure.
 *
 * Every entry is a hint with an expiry: losing it costs a request, never an answer.
 */
import { createLru } from '../../base/lru.ts'
import { Penalty } from '../../base/backoff.ts'
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { LRUCache } from 'lru-cache'
import type { Digest } from '../../oci/digest.ts'
import type { RepositoryName } from '../../oci/reference.ts'
import { NegativeCache } from '../negative-cache.ts'
import { withoutFrames, type UpstreamError } from '../../upstream/upstream.ts'

const FAILURE_MEMORY_MS = 10_000
/** How long a digest whose bytes were wrong is not asked for. */
const CORRUPT = { first: 10_000, most: 600_000 }

/** Weight of each memory of one upstream, and of an entry beside its texts. */
const MEMORY_WEIGHT: Bytes = 512 * 1024
const ENTRY_WEIGHT: Bytes = 256

interface Failure {
  readonly error: UpstreamError
  readonly until: Milliseconds
}

export class UpstreamState {
  readonly #now: () => Milliseconds
  #failure: Failure | undefined
  readonly absent: NegativeCache
  // Bounded by weight: an error may quote a whole header of upstream, and clients choose the length of the names.
  readonly #failures = new LRUCache<RepositoryName, Failure>({
    maxSize: MEMORY_WEIGHT,
    sizeCalculation: ({ error }, name) => ENTRY_WEIGHT + name.length + error.message.length,
  })
  readonly #servedDenied = new LRUCache<RepositoryName, string>({
    maxSize: MEMORY_WEIGHT,
    sizeCalculation: (message, name) => ENTRY_WEIGHT + name.length + message.length,
  })
  readonly #corrupt = createLru<Digest, Penalty>(1_000)

  /** @param now monotonic: a clock that is set back would make every entry stick */
  constructor(now: () => Milliseconds) {
    this.#now = now
    this.absent = new NegativeCache(now)
  }

  /** The failure of the last 10 s, of the upstream or of that name, unless an answer came since. */
  failing(name: RepositoryName): UpstreamError | undefined {
    const now = this.#now()
    const failures = [this.#failure, this.#failures.get(name)]
    return failures.find((failure) => failure !== undefined && failure.until > now)?.error
  }

  /**
   * The error tells whether the whole upstream failed or that name: one bad repository must not freeze the tags of
   * all the others. Limits are not remembered here, since the requester that met one refuses at once what upstream
   * would; nor are errors that say nothing of upstream.
   */
  failed(name: RepositoryName, error: UpstreamError): void {
    if (error.failure === 'busy' || error.outOfFiles) return
    // A request that the breaker refused may be sent again when the breaker lets it.
    const lasting = Math.min(error.retryAfterMs ?? FAILURE_MEMORY_MS, FAILURE_MEMORY_MS)
    const failure = { error: withoutFrames(error), until: this.#now() + lasting }
    if (error.isHostwide) this.#failure = failure
    else this.#failures.set(name, failure)
  }

  /** An answer for that name came: the failures are forgotten. */
  answered(name: RepositoryName): void {
    this.#failure = undefined
    this.#failures.delete(name)
    this.#servedDenied.delete(name)
  }

  /** Upstream denies a repository of which cached content is served: for {@link health}. */
  servedDenied(name: RepositoryName, message: string): void {
    this.#servedDenied.set(name, message)
  }

  /** How long that digest is not to be asked for again; undefined when it may be. */
  corruptFor(digest: Digest): Milliseconds | undefined {
    const corrupt = this.#corrupt.get(digest)
    return corrupt?.running === true ? corrupt.leftMs : undefined
  }

  markCorrupt(digest: Digest): void {
    const corrupt = this.#corrupt.get(digest) ?? new Penalty({ ...CORRUPT, now: this.#now })
    this.#corrupt.set(digest, corrupt)
    corrupt.begin()
  }

  forgetCorrupt(digest: Digest): void {
    this.#corrupt.delete(digest)
  }

  health(): { state: 'ok' | 'failing' | 'denied'; message: string | undefined } {
    const failure = this.#failure
    if (failure !== undefined && failure.until > this.#now()) {
      return { state: 'failing', message: failure.error.message }
    }
    const denied = [...this.#servedDenied.entries()][0]
    if (denied !== undefined) {
      const more = this.#servedDenied.size - 1
      return {
        state: 'denied',
        message: `${denied[0]}: ${denied[1]}${more > 0 ? ` (and ${more} more repositories)` : ''}`,
      }
    }
    return { state: 'ok', message: undefined }
  }
}
