/**
 * MetadataStore in SQL through kysely.
 *
 * Reads go to `db`; a transaction is only compiled here and handed to whoever writes. Nothing in this file is
 * one dialect's alone.
 */
import type { Bytes } from '../../../base/units.ts'
import { sql, type Compilable, type Kysely, type SelectQueryBuilder } from 'kysely'
import { SqlEviction } from './eviction.ts'
import { SqlGarbage } from './garbage.ts'
import { SqlInventory } from './inventory.ts'
import { childOf, descriptorOf, repositoryId } from './rows.ts'
import { SqlTransaction } from './transaction.ts'
import { SqlUpstreamAnswers } from './upstream-answers.ts'
import type { Descriptor } from '../../../oci/descriptor.ts'
import type { Digest } from '../../../oci/digest.ts'
import type { RepositoryName, Tag } from '../../../oci/reference.ts'
import type { EvictionIndex } from '../eviction-index.ts'
import type { InventoryIndex } from '../inventory-index.ts'
import { LOCAL } from '../metadata.ts'
import type { UpstreamAnswerIndex } from '../upstream-answer-index.ts'
import type {
  BlobIndex,
  ChildDescriptor,
  EpochMs,
  EventQueue,
  FinishedUpload,
  FinishedUploadIndex,
  GarbageIndex,
  ManifestIndex,
  ManifestRecord,
  MetadataStore,
  MetadataTransaction,
  Page,
  QueuedEvent,
  RepositoryIndex,
  RepositoryKey,
  TagIndex,
  TagRecord,
} from '../metadata.ts'
import type { RepositoryId, Tables } from './schema.ts'

interface SqlWriter {
  /** All of it or nothing, durable when it resolves. */
  write(queries: readonly { readonly sql: string; readonly parameters: readonly unknown[] }[]): Promise<void>
  close(): Promise<void>
}

export class SqlMetadata implements MetadataStore {
  readonly repositories: RepositoryIndex
  readonly tags: TagIndex
  readonly manifests: ManifestIndex
  readonly blobs: BlobIndex
  readonly events: SqlEvents
  readonly garbage: GarbageIndex
  readonly eviction: EvictionIndex
  readonly inventory: InventoryIndex
  readonly upstreamAnswers: UpstreamAnswerIndex
  readonly finishedUploads: FinishedUploadIndex
  readonly #db: Kysely<Tables>
  readonly #writer: SqlWriter

  /** @param usedBytes what the database needs of the disk, for those that can tell */
  constructor(db: Kysely<Tables>, writer: SqlWriter, usedBytes: () => Bytes = () => 0) {
    this.#db = db
    this.#writer = writer
    this.repositories = new SqlRepositories(db)
    this.tags = new SqlTags(db)
    this.manifests = new SqlManifests(db)
    this.blobs = new SqlBlobs(db)
    this.events = new SqlEvents(db)
    this.garbage = new SqlGarbage(db)
    this.eviction = new SqlEviction(db, usedBytes)
    this.inventory = new SqlInventory(db)
    this.upstreamAnswers = new SqlUpstreamAnswers(db)
    this.finishedUploads = new SqlFinishedUploads(db)
  }

  async transaction(fill: (tx: MetadataTransaction) => void): Promise<void> {
    const queries: { sql: string; parameters: readonly unknown[] }[] = []
    const add = (query: Compilable): void => {
      const { sql, parameters } = query.compile()
      queries.push({ sql, parameters })
    }
    const transaction = new SqlTransaction(this.#db, add)
    fill(transaction)
    transaction.finish()
    if (queries.length > 0) await this.#writer.write(queries)
    if (transaction.queuedEvents) this.events.queued()
  }

  async close(): Promise<void> {
    // The connection that closes last writes the log into the database, and a reading one cannot.
    await this.#db.destroy()
    await this.#writer.close()
  }
}

class SqlRepositories implements RepositoryIndex {
  readonly #db: Kysely<Tables>

  constructor(db: Kysely<Tables>) {
    this.#db = db
  }

  async get(repository: RepositoryKey): ReturnType<RepositoryIndex['get']> {
    const row = await this.#db
      .selectFrom('repository')
      .select(['served_at', 'deleted_at'])
      .where('id', '=', repositoryId(repository))
      .executeTakeFirst()
    return row && { servedAt: row.served_at ?? undefined, deletedAt: row.deleted_at ?? undefined }
  }

  async list(registry: string, page: Page): Promise<RepositoryName[]> {
    const rows = await this.#db
      .selectFrom('repository')
      .select('name')
      .where('registry', '=', registry)
      .where('name', '>', (page.last ?? '') as RepositoryName)
      .orderBy('name')
      .limit(page.limit)
      .execute()
    return rows.map((row) => row.name)
  }

