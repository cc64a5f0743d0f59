/**
 * How long what we know of a tag is believed, and how long it answers when upstream cannot, does not, or had better
 * not be asked. docs/architecture.md "Freshness".
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
  /** How long upstream may take where something stale can answer. */
  readonly staleBudgetMs: Milliseconds
  /** How long it may take where nothing can. dockerd and podman wait for ever, so we must not. */
  readonly budgetMs: Milliseconds
}

/** What upstream confirmed at some time. */
interface Checked {
  readonly checkedAt: Milliseconds
}

/** Goes with an answer that upstream has not confirmed. */
export interface Stale {
  readonly cache: 'stale'
  readonly warning: string
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

  isFresh({ origin }: MirrorRef, record: Checked & { readonly tag: Tag }): boolean {
    return matchesAny(origin.immutableTags, record.tag) || this.isYoung(record, origin.tagTtlMs)
  }

  /** Whether what was confirmed then is still believed. */
  isYoung({ checkedAt }: Checked, ttlMs: Milliseconds): boolean {
    const age = this.#now() - checkedAt
    // A clock that was set back would keep it young for as long.
    return age >= 0 && age < ttlMs
  }

  /** How it answers all the same, which `/readyz` hears of; undefined: it was confirmed too long ago. */
  stale(repository: MirrorRef, record: Checked, failure: UpstreamError): Stale | undefined {
    const stale = this.staleList(repository, record, failure)
    const { origin, name } = repository
    if (stale !== undefined && failure.failure === 'denied') origin.state.servedDenied(name, failure.message)
    return stale
  }

  /** The same for a list: that one is denied says nothing about pulls. */
  staleList({ origin }: MirrorRef, record: Checked, failure: UpstreamError): Stale | undefined {
    const denied = failure.failure === 'denied'
    const age = this.#now() - record.checkedAt
    // Who is offline on purpose wants what is here, for as long as that lasts.
    if (!failure.offline && age > this.#longest(origin, denied)) return undefined
    return marked(origin, failure, `confirmed ${String(Math.round(age / 1000))} s ago`)
  }

  /** Whether it could answer, should no pull be spent on what it names now. */
  staleUsable({ origin }: MirrorRef, record: Checked): boolean {
    return this.#now() - record.checkedAt <= this.#longest(origin, false)
  }

  #longest({ on404 }: Origin, denied: boolean): Milliseconds {
    const { staleIfDeniedMs, staleIfErrorMs } = this.#settings()
    if (denied) return staleIfDeniedMs
    // Where what is gone is kept, nobody has confirmed it since: that an upstream stumbles must not take it away.
    return on404 === 'keep' ? Infinity : staleIfErrorMs
  }
}

/** A stale answer in place of what upstream did not say, with what there is to know of it. */
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

/** For a tag that upstream says is gone, and that is kept. */
export function gone({ upstream }: Origin): Stale {
  return { cache: 'stale', warning: `${upstream.key} says that this tag is gone; what it named is kept here` }
}

/** For a list that upstream says is gone, and that is kept. */
export function goneList({ upstream }: Origin): Stale {
  return {
    cache: 'stale',
    warning: `${upstream.key} says that this list is gone; what it said is kept here`,
  }
}
