/**
 * Numbered migrations of the metadata database.
 *
 * A migration is never edited once it was released; a new one is added at the end.
 */
import { randomUUID } from 'node:crypto'
import { sql, type Transaction } from 'kysely'
import { mirroredBy } from './rows.ts'
import { StorageError } from '../../storage-error.ts'
import type { EpochMs } from '../metadata.ts'
import type { Db, Tables } from './schema.ts'

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
      // Autoincrement never reuses the number of a deleted event: the numbers are the order.
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
    // Covers all that a trim reads, so that it reads no bodies.
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
      // Numbered in the order in which they were finished.
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
 * @param bornAt when the tables of an earlier version were made
 * @throws StorageError NEWER_SCHEMA; nothing was touched then
 */
export async function migrate(db: Db, bornAt: EpochMs): Promise<void> {
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
