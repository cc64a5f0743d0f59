/** The metadata database on SQLite: one file, one writing connection in its own thread, one reading one in ours. */
import { statSync } from 'node:fs'
import { Kysely } from 'kysely'
import {
  assertFilesAreThere,
  assertHasTables,
  assertIsMarked,
  beginGeneration,
  doubt,
  CLEAN_STOP,
  markOf,
  openingError,
  readIdentity,
} from './index-identity.ts'
import { migrate } from '../sql/migrations.ts'
import type { Tables } from '../sql/schema.ts'
import { cachingMetadata } from '../caching-metadata.ts'
import { sqlMetadata } from '../sql/sql-metadata.ts'
import { openReader, openWriter, sqliteDialect, type Statements } from './connection.ts'
import { Writer, type WriterOptions } from './writer.ts'
import { openSnapshot, problemsOf } from './snapshot.ts'
import type { MetadataStore } from '../metadata.ts'

interface MetadataOptions extends WriterOptions {
  /** The index replaces a lost one and is not finished: it is not compared with the mark beside it. */
  readonly unfinished?: boolean
}

/**
 * Makes the database when it is absent; its folder must exist. Once closed, it is complete in its one file.
 *
 * @throws StorageError NEWER_SCHEMA, LOST_INDEX, NOT_PERMITTED
 */
export async function openMetadata(
  path: string,
  { unfinished = false, ...options }: MetadataOptions = {},
): Promise<MetadataStore> {
  const reader = await openIndex(path, unfinished)
  const reading = new Kysely<Tables>({ dialect: sqliteDialect(reader) })
  const writer = new Writer(path, options)
  const metadata = sqlMetadata(reading, {
    write: (queries) => writer.write(queries),
    usedBytes: () => reader.usedBytes(),
    problems: () => problemsOf(path),
    snapshot: () => openSnapshot(path),
    close: () => {
      // Kysely does not close a connection that was never used.
      reader.close()
      return writer.close(CLEAN_STOP)
    },
  })
  return cachingMetadata(metadata, () => reader.version())
}

/** Checks the index, migrates it and begins its generation. @returns a connection for reading */
async function openIndex(path: string, unfinished: boolean): Promise<Statements> {
  let opened: Statements | undefined
  let begun = false
  try {
    const mark = unfinished ? undefined : markOf(path)
    assertFilesAreThere(path, mark)
    opened = openWriter(path)
    if (mark !== undefined) assertIsMarked(path, opened, mark)
    const wasThere = readIdentity(opened) !== undefined
    await migrate(new Kysely<Tables>({ dialect: sqliteDialect(opened) }), statSync(path).birthtimeMs)
    assertHasTables(path, opened)
    if (wasThere) doubt(path, opened)
    begun = true
    beginGeneration(path, opened, unfinished)
    // The reader has read, so the log stays when the other connection closes.
    return openReader(path)
  } catch (error) {
    // Then the close leaves everything in the main file, as a clean stop does.
    if (begun) endGeneration(opened)
    throw openingError(path, error)
  } finally {
    opened?.close()
  }
}

function endGeneration(opened: Statements | undefined): void {
  try {
    for (const { sql } of CLEAN_STOP) opened?.run(sql)
  } catch {
    // The caller already throws the error that ends the start.
  }
}
