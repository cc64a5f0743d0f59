/**
 * Tables and numbered migrations.
 *
 * A repository is named by one text, `<registry>/<name>`: a registry's key holds no slash, so that is unambiguous,
 * and a write needs no id that only a read could tell. Lists and maps that are only ever read whole are JSON.
 * Migrations are never edited once released; a new one is added at the end.
 */
import type { Bytes } from '../../../base/units.ts'
import { randomUUID } from 'node:crypto'
import { sql, type Generated, type Kysely, type Transaction } from 'kysely'
import { mirroredBy } from './rows.ts'
import { StorageError } from '../../storage-error.ts'
import type { Digest } from '../../../oci/digest.ts'
import type { RepositoryName, Tag } from '../../../oci/reference.ts'
import type { EpochMs } from '../metadata.ts'
import type { UpstreamQuestion } from '../upstream-answer-index.ts'

declare const brand: unique symbol
export type RepositoryId = string & { readonly [brand]: 'RepositoryId' }

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
    /** Last pushed, fetched, or said to be here. */
    stored_at: EpochMs
    /** Its last tag was deleted, by somebody who meant it. */
    released_at: EpochMs | null
  }
  /** What a manifest's bytes name; the same wherever that manifest is. */
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
    /** JSON array; where a foreign layer may be had. */
    urls: string | null
  }
  blob: {
    digest: Digest
    size: Bytes
    stored_at: EpochMs
    /** Last pulled, as far as that has been written down; at first, when it came. */
    pulled_at: EpochMs
    /** When its file was last read from end to end and found right; at first, when it came. */
    checked_at: EpochMs
    /**
     * The registry that they are reckoned to, which is the first that gave them; empty when none did. Null: they were
     * pushed. Follows from the other tables, and is set with every write to them.
     */
    mirrored_by: string | null
  }
  /** Bytes that were pushed, and are not what was pushed any more, or are gone: never served until they are back. */
  quarantine: {
    digest: Digest
    /** What is left of them. */
    size: Bytes
    found_at: EpochMs
    /** Where that was put aside, below the root; null: there was nothing to put aside. */
    path: string | null
  }
  /** Which repository may read a blob. */
  repository_blob: { repository: RepositoryId; digest: Digest; linked_at: EpochMs }
  /** Which registry's word we have for a blob's bytes. */
  blob_source: { registry: string; digest: Digest; delivered_at: EpochMs }
  /** The outbox of notifications. */
  event: { id: Generated<number>; endpoint: string; body: string; queued_at: EpochMs }
  /** What upstreams answered that is no content. */
  upstream_answer: {
    repository: RepositoryId
    question: UpstreamQuestion
    registry: string
    /** The manifest that it is about. */
    subject: Digest | null
    /** Null: there is no such thing. */
    body: Uint8Array | null
    etag: string | null
    /** Of the row, about. */
    weight: Bytes
    stored_at: EpochMs
    checked_at: EpochMs
  }
  /** Sessions whose last answer may have to be given again. */
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
    /** It cannot know files that were there before. */
    created_at: EpochMs
    /** Grows with every start and every clean stop. */
    generation: number
  }
}

/** All tables that there have to be. */
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

type Migration = (db: Transaction<Tables>) => Promise<void>

