/**
 * Incremental vacuum: gives free pages of the index back to the disk while no client writes. It takes small steps,
 * for a write that comes then waits for the step that runs.
 */
import type { Statements } from './connection.ts'

/** Fewer free bytes are soon needed again. */
const WORTH_BYTES = 1024 * 1024

/** The pages of one step, which takes some milliseconds. */
const STEP_PAGES = 256

/**
 * A database of an earlier version needs a full vacuum before it can shrink by steps, and writes wait for that: a
 * second or two for so many bytes in use. A larger one is left as it is, and reuses its free pages.
 */
const MOST_REWRITTEN_BYTES = 128 * 1024 * 1024

const INCREMENTAL = 2

/**
 * @returns whether there is more to do
 * @throws the error of SQLite, as where the disk is full
 */
export function vacuumOneStep(database: Statements): boolean {
  const pageBytes = database.number('page_size')
  const free = database.number('freelist_count')
  if (free * pageBytes < WORTH_BYTES) return false
  if (database.number('auto_vacuum') === INCREMENTAL) {
    database.prepare(`pragma incremental_vacuum(${STEP_PAGES})`).all([])
    if ((free - STEP_PAGES) * pageBytes >= WORTH_BYTES) return true
  } else {
    if (database.usedBytes() > MOST_REWRITTEN_BYTES) return false
    // `openWriter` has asked for incremental vacuum: from then on the database shrinks by steps.
    database.run('vacuum')
  }
  // SQLite cuts the file itself once the checkpoint has written all of the log to it.
  database.prepare('pragma wal_checkpoint(passive)').all([])
  return false
}
