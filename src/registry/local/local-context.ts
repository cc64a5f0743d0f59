/** Dependencies that all local repositories share. */
import type { Logger } from 'pino'
import type { PushSpace } from '../../cache/eviction/push-space.ts'
import type { Digest } from '../../oci/digest.ts'
import type { RepositoryName } from '../../oci/reference.ts'
import type { BlobStore } from '../../storage/blobs/blob-store.ts'
import type { IngestStore } from '../../storage/ingest/ingest.ts'
import type { BlobHolds } from '../../storage/locks/blob-holds.ts'
import type { DiskReserve } from '../../storage/files/disk-reserve.ts'
import type { KeyedLocks } from '../../storage/locks/keyed-locks.ts'
import type { EpochMs, MetadataStore } from '../../storage/metadata/metadata.ts'
import type { LocalNames } from '../naming/local-names.ts'
import type { PushSettings } from '../naming/push-policy.ts'
import type { Events } from '../notifications/event.ts'
import type { UploadSessions } from '../uploads/upload-sessions.ts'
import type { PushedContent } from './pushed-content.ts'

export interface LocalContext {
  readonly store: BlobStore
  readonly bytes: PushedContent
  readonly ingests: IngestStore
  readonly metadata: MetadataStore
  readonly locks: KeyedLocks
  /** Protect what is being pushed from eviction: until now it may only have been cached. */
  readonly holds: Pick<BlobHolds, 'hold' | 'has'>
  readonly localNames: Pick<LocalNames, 'add'>
  readonly uploads: UploadSessions
  readonly pushSpace: Pick<PushSpace, 'expect'>
  /** Space for commits on a full disk that let something be collected. */
  readonly reserve: Pick<DiskReserve, 'use'>
  readonly events: Pick<Events, 'queue'>
  readonly settings: Pick<PushSettings, 'immutable'>
  /** Whether a pull under that name could read the blob, and its bytes are here. Makes no request upstream. */
  readonly readableHere: (name: RepositoryName, digest: Digest) => Promise<boolean>
  readonly log: Logger
  readonly now: () => EpochMs
}
