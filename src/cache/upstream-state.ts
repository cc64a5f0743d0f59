/**
 * What we remember of an upstream's bad days, so that nobody waits twice for the same disappointment.
 *
 * One object per upstream. Everything in it is a hint with an expiry: losing it costs a request, never an
 * answer. An interface, because replicas will want to share it.
 */
import { LRUCache } from 'lru-cache'
import type { Digest } from '../oci/digest.ts'
import type { RepositoryName } from '../oci/reference.ts'
import type { Milliseconds, UpstreamError } from '../upstream/upstream.ts'

export interface UpstreamState {
  /** The failure of the last 10 s, unless something was answered since: serve stale at once. */
  failing(): UpstreamError | undefined
  failed(error: UpstreamError): void
  /** Something arrived: the failure is forgotten. */
  answered(): void

  /** Said to be absent a short while ago. `what` is any text that names it within this upstream. */
  isAbsent(what: string): boolean
  rememberAbsent(what: string, forMs: Milliseconds): void
  forgetAbsent(what: string): void

  /** Upstream denied a repository of which something is cached. */
  denied(name: RepositoryName, message: string): void
  /** The denial of the last 10 s. */
  denying(name: RepositoryName): UpstreamError | undefined
  rememberDenial(name: RepositoryName, error: UpstreamError): void
  allowed(name: RepositoryName): void

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

export class InProcessUpstreamState implements UpstreamState {
  readonly #now: () => Milliseconds
  #failure: { error: UpstreamError; until: Milliseconds } | undefined
  readonly #absent = new LRUCache<string, Milliseconds>({ max: 10_000 })
  readonly #denials = new LRUCache<RepositoryName, { error: UpstreamError; until: Milliseconds }>({
    max: 1_000,
  })
  readonly #deniedCached = new LRUCache<RepositoryName, string>({ max: 1_000 })
  readonly #corrupt = new LRUCache<Digest, { until: Milliseconds; silence: Milliseconds }>({ max: 10_000 })

  /** @param now monotonic or wall clock; only differences are used */
  constructor(now: () => Milliseconds) {
    this.#now = now
  }

  failing(): UpstreamError | undefined {
    return this.#failure !== undefined && this.#failure.until > this.#now() ? this.#failure.error : undefined
  }

  failed(error: UpstreamError): void {
    this.#failure = { error, until: this.#now() + FAILURE_MEMORY_MS }
  }

  answered(): void {
    this.#failure = undefined
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

  denied(name: RepositoryName, message: string): void {
    this.#deniedCached.set(name, message)
  }

  denying(name: RepositoryName): UpstreamError | undefined {
    const denial = this.#denials.get(name)
    return denial !== undefined && denial.until > this.#now() ? denial.error : undefined
  }

  rememberDenial(name: RepositoryName, error: UpstreamError): void {
    this.#denials.set(name, { error, until: this.#now() + FAILURE_MEMORY_MS })
  }

  allowed(name: RepositoryName): void {
    this.#denials.delete(name)
    this.#deniedCached.delete(name)
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
    const failure = this.failing()
    if (failure !== undefined) return { state: 'failing', message: failure.message }
    const denied = [...this.#deniedCached.entries()][0]
    if (denied !== undefined) {
      const more = this.#deniedCached.size - 1
      return {
        state: 'denied',
        message: `${denied[0]}: ${denied[1]}${more > 0 ? ` (and ${more} more repositories)` : ''}`,
      }
    }
    return { state: 'ok', message: undefined }
  }
}
