/**
 * Metadata store in SQL through kysely.
 *
 * Reads go to `db`; a transaction is only compiled here and handed to the writer. No query in this folder is one
 * dialect's alone.
 */
import type { Bytes } from '../../../base/units.ts'
import type { Compilable } from 'kysely'
import type { AuditIndex } from '../audit-index.ts'
import type { MetadataStore } from '../metadata.ts'
import { audit, localSnapshot } from './audit.ts'
import { blobs, blobWrites, settleBlobs, type Writing } from './blobs.ts'
import { eviction } from './eviction.ts'
import { garbage } from './garbage.ts'
import { inventory } from './inventory.ts'
import { nameWrites } from './name-writes.ts'
import { manifests, repositories, tags } from './names.ts'
import { events, finishedUploads, queueWrites } from './queues.ts'
import type { Db } from './schema.ts'
import { scrub } from './scrub-queries.ts'
import { upstreamAnswers, upstreamAnswerWrites } from './upstream-answers.ts'

/** The operations that each database does in its own way. */
interface SqlBackend {
  /** One transaction, durable when it resolves. */
  write(queries: readonly { readonly sql: string; readonly parameters: readonly unknown[] }[]): Promise<void>
  /** The disk space that the database needs. */
  usedBytes(): Bytes
  problems: AuditIndex['problems']
  /** A connection on which all reads see what was committed before the call. */
  snapshot(): Promise<{ readonly db: Db } & AsyncDisposable>
  close(): Promise<void>
}

export function sqlMetadata(db: Db, backend: SqlBackend): MetadataStore {
  const listeners = new Set<() => void>()
  return {
    repositories: repositories(db),
    tags: tags(db),
    manifests: manifests(db),
    blobs: blobs(db),
    events: events(db, listeners),
    garbage: garbage(db),
    eviction: eviction(db, () => backend.usedBytes()),
    inventory: inventory(db),
    upstreamAnswers: upstreamAnswers(db),
    finishedUploads: finishedUploads(db),
    audit: audit(db, () => backend.problems()),
    scrub: scrub(db),

    async snapshot() {
      const connection = await backend.snapshot()
      const dispose = (): PromiseLike<void> => connection[Symbol.asyncDispose]()
      return { ...localSnapshot(connection.db), [Symbol.asyncDispose]: dispose }
    },

    async createdAt() {
      const row = await db.selectFrom('index_identity').select('created_at').executeTakeFirstOrThrow()
      return row.created_at
    },

    async transaction(fill) {
      const queries: { sql: string; parameters: readonly unknown[] }[] = []
      const add = (query: Compilable): void => {
        const { sql, parameters } = query.compile()
        queries.push({ sql, parameters })
      }
      const writing: Writing = { db, add, moved: new Set(), letGo: false, queuedEvents: false }
      fill({
        ...nameWrites(writing),
        ...blobWrites(writing),
        ...upstreamAnswerWrites(writing),
        ...queueWrites(writing),
      })
      settleBlobs(writing)
      if (queries.length > 0) await backend.write(queries)
      if (writing.queuedEvents) for (const listener of listeners) listener()
    },

    async close() {
      // The connection that closes last writes the log into the database, and a reading one cannot.
      await db.destroy()
      await backend.close()
    },
  }
}
