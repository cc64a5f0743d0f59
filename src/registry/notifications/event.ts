/**
 * What happened to a repository, for whoever wants to be told: the words that everybody says it with.
 *
 * A write is told in the commit that makes it true, so it is told exactly when it happened. A pull is told when its
 * answer has been given.
 */
import type { Descriptor } from '../../oci/descriptor.ts'
import type { Digest } from '../../oci/digest.ts'
import type { Tag } from '../../oci/reference.ts'
import type { MetadataTransaction } from '../../storage/metadata/metadata.ts'

export type EventAction = 'pull' | 'push' | 'mount' | 'delete'

/** Of a repository as a whole when it names neither a digest nor a tag. */
export interface RepositoryEvent {
  readonly action: EventAction
  /** As the catalog lists it: `team/app`, `docker.io/library/nginx`. */
  readonly repository: string
  readonly kind: 'manifest' | 'blob' | 'repository'
  readonly digest?: Digest | undefined
  readonly tag?: Tag | undefined
  readonly mediaType?: string | undefined
  readonly size?: number | undefined
  /** What a pushed manifest names. */
  readonly references?: readonly Descriptor[] | undefined
  /** Of a mount. */
  readonly fromRepository?: string | undefined
  /** Key of the upstream whose repository it is. */
  readonly upstream?: string | undefined
}

/** The request it happened by. */
export interface EventRequest {
  readonly id: string
  /** Of the client, with its port. */
  readonly addr: string | undefined
  /** What the client calls us. */
  readonly host: string | undefined
  readonly method: string
  readonly useragent: string | undefined
  /**
   * Host and port that are certainly ours: what the client calls us where that is one of our addresses or names, else
   * the address that it has connected to. Undefined: nobody knows any more.
   */
  readonly reachedBy?: string | undefined
}

export interface Events {
  /** @param cause undefined: no request, but somebody at this machine */
  queue(
    tx: MetadataTransaction,
    happenings: readonly RepositoryEvent[],
    cause: EventRequest | undefined,
  ): void
  pulled(pull: RepositoryEvent, cause: EventRequest): void
}

export const BLOB_TYPE = 'application/octet-stream'
