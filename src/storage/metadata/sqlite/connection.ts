/**
 * Adapter of node:sqlite for kysely: connections with their pragmas, and a cache of prepared statements.
 *
 * A kept statement halves the cost of a read. A connection is used by one thread.
 */
import { DatabaseSync, type SQLInputValue, type StatementSync } from 'node:sqlite'
import { SqliteDialect, type SqliteDatabase, type SqliteStatement } from 'kysely'
import { makePrivateDatabase } from '../../files/private-file.ts'

/** The wait for another connection's lock blocks the thread; on the main thread that is every request's. */
const BUSY_MAIN_MS = 250

/** In the writer's thread the wait blocks no request; a backup may hold the database for seconds. */
const BUSY_WRITER_MS = 5000

/** The log is cut to this after a large commit. Without large commits it grows to half of it. */
const MOST_IDLE_LOG = 8 * 1024 * 1024

/** Lists of varying length make varying statements; the least recently used ones go (LRU). */
const MAX_STATEMENTS = 200

export function openWriter(path: string): Statements {
  makePrivateDatabase(path)
  const database = new DatabaseSync(path, { timeout: BUSY_WRITER_MS })
  try {
    const statements = new Statements(database)
    // The pragma takes effect in a new database, or with a full vacuum (vacuum.ts); elsewhere it would only write.
    if (statements.number('auto_vacuum') === 0) database.exec('pragma auto_vacuum = incremental')
    database.exec('pragma journal_mode = wal; pragma synchronous = full')
    database.exec(`pragma journal_size_limit = ${MOST_IDLE_LOG}`)
    return statements
  } catch (error) {
    database.close()
    throw error
  }
}

export function openReader(path: string): Statements {
  const database = new DatabaseSync(path, { timeout: BUSY_MAIN_MS, readOnly: true })
  try {
    const statements = new Statements(database)
    // Opens the log and the shared memory now: at the first read there may be no descriptor left.
    statements.version()
    return statements
  } catch (error) {
    database.close()
    throw error
  }
}

export function sqliteDialect(database: SqliteDatabase): SqliteDialect {
  return new SqliteDialect({ database })
}

/** A connection with its prepared statements. */
export class Statements implements SqliteDatabase {
  readonly #database: DatabaseSync
  readonly #prepared = new Map<string, Statement>()

  constructor(database: DatabaseSync) {
    this.#database = database
  }

  get inTransaction(): boolean {
    return this.#database.isTransaction
  }

  prepare(sql: string): Statement {
    // A read transaction cannot be upgraded to write once another connection has written (SQLITE_BUSY).
    const text = sql === 'begin' ? 'begin immediate' : sql
    const statement = this.#prepared.get(text) ?? new Statement(this.#database, text)
    this.#prepared.delete(text)
    this.#prepared.set(text, statement)
    if (this.#prepared.size > MAX_STATEMENTS) {
      for (const oldest of this.#prepared.keys()) {
        this.#prepared.delete(oldest)
        break
      }
    }
    return statement
  }

  run(sql: string, parameters: readonly unknown[] = []): void {
    this.prepare(sql).run(parameters)
  }

  /** Changes with each commit by any other connection, of this process or another. */
  version(): number {
    return this.number('data_version')
  }

  /** Bytes of the pages that hold something. */
  usedBytes(): number {
    return (this.number('page_count') - this.number('freelist_count')) * this.number('page_size')
  }

  number(pragma: string): number {
    const [row] = this.prepare(`pragma ${pragma}`).all([]) as Record<string, number>[]
    return row?.[pragma] ?? NaN
  }

  /** Idempotent. */
  close(): void {
    this.#prepared.clear()
    if (this.#database.isOpen) this.#database.close()
  }
}

class Statement implements SqliteStatement {
  readonly reader: boolean
  readonly #database: DatabaseSync
  readonly #sql: string
  readonly #statement: StatementSync

  constructor(database: DatabaseSync, sql: string) {
    this.#database = database
    this.#sql = sql
    this.#statement = database.prepare(sql)
    this.reader = this.#statement.columns().length > 0
  }

  all(parameters: readonly unknown[]): unknown[] {
    return this.#statement.all(...(parameters as SQLInputValue[]))
  }

  run(parameters: readonly unknown[]): { changes: number | bigint; lastInsertRowid: number | bigint } {
    return this.#statement.run(...(parameters as SQLInputValue[]))
  }

  /** Prepares its own statement: a reuse of the kept one meanwhile would end the iteration. */
  iterate(parameters: readonly unknown[]): IterableIterator<unknown> {
    return this.#database.prepare(this.#sql).iterate(...(parameters as SQLInputValue[]))
  }
}
