/** Snapshot and integrity check of an SQLite database: reads that need more than the one reading connection. */
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { Kysely } from 'kysely'
import type { Db, Tables } from '../sql/schema.ts'
import { openReader, sqliteDialect } from './connection.ts'

/** Faults of the database at `path`, in its own words. */
export async function problemsOf(path: string): Promise<readonly string[]> {
  const entry = new URL('./check-worker.ts', import.meta.url)
  const worker = new Worker(entry, { workerData: path, execArgv: [] })
  try {
    const [problems] = (await once(worker, 'message')) as [readonly string[]]
    return problems
  } finally {
    await worker.terminate()
  }
}

/** A connection that sees all that was committed before the call, and nothing of what comes later. */
export async function openSnapshot(path: string): Promise<{ readonly db: Db } & AsyncDisposable> {
  const statements = openReader(path)
  try {
    statements.run('begin deferred')
    const db = new Kysely<Tables>({ dialect: sqliteDialect(statements) })
    // The first read fixes the moment of the transaction.
    await db.selectFrom('schema_version').select('version').execute()
    const dispose = async (): Promise<void> => {
      statements.run('rollback')
      await db.destroy()
    }
    return { db, [Symbol.asyncDispose]: dispose }
  } catch (error) {
    statements.close()
    throw error
  }
}
