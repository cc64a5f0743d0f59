/**
 * Queries and writes of two queues: events on their way to an end-point (the outbox of notifications), and upload
 * sessions that became a blob.
 */
import { sql } from 'kysely'
import type { EventQueue, FinishedUploadIndex, QueueWrites } from '../metadata.ts'
import type { Writing } from './blobs.ts'
import type { Db } from './schema.ts'

/** Rows of one insert, for a statement takes only so many parameters. */
export const ROWS_PER_INSERT = 50

/** At most half a kilobyte each. */
const MOST_FINISHED_UPLOADS = 20_000

/** @param listeners are called after each commit that queued something */
export function events(db: Db, listeners: Set<() => void>): EventQueue {
  return {
    next: (endpoint, limit, after = 0) =>
      db
        .selectFrom('event')
        .select(['id', 'body', 'queued_at as queuedAt'])
        .where('endpoint', '=', endpoint)
        .where('id', '>', after)
        .orderBy('id')
        .limit(limit)
        .execute(),

    async count(endpoint) {
      const row = await db
        .selectFrom('event')
        .select(({ fn }) => fn.countAll<number>().as('count'))
        .where('endpoint', '=', endpoint)
        .executeTakeFirstOrThrow()
      return row.count
    },

    async endpoints() {
      const rows = await db.selectFrom('event').select('endpoint').distinct().orderBy('endpoint').execute()
      return rows.map(({ endpoint }) => endpoint)
    },

    onQueued(listener) {
      listeners.add(listener)
      return { [Symbol.dispose]: () => listeners.delete(listener) }
    },
  }
}

export function finishedUploads(db: Db): FinishedUploadIndex {
  return {
    get: (session) =>
      db
        .selectFrom('finished_upload')
        .select(['name', 'digest', 'finished_at as finishedAt'])
        .where('session', '=', session)
        .executeTakeFirst(),
  }
}

export function queueWrites(writing: Writing): QueueWrites {
  const { db, add } = writing
  return {
    putFinishedUpload(session, { name, digest, finishedAt }, before) {
      const table = 'finished_upload'
      add(
        db
          .insertInto(table)
          .values({ session, name, digest, finished_at: finishedAt })
          .onConflict((conflict) => conflict.column('session').doNothing()),
      )
      add(db.deleteFrom(table).where('finished_at', '<', before))
      const oldest = db
        .selectFrom(table)
        .select(({ fn }) => [sql<number>`${fn.max('id')} - ${MOST_FINISHED_UPLOADS}`.as('id')])
      add(db.deleteFrom(table).where('id', '<=', oldest))
    },

    queueEvents(events, at) {
      const rows = events.map(({ endpoint, body }) => ({ endpoint, body, queued_at: at }))
      for (let i = 0; i < rows.length; i += ROWS_PER_INSERT) {
        add(db.insertInto('event').values(rows.slice(i, i + ROWS_PER_INSERT)))
      }
      writing.queuedEvents ||= rows.length > 0
    },

    dropEvents(endpoint, upTo) {
      add(db.deleteFrom('event').where('endpoint', '=', endpoint).where('id', '<=', upTo))
    },
  }
}
