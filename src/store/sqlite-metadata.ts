/**
 * The metadata database on SQLite: one file, one writing connection in its own thread, one reading one here.
 */
import { stat } from 'node:fs/promises'
import { Kysely } from 'kysely'
import { migrate, type Tables } from './schema.ts'
import { RememberedMetadata } from './remembered.ts'
import { SqlMetadata } from './sql.ts'
import { openReader, openWriter, sqliteDialect } from './sqlite.ts'
import { Writer, type WriterOptions } from './writer.ts'
import type { MetadataStore } from './metadata.ts'

/** When the database came into being, in milliseconds since 1970 by the clock of the disk; 0 where it does not say. */
export async function indexSince(path: string): Promise<number> {
  return (await stat(path)).birthtimeMs
}

/**
 * Makes the database when it is not there; its folder must be.
 *
 * @throws StorageError NEWER_SCHEMA
 */
export async function openMetadata(path: string, options?: WriterOptions): Promise<MetadataStore> {
  const migrating = new Kysely<Tables>({ dialect: sqliteDialect(openWriter(path)) })
  try {
    await migrate(migrating)
  } finally {
    await migrating.destroy()
  }
  const reader = openReader(path)
  const reading = new Kysely<Tables>({ dialect: sqliteDialect(reader) })
  return new RememberedMetadata(new SqlMetadata(reading, new Writer(path, options)), () => reader.version())
}
