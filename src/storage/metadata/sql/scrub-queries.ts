/** Queries of the scrub: when blobs were last checked, and which were found damaged. */
import type { ScrubIndex } from '../audit-index.ts'
import type { Db } from './schema.ts'

export function scrub(db: Db): ScrubIndex {
  const oldest = db
    .selectFrom('blob')
    .select(['digest', 'checked_at as checkedAt'])
    .orderBy('checked_at')
    .orderBy('digest')
  return {
    async due({ before, after }, limit) {
      const rows = await oldest.where('checked_at', '<', before).limit(limit).execute()
      return rows.length > 0 ? rows : oldest.where('checked_at', '>', after).limit(limit).execute()
    },

    oldestCheck: async () => (await oldest.limit(1).executeTakeFirst())?.checkedAt,

    async quarantined(limit) {
      const { count } = await db
        .selectFrom('quarantine')
        .select(({ fn }) => fn.countAll<number>().as('count'))
        .executeTakeFirstOrThrow()
      if (count === 0 || limit === 0) return { count, first: [] }
      const rows = await db
        .selectFrom('quarantine')
        .select(['digest', 'found_at as foundAt', 'path'])
        .orderBy('found_at')
        .orderBy('digest')
        .limit(limit)
        .execute()
      return { count, first: rows.map((row) => ({ ...row, path: row.path ?? undefined })) }
    },
  }
}
