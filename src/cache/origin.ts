/**
 * Where misses go: an upstream with everything we keep about it, and a repository there.
 */
import type { RepositoryName } from '../oci/reference.ts'
import type { RepositoryKey } from '../store/metadata.ts'
import type { TransferSlots } from '../upstream/slots.ts'
import type { Milliseconds, Upstream } from '../upstream/upstream.ts'
import type { UpstreamState } from './upstream-state.ts'

export interface Origin {
  readonly upstream: Upstream
  /** Who may transfer a blob from it now. */
  readonly slots: TransferSlots
  readonly state: UpstreamState
  /** Our credentials there; its complaint is a sentence for people while they are refused. */
  readonly account?: { readonly complaint: string | undefined } | undefined
  /** How long a tag of it is believed. */
  readonly tagTtlMs: Milliseconds
}

/** One repository of an upstream; `name` is upstream's name for it. */
export interface MirroredName {
  readonly origin: Origin
  readonly name: RepositoryName
}

export function repositoryKey(repository: MirroredName): RepositoryKey {
  return { registry: repository.origin.upstream.key, name: repository.name }
}
