/**
 * Repository events: what happened, and the request that caused it.
 *
 * A write's event is queued in the transaction of the write, so that neither exists without the other. A pull's event
 * is queued once the pull is answered.
 */
import type { Descriptor } from '../../oci/descriptor.ts'
import type { Digest } from '../../oci/digest.ts'
import type { Tag } from '../../oci/reference.ts'
import type { MetadataTransaction } from '../../storage/metadata/metadata.ts'

export type EventAction = 'pull' | 'push' | 'mount' | 'delete'

/** Without digest and tag, the event is about the repository as a whole. */
export interface RepositoryEvent {
  readonly action: EventAction
  /** Name in the catalog: `team/app`, `docker.io/library/nginx`. */
  readonly repository: string
  readonly kind: 'manifest' | 'blob' | 'repository'
  readonly digest?: Digest | undefined
  readonly tag?: Tag | undefined
  readonly mediaType?: string | undefined
  readonly size?: number | undefined
  /** Descriptors in a pushed manifest. */
  readonly references?: readonly Descriptor[] | undefined
  readonly fromRepository?: string | undefined
  /** Key of the upstream of a mirrored repository. */
  readonly upstream?: string | undefined
}

export interface EventRequest {
  readonly id: string
  /** Address and port of the client. */
  readonly addr: string | undefined
  /** `Host` as the client sent it. */
  readonly host: string | undefined
  readonly method: string
  readonly useragent: string | undefined
  /**
   * Host and port that are certainly this server's: `Host` if that is one of its addresses or names, else the address
   * to which the client is connected. Undefined: that is no longer known.
   */
  readonly reachedBy?: string | undefined
}

export interface Events {
  /** @param cause undefined: the operator's command, no request */
  queue(
    tx: MetadataTransaction,
    happenings: readonly RepositoryEvent[],
    cause: EventRequest | undefined,
  ): void
  pulled(pull: RepositoryEvent, cause: EventRequest): void
}

export const BLOB_TYPE = 'application/octet-stream'