const MIGRATIONS: readonly Migration[] = [
  async (db) => {
    const { schema } = db
    await schema
      .createTable('repository')
      .addColumn('id', 'text', (column) => column.primaryKey())
      .addColumn('registry', 'text', (column) => column.notNull())
      .addColumn('name', 'text', (column) => column.notNull())
      .addColumn('served_at', 'bigint')
      .addColumn('deleted_at', 'bigint')
      .addUniqueConstraint('repository_name', ['registry', 'name'])
      .execute()
    await schema
      .createTable('tag')
      .addColumn('repository', 'text', (column) => column.notNull())
      .addColumn('tag', 'text', (column) => column.notNull())
      .addColumn('digest', 'text', (column) => column.notNull())
      .addColumn('size', 'bigint', (column) => column.notNull())
      .addColumn('media_type', 'text', (column) => column.notNull())
      .addColumn('checked_at', 'bigint', (column) => column.notNull())
      .addColumn('deleted_at', 'bigint')
      .addPrimaryKeyConstraint('tag_key', ['repository', 'tag'])
      .execute()
    await schema
      .createTable('manifest')
      .addColumn('repository', 'text', (column) => column.notNull())
      .addColumn('digest', 'text', (column) => column.notNull())
      .addColumn('size', 'bigint', (column) => column.notNull())
      .addColumn('media_type', 'text', (column) => column.notNull())
      .addColumn('kind', 'text', (column) => column.notNull())
      .addColumn('subject', 'text')
      .addColumn('artifact_type', 'text')
      .addColumn('annotations', 'text')
      .addColumn('stored_at', 'bigint', (column) => column.notNull())
      .addPrimaryKeyConstraint('manifest_key', ['repository', 'digest'])
      .execute()
    await schema
      .createIndex('manifest_by_subject')
      .on('manifest')
      .columns(['subject', 'repository'])
      .where(sql.ref('subject'), 'is not', null)
      .execute()
    await schema
      .createTable('manifest_reference')
      .addColumn('manifest', 'text', (column) => column.notNull())
      .addColumn('position', 'integer', (column) => column.notNull())
      .addColumn('role', 'text', (column) => column.notNull())
      .addColumn('digest', 'text', (column) => column.notNull())
      .addColumn('size', 'bigint', (column) => column.notNull())
      .addColumn('media_type', 'text', (column) => column.notNull())
      .addColumn('artifact_type', 'text')
      .addColumn('annotations', 'text')
      .addColumn('urls', 'text')
      .addPrimaryKeyConstraint('manifest_reference_key', ['manifest', 'position'])
      .execute()
    await schema
      .createIndex('manifest_reference_by_digest')
      .on('manifest_reference')
      .columns(['digest', 'manifest'])
      .execute()
    await schema
      .createTable('blob')
      .addColumn('digest', 'text', (column) => column.primaryKey())
      .addColumn('size', 'bigint', (column) => column.notNull())
      .addColumn('stored_at', 'bigint', (column) => column.notNull())
      .execute()
    await schema
      .createTable('repository_blob')
      .addColumn('repository', 'text', (column) => column.notNull())
      .addColumn('digest', 'text', (column) => column.notNull())
      .addColumn('linked_at', 'bigint', (column) => column.notNull())
      .addPrimaryKeyConstraint('repository_blob_key', ['repository', 'digest'])
      .execute()
    await schema.createIndex('repository_blob_by_digest').on('repository_blob').column('digest').execute()
    await schema
      .createTable('blob_source')
      .addColumn('registry', 'text', (column) => column.notNull())
      .addColumn('digest', 'text', (column) => column.notNull())
      .addColumn('delivered_at', 'bigint', (column) => column.notNull())
      .addPrimaryKeyConstraint('blob_source_key', ['digest', 'registry'])
      .execute()
  },
  async (db) => {
    const { schema } = db
    await schema.alterTable('manifest').addColumn('released_at', 'bigint').execute()
    await schema.createIndex('tag_by_digest').on('tag').columns(['repository', 'digest']).execute()
    await schema.createIndex('manifest_by_digest').on('manifest').column('digest').execute()
    await schema
      .createTable('event')
      // Never the number of an event that has gone: the order is the order of the numbers.
      .addColumn('id', 'integer', (column) => column.primaryKey().autoIncrement())
      .addColumn('endpoint', 'text', (column) => column.notNull())
      .addColumn('body', 'text', (column) => column.notNull())
      .addColumn('queued_at', 'bigint', (column) => column.notNull())
      .execute()
    await schema.createIndex('event_by_endpoint').on('event').columns(['endpoint', 'id']).execute()
  },
  async (db) => {
    await db.schema
      .createIndex('manifest_released')
      .on('manifest')
      .columns(['repository', 'digest'])
      .where(sql.ref('released_at'), 'is not', null)
      .execute()
  },
  async (db) => {
    const { schema } = db
    for (const column of ['pulled_at', 'checked_at']) {
      await schema
        .alterTable('blob')
        .addColumn(column, 'bigint', (it) => it.notNull().defaultTo(0))
        .execute()
      await db
        .updateTable('blob')
        .set({ [column]: sql.ref('stored_at') })
        .execute()
    }
    await schema.createIndex('blob_by_checked_at').on('blob').columns(['checked_at', 'digest']).execute()
    await schema.alterTable('blob').addColumn('mirrored_by', 'text').execute()
    await db.updateTable('blob').set({ mirrored_by: mirroredBy() }).execute()
    await schema.createIndex('blob_by_mirrored_by').on('blob').columns(['mirrored_by', 'size']).execute()
    await schema
      .createIndex('blob_by_pulled_at')
      .on('blob')
      .columns(['pulled_at', 'digest'])
      .where(sql.ref('mirrored_by'), 'is not', null)
      .execute()
    await schema
      .createIndex('blob_source_by_registry')
      .on('blob_source')
      .columns(['registry', 'digest'])
      .execute()
    await schema
      .createTable('quarantine')
      .addColumn('digest', 'text', (column) => column.primaryKey())
      .addColumn('size', 'bigint', (column) => column.notNull())
      .addColumn('found_at', 'bigint', (column) => column.notNull())
      .addColumn('path', 'text')
      .execute()
  },
  async (db) => {
    const { schema } = db
    await schema
      .createTable('upstream_answer')
      .addColumn('repository', 'text', (column) => column.notNull())
      .addColumn('question', 'text', (column) => column.notNull())
      .addColumn('registry', 'text', (column) => column.notNull())
      .addColumn('subject', 'text')
      .addColumn('body', 'blob')
      .addColumn('etag', 'text')
      .addColumn('weight', 'bigint', (column) => column.notNull())
      .addColumn('stored_at', 'bigint', (column) => column.notNull())
      .addColumn('checked_at', 'bigint', (column) => column.notNull())
      .addPrimaryKeyConstraint('upstream_answer_key', ['repository', 'question'])
      .execute()
    await schema
      .createIndex('upstream_answer_by_registry')
      .on('upstream_answer')
      .columns(['registry', 'weight'])
      .execute()
    // All that a trim reads: bodies stay where they are.
    await schema
      .createIndex('upstream_answer_by_checked_at')
      .on('upstream_answer')
      .columns(['checked_at', 'repository', 'question', 'weight'])
      .execute()
    await schema
      .createIndex('upstream_answer_by_subject')
      .on('upstream_answer')
      .columns(['subject', 'repository'])
      .where(sql.ref('subject'), 'is not', null)
      .execute()
  },
  async (db) => {
    await db.schema
      .createTable('index_identity')
      .addColumn('identity', 'text', (column) => column.notNull())
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addColumn('generation', 'bigint', (column) => column.notNull())
      .execute()
  },
  async (db) => {
    const { schema } = db
    await schema
      .createTable('finished_upload')
      // In the order in which they were finished.
      .addColumn('id', 'integer', (column) => column.primaryKey().autoIncrement())
      .addColumn('session', 'text', (column) => column.notNull().unique())
      .addColumn('name', 'text', (column) => column.notNull())
      .addColumn('digest', 'text', (column) => column.notNull())
      .addColumn('finished_at', 'bigint', (column) => column.notNull())
      .execute()
    await schema
      .createIndex('finished_upload_by_finished_at')
      .on('finished_upload')
      .column('finished_at')
      .execute()
  },
]