  async catalog(page: Page, containing?: string): Promise<string[]> {
    const last = page.last ?? ''
    const like = containing === undefined ? undefined : `%${containing.replace(/[\\%_]/g, '\\$&')}%`
    // Local names stand without their registry: two ranges of the index, put together here.
    const local = this.#held(this.#db.selectFrom('repository').where('registry', '=', LOCAL))
      .where('name', '>', last as RepositoryName)
      .$if(like !== undefined, (query) => query.where(sql<boolean>`name like ${like} escape '\\'`))
      .select('name as path')
      .orderBy('name')
      .limit(page.limit)
    const mirrored = this.#held(this.#db.selectFrom('repository').where('registry', '!=', LOCAL))
      .where('id', '>', last as RepositoryId)
      .$if(like !== undefined, (query) => query.where(sql<boolean>`id like ${like} escape '\\'`))
      .select('id as path')
      .orderBy('id')
      .limit(page.limit)
    const rows = [...(await local.execute()), ...(await mirrored.execute())]
    return rows
      .map(({ path }) => path as string)
      .sort((a, b) => (a < b ? -1 : a > b ? 1 : 0))
      .slice(0, page.limit)
  }

  /** Those of which there is a manifest to pull, or, of local ones, that were not buried. */
  #held<Q extends SelectQueryBuilder<Tables, 'repository', object>>(query: Q): Q {
    return query
      .where('deleted_at', 'is', null)
      .where((eb) =>
        eb.exists(
          eb
            .selectFrom('manifest')
            .select('manifest.digest')
            .whereRef('manifest.repository', '=', 'repository.id'),
        ),
      ) as Q
  }
}

class SqlTags implements TagIndex {
  readonly #db: Kysely<Tables>

  constructor(db: Kysely<Tables>) {
    this.#db = db
  }

  async get(repository: RepositoryKey, tag: Tag): Promise<TagRecord | undefined> {
    const row = await this.#db
      .selectFrom('tag')
      .select(['tag', 'digest', 'size', 'media_type', 'checked_at', 'deleted_at'])
      .where('repository', '=', repositoryId(repository))
      .where('tag', '=', tag)
      .executeTakeFirst()
    return (
      row && {
        tag: row.tag,
        digest: row.digest,
        size: row.size,
        mediaType: row.media_type,
        checkedAt: row.checked_at,
        deletedAt: row.deleted_at ?? undefined,
      }
    )
  }

  async list(repository: RepositoryKey, page: Page): Promise<Tag[]> {
    const rows = await this.#db
      .selectFrom('tag')
      .select('tag')
      .where('repository', '=', repositoryId(repository))
      .where('tag', '>', (page.last ?? '') as Tag)
      .where('deleted_at', 'is', null)
      .orderBy('tag')
      .limit(page.limit)
      .execute()
    return rows.map((row) => row.tag)
  }

  async naming(repository: RepositoryKey, digest: Digest): Promise<Tag[]> {
    const rows = await this.#db
      .selectFrom('tag')
      .select('tag')
      .where('repository', '=', repositoryId(repository))
      .where('digest', '=', digest)
      .where('deleted_at', 'is', null)
      .orderBy('tag')
      .execute()
    return rows.map((row) => row.tag)
  }

  async held(repository: RepositoryKey, limit: number): Promise<Pick<TagRecord, 'tag' | 'checkedAt'>[]> {
    return await this.#db
      .selectFrom('tag')
      .innerJoin('manifest', (join) =>
        join.onRef('manifest.repository', '=', 'tag.repository').onRef('manifest.digest', '=', 'tag.digest'),
      )
      .select(['tag.tag', 'tag.checked_at as checkedAt'])
      .where('tag.repository', '=', repositoryId(repository))
      .where('tag.deleted_at', 'is', null)
      .orderBy('tag.tag')
      .limit(limit)
      .execute()
  }
}

class SqlManifests implements ManifestIndex {
  readonly #db: Kysely<Tables>

  constructor(db: Kysely<Tables>) {
    this.#db = db
  }

  async get(repository: RepositoryKey, digest: Digest): Promise<ManifestRecord | undefined> {
    const row = await this.#db
      .selectFrom('manifest')
      .select(['digest', 'size', 'media_type'])
      .where('repository', '=', repositoryId(repository))
      .where('digest', '=', digest)
      .executeTakeFirst()
    return row && { digest: row.digest, size: row.size, mediaType: row.media_type }
  }

  async storedAt(repository: RepositoryKey, digest: Digest): Promise<EpochMs | undefined> {
    const row = await this.#db
      .selectFrom('manifest')
      .select('stored_at')
      .where('repository', '=', repositoryId(repository))
      .where('digest', '=', digest)
      .executeTakeFirst()
    return row?.stored_at
  }

