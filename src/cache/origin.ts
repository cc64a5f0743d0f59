/**
 * Where misses go: an upstream with everything we keep about it, and a repository there.
 */
import type { Milliseconds } from '../base/units.ts'
import type { RepositoryName } from '../oci/reference.ts'
import type { RepositoryKey } from '../storage/metadata/metadata.ts'
import type { TransferSlots } from '../upstream/limits/transfer-slots.ts'
import type { Upstream } from '../upstream/upstream.ts'
import type { SegmentPolicy } from './download/segment-policy.ts'
import type { UpstreamState } from './resilience/upstream-state.ts'

export interface Origin {
  readonly upstream: Upstream
  /** Who may transfer a blob from it now. */
  readonly slots: TransferSlots
  /** How its large blobs are cut; undefined: they are not. */
  readonly segments?: SegmentPolicy | undefined
  readonly state: UpstreamState
  /** How long a tag of it is believed. */
  readonly tagTtlMs: Milliseconds
  /** Globs over tags that never move: one that was heard of is believed for ever. */
  readonly immutableTags: readonly string[]
  /** What becomes of a tag that it says is gone: `keep` goes on answering, marked stale. */
  readonly on404: 'drop' | 'keep'
  /** With fewer pulls left than this, none is spent on a tag that has a cached answer. */
  readonly reserve: number
}

/** One repository of an upstream; `name` is upstream's name for it. */
export interface MirrorRef {
  readonly origin: Origin
  readonly name: RepositoryName
}

export function repositoryKey(repository: MirrorRef): RepositoryKey {
  return { registry: repository.origin.upstream.key, name: repository.name }
}

const numbers = new WeakMap<Upstream, number>()
let lastNumber = 0

/**
 * Tells what is under way at one upstream from what is at another, also where the other came in its place by a new
 * configuration: nobody who is asked now waits for the one of before.
 */
export function flightKey({ upstream }: Pick<Origin, 'upstream'>, what: string): string {
  let number = numbers.get(upstream)
  if (number === undefined) numbers.set(upstream, (number = lastNumber += 1))
  return `${number} ${what}`
}