/**
 * Brings the tables to the present schema, in one transaction, and gives an index that has none its identity.
 *
 * @param bornAt when the tables of an earlier version were made; those that are made now are made now
 * @throws StorageError NEWER_SCHEMA; nothing was touched then
 */
export async function migrate(db: Kysely<Tables>, bornAt: EpochMs): Promise<void> {
  await db.transaction().execute(async (tx) => {
    await tx.schema
      .createTable('schema_version')
      .ifNotExists()
      .addColumn('version', 'integer', (column) => column.notNull())
      .execute()
    const found = await tx.selectFrom('schema_version').select('version').executeTakeFirst()
    const version = found?.version ?? 0
    if (version > MIGRATIONS.length) {
      throw new StorageError(
        'NEWER_SCHEMA',
        `the metadata database has schema ${version}, written by a later version of entrepot; ` +
          `this one knows schemas up to ${MIGRATIONS.length}`,
      )
    }
    for (const migration of MIGRATIONS.slice(version)) await migration(tx)
    if (!found) await tx.insertInto('schema_version').values({ version: MIGRATIONS.length }).execute()
    else if (version < MIGRATIONS.length)
      await tx.updateTable('schema_version').set({ version: MIGRATIONS.length }).execute()
    const known = await tx.selectFrom('index_identity').select('identity').executeTakeFirst()
    if (known) return
    const createdAt = version === 0 ? Date.now() : Math.floor(bornAt)
    await tx
      .insertInto('index_identity')
      .values({ identity: randomUUID(), created_at: createdAt, generation: 0 })
      .execute()
  })
}
