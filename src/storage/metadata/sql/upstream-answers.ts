/**
 * What upstreams last answered, as queries.
 */
import type { Bytes } from '../../../base/units.ts'
import { sql, type Compilable, type Kysely } from 'kysely'
import type { RepositoryKey } from '../metadata.ts'
import type { Tables } from './schema.ts'
import { repositoryId } from './rows.ts'
import {
  TAG_LIST,
  type UpstreamAnswer,
  type UpstreamAnswerIndex,
  type UpstreamQuestion,
} from '../upstream-answer-index.ts'

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

/** What goes so that the others weigh no more than that. */
export function trimmed(db: Kysely<Tables>, toWeight: Bytes): Compilable {
  const held = sql`select 1 from manifest where manifest.repository = upstream_answer.repository`
  // What is about something that is here outlives what strangers can make up: other names, tags and digests.
  const wanted = sql`exists (${held}) and (question = ${TAG_LIST}
    or exists (${held} and manifest.digest = upstream_answer.subject))`
  const weighed = db
    .selectFrom('upstream_answer')
    .select([
      'repository',
      'question',
      sql<number>`sum(weight) over (
        order by case when ${wanted} then 0 else 1 end, checked_at desc, repository, question
      )`.as('so_far'),
    ])
    .as('weighed')
  const over = db
    .selectFrom(weighed)
    .select(['weighed.repository', 'weighed.question'])
    .where('so_far', '>', toWeight)
  return db.deleteFrom('upstream_answer').where(sql<boolean>`(repository, question) in ${over}`)
}
