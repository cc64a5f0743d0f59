/**
 * Freshness of tags (TTL and stale-if-error): how long a cached tag is believed, and how long it answers stale where
 * upstream cannot be asked, does not say, or is spared. Its rules are docs/architecture.md "Freshness".
 */
import type { Milliseconds } from '../../base/units.ts'
import { matchesAny } from '../../oci/glob.ts'
import type { Tag } from '../../oci/reference.ts'
import type { UpstreamError } from '../../upstream/upstream.ts'
import type { MirrorRef, Origin } from '../origin.ts'

export interface FreshnessSettings {
  readonly negativeTtlMs: Milliseconds
  readonly staleIfErrorMs: Milliseconds
  readonly staleIfDeniedMs: Milliseconds
  /** How long upstream may take where a stale answer is available. */
  readonly staleBudgetMs: Milliseconds
  /** How long it may take otherwise. dockerd and podman wait for ever, so the cache must not. */
  readonly budgetMs: Milliseconds
}

interface Confirmed {
  readonly checkedAt: Milliseconds
}

/** Marks an answer that upstream has not confirmed. */
interface Stale {
  readonly cache: 'stale'
  readonly warning: string
}

/** Whether a confirmation of that age is still believed. */
export function isYoung(ageMs: Milliseconds, ttlMs: Milliseconds): boolean {
  // A clock that was set back would keep it young for as long.
  return ageMs >= 0 && ageMs < ttlMs
}

export class Freshness {
  readonly #settings: () => FreshnessSettings
  readonly #now: () => Milliseconds

  constructor(settings: () => FreshnessSettings, now: () => Milliseconds) {
    this.#settings = settings
    this.#now = now
  }

  get settings(): FreshnessSettings {
    return this.#settings()
  }

  isFresh({ origin }: MirrorRef, record: Confirmed & { readonly tag: Tag }): boolean {
    return matchesAny(origin.immutableTags, record.tag) || this.isYoung(record, origin.tagTtlMs)
  }

  isYoung(record: Confirmed, ttlMs: Milliseconds): boolean {
    return isYoung(this.age(record), ttlMs)
  }

  age({ checkedAt }: Confirmed): Milliseconds {
    return this.#now() - checkedAt
  }

  /** The marks of a stale answer, which `/readyz` reports; undefined: the confirmation is too old. */
  stale(repository: MirrorRef, record: Confirmed, failure: UpstreamError): Stale | undefined {
    const stale = this.staleList(repository, record, failure)
    const { origin, name } = repository
    if (stale !== undefined && failure.failure === 'denied') origin.state.servedDenied(name, failure.message)
    return stale
  }

  /** The same for a list: that one is denied says nothing about pulls. */
  staleList({ origin }: MirrorRef, record: Confirmed, failure: UpstreamError): Stale | undefined {
    const age = this.age(record)
    if (age > this.staleForMs(origin, failure)) return undefined
    return marked(origin, failure, `confirmed ${String(Math.round(age / 1000))} s ago`)
  }

  /** Whether the record could answer, should no pull be spent on what it names now. */
  staleUsable({ origin }: MirrorRef, record: Confirmed): boolean {
    return this.age(record) <= this.staleForMs(origin)
  }

  /**
   * How long after its confirmation a record answers where upstream does not.
   *
   * @param why upstream does not; left out where it could be asked
   */
  staleForMs({ on404 }: Origin, why?: Pick<UpstreamError, 'failure' | 'offline'>): Milliseconds {
    const { staleIfDeniedMs, staleIfErrorMs } = this.#settings()
    // An operator who takes an upstream offline wants the cached content, for as long as that lasts.
    if (why?.offline === true) return Infinity
    if (why?.failure === 'denied') return staleIfDeniedMs
    // Upstream confirms no tag that is kept although it is gone: an upstream that fails must not take it away.
    return on404 === 'keep' ? Infinity : staleIfErrorMs
  }
}

/** A stale answer in place of one that upstream did not give. */
export function marked({ upstream }: Origin, failure: UpstreamError, what: string): Stale {
  const why = failure.failure === 'denied' ? 'denies access' : cannot(failure)
  return { cache: 'stale', warning: `${upstream.key} ${why}; ${what}` }
}

function cannot({ offline, failure, scope, outOfFiles }: UpstreamError): string {
  if (outOfFiles) return 'was not asked, since no more files may be opened here'
  if (offline) return 'is offline by configuration'
  if (failure !== 'busy') return 'cannot be asked'
  return scope === 'pulls' ? 'limits our pulls' : 'limits our requests'
}

/** A stale answer for a tag that upstream says is gone, and that is kept. */
export function gone({ upstream }: Origin): Stale {
  return { cache: 'stale', warning: `${upstream.key} says that this tag is gone; what it named is kept here` }
}

export function goneList({ upstream }: Origin): Stale {
  return { cache: 'stale', warning: `${upstream.key} says that this list is gone; what it said is kept here` }
}