  async list(repository: RepositoryKey, page: Page): Promise<Digest[]> {
    const rows = await this.#db
      .selectFrom('manifest')
      .select('digest')
      .where('repository', '=', repositoryId(repository))
      .where('digest', '>', (page.last ?? '') as Digest)
      .orderBy('digest')
      .limit(page.limit)
      .execute()
    return rows.map((row) => row.digest)
  }

  async named(repository: RepositoryKey, digest: Digest): Promise<ChildDescriptor | undefined> {
    const row = await this.#naming(repository, digest)
      .selectAll('manifest_reference')
      .limit(1)
      .executeTakeFirst()
    return row && childOf(row)
  }

  async children(manifest: Digest): Promise<ChildDescriptor[]> {
    const rows = await this.#db
      .selectFrom('manifest_reference')
      .selectAll()
      .where('manifest', '=', manifest)
      .orderBy('position')
      .execute()
    return rows.map(childOf)
  }

  async referrers(repository: RepositoryKey, subject: Digest): Promise<Descriptor[]> {
    const rows = await this.#db
      .selectFrom('manifest')
      .select(['media_type', 'digest', 'size', 'artifact_type', 'annotations'])
      .where('repository', '=', repositoryId(repository))
      .where('subject', '=', subject)
      .orderBy('stored_at')
      .orderBy('digest')
      .execute()
    return rows.map(descriptorOf)
  }

  #naming(repository: RepositoryKey, digest: Digest) {
    return this.#db
      .selectFrom('manifest_reference')
      .innerJoin('manifest', 'manifest.digest', 'manifest_reference.manifest')
      .where('manifest_reference.digest', '=', digest)
      .where('manifest.repository', '=', repositoryId(repository))
  }
}

class SqlBlobs implements BlobIndex {
  readonly #db: Kysely<Tables>

  constructor(db: Kysely<Tables>) {
    this.#db = db
  }

  async linked(repository: RepositoryKey, digest: Digest): Promise<boolean> {
    return (await this.linkedAt(repository, digest)) !== undefined
  }

  async linkedAt(repository: RepositoryKey, digest: Digest): Promise<EpochMs | undefined> {
    const row = await this.#db
      .selectFrom('repository_blob')
      .select('linked_at')
      .where('repository', '=', repositoryId(repository))
      .where('digest', '=', digest)
      .executeTakeFirst()
    return row?.linked_at
  }

  async deliveredBy(registry: string, digest: Digest): Promise<boolean> {
    const row = await this.#db
      .selectFrom('blob_source')
      .select('delivered_at')
      .where('digest', '=', digest)
      .where('registry', '=', registry)
      .executeTakeFirst()
    return row !== undefined
  }

  async size(digest: Digest): Promise<Bytes | undefined> {
    const row = await this.#db
      .selectFrom('blob')
      .select('size')
      .where('digest', '=', digest)
      .executeTakeFirst()
    return row?.size
  }
}

class SqlEvents implements EventQueue {
  readonly #db: Kysely<Tables>
  readonly #listeners = new Set<() => void>()

  constructor(db: Kysely<Tables>) {
    this.#db = db
  }

  async next(endpoint: string, limit: number, after = 0): Promise<readonly QueuedEvent[]> {
    const rows = await this.#db
      .selectFrom('event')
      .select(['id', 'body', 'queued_at'])
      .where('endpoint', '=', endpoint)
      .where('id', '>', after)
      .orderBy('id')
      .limit(limit)
      .execute()
    return rows.map(({ id, body, queued_at }) => ({ id, body, queuedAt: queued_at }))
  }

  async count(endpoint: string): Promise<number> {
    const row = await this.#db
      .selectFrom('event')
      .select(({ fn }) => fn.countAll<number>().as('count'))
      .where('endpoint', '=', endpoint)
      .executeTakeFirstOrThrow()
    return row.count
  }

  async endpoints(): Promise<readonly string[]> {
    const rows = await this.#db
      .selectFrom('event')
      .select('endpoint')
      .distinct()
      .orderBy('endpoint')
      .execute()
    return rows.map(({ endpoint }) => endpoint)
  }

  onQueued(listener: () => void): Disposable {
    this.#listeners.add(listener)
    return { [Symbol.dispose]: () => this.#listeners.delete(listener) }
  }

  /** Something was committed. */
  queued(): void {
    for (const listener of this.#listeners) listener()
  }
}

class SqlFinishedUploads implements FinishedUploadIndex {
  readonly #db: Kysely<Tables>

  constructor(db: Kysely<Tables>) {
    this.#db = db
  }

  async get(session: string): Promise<FinishedUpload | undefined> {
    const row = await this.#db
      .selectFrom('finished_upload')
      .select(['name', 'digest', 'finished_at'])
      .where('session', '=', session)
      .executeTakeFirst()
    return row && { name: row.name, digest: row.digest, finishedAt: row.finished_at }
  }
}
