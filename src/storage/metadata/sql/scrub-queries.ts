/**
 * When blobs were last checked, and which were found damaged, as queries.
 */
import type { Kysely } from 'kysely'
import type { Digest } from '../../../oci/digest.ts'
import type { ScrubIndex } from '../audit-index.ts'
import type { EpochMs } from '../metadata.ts'
import type { Tables } from './schema.ts'

export class SqlScrub implements ScrubIndex {
  readonly #db: Kysely<Tables>

  constructor(db: Kysely<Tables>) {
    this.#db = db
  }

  async due(
    { before, after }: Parameters<ScrubIndex['due']>[0],
    limit: number,
  ): ReturnType<ScrubIndex['due']> {
    const oldest = this.#db
      .selectFrom('blob')
      .select(['digest', 'checked_at'])
      .orderBy('checked_at')
      .orderBy('digest')
      .limit(limit)
    const rows = await oldest.where('checked_at', '<', before).execute()
    if (rows.length === 0) rows.push(...(await oldest.where('checked_at', '>', after).execute()))
    return rows.map(({ digest, checked_at }) => ({ digest, checkedAt: checked_at }))
  }

  async oldestCheck(): Promise<EpochMs | undefined> {
    const row = await this.#db
      .selectFrom('blob')
      .select('checked_at')
      .orderBy('checked_at')
      .limit(1)
      .executeTakeFirst()
    return row?.checked_at
  }

  async isQuarantined(digest: Digest): Promise<boolean> {
    const row = await this.#db
      .selectFrom('quarantine')
      .select('digest')
      .where('digest', '=', digest)
      .executeTakeFirst()
    return row !== undefined
  }

  async quarantined(limit: number): ReturnType<ScrubIndex['quarantined']> {
    const { count } = await this.#db
      .selectFrom('quarantine')
      .select(({ fn }) => fn.countAll<number>().as('count'))
      .executeTakeFirstOrThrow()
    if (count === 0 || limit === 0) return { count, first: [] }
    const rows = await this.#db
      .selectFrom('quarantine')
      .select(['digest', 'found_at', 'path'])
      .orderBy('found_at')
      .orderBy('digest')
      .limit(limit)
      .execute()
    const first = rows.map(({ digest, found_at, path }) => ({
      digest,
      foundAt: found_at,
      path: path ?? undefined,
    }))
    return { count, first }
  }
}
