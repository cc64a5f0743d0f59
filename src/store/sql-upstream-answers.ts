/**
 * What upstreams last answered, as queries.
 */
import type { Kysely } from 'kysely'
import type { Bytes } from './blob-store.ts'
import type { RepositoryKey } from './metadata.ts'
import type { Tables } from './schema.ts'
import { repositoryId } from './sql-rows.ts'
import type { UpstreamAnswer, UpstreamAnswerIndex, UpstreamQuestion } from './upstream-answers.ts'

export class SqlUpstreamAnswers implements UpstreamAnswerIndex {
  readonly #db: Kysely<Tables>

  constructor(db: Kysely<Tables>) {
    this.#db = db
  }

  async get(repository: RepositoryKey, question: UpstreamQuestion): Promise<UpstreamAnswer | undefined> {
    const row = await this.#of(repository, question)
      .select((eb) => [
        'etag',
        'stored_at',
        'checked_at',
        eb.fn<Bytes | null>('octet_length', [eb.ref('body')]).as('body_size'),
      ])
      .executeTakeFirst()
    return (
      row && {
        storedAt: row.stored_at,
        checkedAt: row.checked_at,
        bodySize: row.body_size ?? undefined,
        etag: row.etag ?? undefined,
      }
    )
  }

  async body(repository: RepositoryKey, question: UpstreamQuestion): Promise<Buffer | undefined> {
    const row = await this.#of(repository, question).select('body').executeTakeFirst()
    return row?.body == null ? undefined : Buffer.from(row.body.buffer, row.body.byteOffset, row.body.length)
  }

  async weight(): Promise<Bytes> {
    const row = await this.#db
      .selectFrom('upstream_answer')
      .select(({ fn }) => fn.sum<Bytes | null>('weight').as('bytes'))
      .executeTakeFirst()
    return row?.bytes ?? 0
  }

  #of(repository: RepositoryKey, question: UpstreamQuestion) {
    return this.#db
      .selectFrom('upstream_answer')
      .where('repository', '=', repositoryId(repository))
      .where('question', '=', question)
  }
}
