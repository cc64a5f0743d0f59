/**
 * The index for those who read all of it: on connections of their own, so that nobody waits for them, and, for a
 * snapshot, at one moment for as long as it is read.
 */
import { once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { Kysely } from 'kysely'
import { childrenOf, SqlAudit } from '../sql/audit.ts'
import { repositoryId } from '../sql/rows.ts'
import { SqlScrub } from '../sql/scrub-queries.ts'
import { openReader, sqliteDialect, type Statements } from './connection.ts'
import { LOCAL } from '../metadata.ts'
import type { Digest } from '../../../oci/digest.ts'
import type { RepositoryName } from '../../../oci/reference.ts'
import type { AuditIndex, LocalSnapshot, ScrubIndex } from '../audit-index.ts'
import type { Tables } from '../sql/schema.ts'

/** @param path of the database; it must be there */
export function openAudit(path: string): AuditIndex {
  return openScrub(path)
}

/** The same, and when what was last checked. */
export function openScrub(path: string): AuditIndex & { readonly scrub: ScrubIndex } {
  const statements = openReader(path)
  const db = new Kysely<Tables>({ dialect: sqliteDialect(statements) })
  return Object.assign(new SqlAudit(db), {
    scrub: new SqlScrub(db),
    problems: () => problemsOf(path),
    [Symbol.asyncDispose]: async () => {
      await db.destroy()
      // Of a connection that was never used kysely knows nothing.
      statements.close()
    },
  })
}

async function problemsOf(path: string): Promise<readonly string[]> {
  const entry = new URL('./check-worker.ts', import.meta.url)
  const worker = new Worker(entry, { workerData: path, execArgv: [] })
  try {
    const [problems] = (await once(worker, 'message')) as [readonly string[]]
    return problems
  } finally {
    await worker.terminate()
  }
}

/** What was committed before the call is in it, nothing of what comes later. */
export async function openSnapshot(path: string): Promise<LocalSnapshot> {
  const statements = openReader(path)
  try {
    statements.run('begin deferred')
    const db = new Kysely<Tables>({ dialect: sqliteDialect(statements) })
    // The transaction is of the moment of its first read.
    await db.selectFrom('schema_version').select('version').execute()
    return new SqlSnapshot(db, statements)
  } catch (error) {
    statements.close()
    throw error
  }
}

class SqlSnapshot implements LocalSnapshot {
  readonly #db: Kysely<Tables>
  readonly #statements: Statements

  constructor(db: Kysely<Tables>, statements: Statements) {
    this.#db = db
    this.#statements = statements
  }

  async repositories(): ReturnType<LocalSnapshot['repositories']> {
    const rows = await this.#db
      .selectFrom('repository')
      .select(['name', 'deleted_at'])
      .where('registry', '=', LOCAL)
      .orderBy('name')
      .execute()
    return rows.map(({ name, deleted_at }) => ({ name, deletedAt: deleted_at ?? undefined }))
  }

  async tags(name: RepositoryName): ReturnType<LocalSnapshot['tags']> {
    return this.#db
      .selectFrom('tag')
      .select(['tag', 'digest'])
      .where('repository', '=', repositoryId({ registry: LOCAL, name }))
      .where('deleted_at', 'is', null)
      .orderBy('tag')
      .execute()
  }

  async manifests(name: RepositoryName): ReturnType<LocalSnapshot['manifests']> {
    // A read blocks the thread: everybody else gets a turn between two repositories.
    await turn()
    const rows = await this.#db
      .selectFrom('manifest')
      .select(['digest', 'size', 'media_type', 'subject', 'released_at'])
      .where('repository', '=', repositoryId({ registry: LOCAL, name }))
      .orderBy('digest')
      .execute()
    return rows.map(({ digest, size, media_type, subject, released_at }) => ({
      digest,
      size,
      mediaType: media_type,
      subject: subject ?? undefined,
      releasedAt: released_at ?? undefined,
    }))
  }

  async links(name: RepositoryName): ReturnType<LocalSnapshot['links']> {
    const rows = await this.#db
      .selectFrom('repository_blob as l')
      .leftJoin('blob as b', 'b.digest', 'l.digest')
      .select(['l.digest', 'b.size'])
      .where('l.repository', '=', repositoryId({ registry: LOCAL, name }))
      .execute()
    return rows.map(({ digest, size }) => ({ digest, size: size ?? undefined }))
  }

  async children(manifest: Digest): ReturnType<LocalSnapshot['children']> {
    await turn()
    return childrenOf(this.#db, manifest)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#statements.run('rollback')
    await this.#db.destroy()
  }
}
