/**
 * Events of repositories: what happened to one, and by which request.
 *
 * A write is queued in the commit that makes it true, so an event is there exactly when the write is. A pull is queued
 * when its answer has been given.
 */
import type { Descriptor } from '../../oci/descriptor.ts'
import type { Digest } from '../../oci/digest.ts'
import type { Tag } from '../../oci/reference.ts'
import type { MetadataTransaction } from '../../storage/metadata/metadata.ts'

export type EventAction = 'pull' | 'push' | 'mount' | 'delete'

/** Without a digest and a tag it is about the repository as a whole. */
export interface RepositoryEvent {
  readonly action: EventAction
  /** As the catalog lists it: `team/app`, `docker.io/library/nginx`. */
  readonly repository: string
  readonly kind: 'manifest' | 'blob' | 'repository'
  readonly digest?: Digest | undefined
  readonly tag?: Tag | undefined
  readonly mediaType?: string | undefined
  readonly size?: number | undefined
  /** Those of a pushed manifest. */
  readonly references?: readonly Descriptor[] | undefined
  /** The source of a mount. */
  readonly fromRepository?: string | undefined
  /** Key of the upstream of a mirrored repository. */
  readonly upstream?: string | undefined
}

/** The request of a client that caused an event. */
export interface EventRequest {
  readonly id: string
  /** Address and port of the client. */
  readonly addr: string | undefined
  /** `Host` as the client sent it. */
  readonly host: string | undefined
  readonly method: string
  readonly useragent: string | undefined
  /**
   * Host and port that are certainly ours: `Host` where that is one of our addresses or names, else the address that
   * the client has connected to. Undefined: it is no longer known.
   */
  readonly reachedBy?: string | undefined
}

export interface Events {
  /** @param cause undefined: no request, but the operator's command */
  queue(
    tx: MetadataTransaction,
    happenings: readonly RepositoryEvent[],
    cause: EventRequest | undefined,
  ): void
  pulled(pull: RepositoryEvent, cause: EventRequest): void
}

export const BLOB_TYPE = 'application/octet-stream'
