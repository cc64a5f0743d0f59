/**
 * Recent failures and absences of one upstream (a negative cache in memory), so that nobody waits twice for the same
 * failure.
 *
 * One object per upstream. Everything in it is a hint with an expiry: losing it costs a request, never an
 * answer. An interface, because replicas will want to share it.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { LRUCache } from 'lru-cache'
import type { Digest } from '../../oci/digest.ts'
import type { RepositoryName } from '../../oci/reference.ts'
import { withoutFrames, type UpstreamError } from '../../upstream/upstream.ts'

export interface UpstreamState {
  /** What went wrong in the last 10 s, for all of it or for that name, unless something was answered since. */
  failing(name: RepositoryName): UpstreamError | undefined
  /**
   * Whether it is the whole upstream's failure or that name's is told by the error: one bad repository must
   * not freeze the tags of all the others. Limits are not remembered here: who asks keeps them, and refuses at
   * once what upstream would. Nor is what says nothing of upstream.
   */
  failed(name: RepositoryName, error: UpstreamError): void
  /** Something arrived for that name: the failures are forgotten. */
  answered(name: RepositoryName): void

  /** Said to be absent a short while ago. `what` is any text that names it within this upstream. */
  isAbsent(what: string): boolean
  rememberAbsent(what: string, forMs: Milliseconds): void
  forgetAbsent(what: string): void

  /** Upstream denies a repository of which something cached is served: for {@link health}. */
  servedDenied(name: RepositoryName, message: string): void

  /** How long that digest is not to be asked for again; undefined when it may be. */
  corruptFor(digest: Digest): Milliseconds | undefined
  /** Its bytes were wrong twice: 10 s of silence, doubling to 10 min with every further time. */
  markCorrupt(digest: Digest): void
  forgetCorrupt(digest: Digest): void

  health(): { state: 'ok' | 'failing' | 'denied'; message: string | undefined }
}

const FAILURE_MEMORY_MS = 10_000
const CORRUPT_FIRST_MS = 10_000
const CORRUPT_MOST_MS = 600_000

/** Room for each of the memories of one upstream, and what an entry takes beside its texts. */
const MEMORY_WEIGHT: Bytes = 512 * 1024
const ENTRY_WEIGHT: Bytes = 256

interface Failure {
  readonly error: UpstreamError
  readonly until: Milliseconds
}

export class InProcessUpstreamState implements UpstreamState {
  readonly #now: () => Milliseconds
  #failure: Failure | undefined
  // What is said of a failure may hold a whole header of somebody else's, and names are as long as strangers like.
  readonly #absent = new LRUCache<string, Milliseconds>({
    maxSize: MEMORY_WEIGHT,
    sizeCalculation: (_until, what) => ENTRY_WEIGHT + what.length,
  })
  readonly #failures = new LRUCache<RepositoryName, Failure>({
    maxSize: MEMORY_WEIGHT,
    sizeCalculation: ({ error }, name) => ENTRY_WEIGHT + name.length + error.message.length,
  })
  readonly #servedDenied = new LRUCache<RepositoryName, string>({
    maxSize: MEMORY_WEIGHT,
    sizeCalculation: (message, name) => ENTRY_WEIGHT + name.length + message.length,
  })
  // By count it would lay out all of its room at once, and there is one for every upstream.
  readonly #corrupt = new LRUCache<Digest, { until: Milliseconds; silence: Milliseconds }>({
    maxSize: 1_000,
    sizeCalculation: () => 1,
  })

  /** @param now monotonic: a clock that is set back would make every memory stick */
  constructor(now: () => Milliseconds) {
    this.#now = now
  }

  failing(name: RepositoryName): UpstreamError | undefined {
    const now = this.#now()
    const failures = [this.#failure, this.#failures.get(name)]
    return failures.find((failure) => failure !== undefined && failure.until > now)?.error
  }

  failed(name: RepositoryName, error: UpstreamError): void {
    if (error.failure === 'busy' || error.outOfFiles) return
    // Who was refused in its place may ask again when it may be asked.
    const lasting = Math.min(error.retryAfterMs ?? FAILURE_MEMORY_MS, FAILURE_MEMORY_MS)
    const failure = { error: withoutFrames(error), until: this.#now() + lasting }
    if (error.ofTheWhole) this.#failure = failure
    else this.#failures.set(name, failure)
  }

  answered(name: RepositoryName): void {
    this.#failure = undefined
    this.#failures.delete(name)
    this.#servedDenied.delete(name)
  }

  isAbsent(what: string): boolean {
    return (this.#absent.get(what) ?? 0) > this.#now()
  }

  rememberAbsent(what: string, forMs: Milliseconds): void {
    this.#absent.set(what, this.#now() + forMs)
  }

  forgetAbsent(what: string): void {
    this.#absent.delete(what)
  }

  servedDenied(name: RepositoryName, message: string): void {
    this.#servedDenied.set(name, message)
  }

  corruptFor(digest: Digest): Milliseconds | undefined {
    const left = (this.#corrupt.get(digest)?.until ?? 0) - this.#now()
    return left > 0 ? left : undefined
  }

  markCorrupt(digest: Digest): void {
    const before = this.#corrupt.get(digest)
    const silence = before === undefined ? CORRUPT_FIRST_MS : Math.min(before.silence * 2, CORRUPT_MOST_MS)
    this.#corrupt.set(digest, { until: this.#now() + silence, silence })
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
