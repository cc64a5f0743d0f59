/**
 * Schema of the metadata database: its tables and their columns.
 *
 * A repository is named by one text, `<registry>/<name>`: a registry's key holds no slash, so that is unambiguous,
 * and a write needs no id that only a read could tell. Lists and maps that are only ever read whole are JSON.
 */
import type { Bytes } from '../../../base/units.ts'
import type { Generated, Kysely } from 'kysely'
import type { Digest } from '../../../oci/digest.ts'
import type { RepositoryName, Tag } from '../../../oci/reference.ts'
import type { EpochMs } from '../metadata.ts'
import type { UpstreamQuestion } from '../upstream-answer-index.ts'

declare const brand: unique symbol
export type RepositoryId = string & { readonly [brand]: 'RepositoryId' }

export type Db = Kysely<Tables>

export interface Tables {
  repository: {
    id: RepositoryId
    registry: string
    name: RepositoryName
    served_at: EpochMs | null
    deleted_at: EpochMs | null
  }
  tag: {
    repository: RepositoryId
    tag: Tag
    digest: Digest
    size: Bytes
    media_type: string
    checked_at: EpochMs
    deleted_at: EpochMs | null
  }
  manifest: {
    repository: RepositoryId
    digest: Digest
    size: Bytes
    media_type: string
    kind: string
    subject: Digest | null
    artifact_type: string | null
    /** JSON object. */
    annotations: string | null
    /** When it was last pushed, fetched, or said to be here. */
    stored_at: EpochMs
    /** When its last tag was deleted on purpose. */
    released_at: EpochMs | null
  }
  /** The references of a manifest's bytes; they are the same wherever that manifest is. */
  manifest_reference: {
    manifest: Digest
    position: number
    role: 'config' | 'layer' | 'manifest'
    digest: Digest
    size: Bytes
    media_type: string
    artifact_type: string | null
    /** JSON object. */
    annotations: string | null
    /** JSON array of where a foreign layer may be had. */
    urls: string | null
  }
  blob: {
    digest: Digest
    size: Bytes
    stored_at: EpochMs
    /** The last pull that has been written down; at first, when it came. */
    pulled_at: EpochMs
    /** When its file was last read from end to end and found right; at first, when it came. */
    checked_at: EpochMs
    /**
     * The registry that is charged for them, which is the first that gave them; empty when none did. Null: they were
     * pushed. Follows from the other tables, and is set with every write to them.
     */
    mirrored_by: string | null
  }
  /** Pushed bytes that are damaged or gone: never served until they are back. */
  quarantine: {
    digest: Digest
    /** The size of the damaged file. */
    size: Bytes
    found_at: EpochMs
    /** Path below the root of the file that was put aside; null: there was none. */
    path: string | null
  }
  /** Which repository may read a blob. */
  repository_blob: { repository: RepositoryId; digest: Digest; linked_at: EpochMs }
  /** Which registries have delivered a blob's bytes. */
  blob_source: { registry: string; digest: Digest; delivered_at: EpochMs }
  /** The outbox of notifications. */
  event: { id: Generated<number>; endpoint: string; body: string; queued_at: EpochMs }
  /** Answers of upstreams that are no content. */
  upstream_answer: {
    repository: RepositoryId
    question: UpstreamQuestion
    registry: string
    /** The manifest that it is about. */
    subject: Digest | null
    /** Null: upstream has no such thing. */
    body: Uint8Array | null
    etag: string | null
    /** The size of the whole row, about. */
    weight: Bytes
    stored_at: EpochMs
    checked_at: EpochMs
  }
  /** Upload sessions whose last response may have to be repeated. */
  finished_upload: {
    id: Generated<number>
    session: string
    name: RepositoryName
    digest: Digest
    finished_at: EpochMs
  }
  schema_version: { version: number }
  /** One row: which index this is. */
  index_identity: {
    identity: string
    /** The index cannot know files that were there before. */
    created_at: EpochMs
    /** Grows with every start and every clean stop. */
    generation: number
  }
}

/** Every index has all of these. */
export const TABLES = Object.keys({
  repository: true,
  tag: true,
  manifest: true,
  manifest_reference: true,
  blob: true,
  quarantine: true,
  repository_blob: true,
  blob_source: true,
  event: true,
  upstream_answer: true,
  finished_upload: true,
  schema_version: true,
  index_identity: true,
} satisfies Record<keyof Tables, true>)
