/**
 * The origin of a miss: an upstream with its limits and its state, and a repository there.
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
  /** Semaphore of its blob transfers. */
  readonly slots: TransferSlots
  /** How its large blobs are cut into segments; undefined: they are not. */
  readonly segments?: SegmentPolicy | undefined
  readonly state: UpstreamState
  readonly tagTtlMs: Milliseconds
  /** Globs over tags that never move: such a tag is believed for ever once it is known. */
  readonly immutableTags: readonly string[]
  /** What becomes of a tag that upstream says is gone: `keep` goes on answering, marked stale. */
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
 * Single-flight key of a request at one upstream. A new configuration may replace an upstream under the same name: a
 * request to the new one never waits for a flight of the old one.
 */
export function flightKey({ upstream }: Pick<Origin, 'upstream'>, what: string): string {
  let number = numbers.get(upstream)
  if (number === undefined) numbers.set(upstream, (number = lastNumber += 1))
  return `${number} ${what}`
}
