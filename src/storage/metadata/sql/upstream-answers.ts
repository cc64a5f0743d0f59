/** Queries and writes of the last answers of upstreams. */
import type { Bytes } from '../../../base/units.ts'
import { sql } from 'kysely'
import type { RepositoryKey, UpstreamAnswerWrites } from '../metadata.ts'
import {
  answerWeight,
  TAG_LIST,
  type UpstreamAnswerIndex,
  type UpstreamQuestion,
} from '../upstream-answer-index.ts'
import type { Writing } from './blobs.ts'
import { repositoryId } from './rows.ts'
import type { Db } from './schema.ts'

export function upstreamAnswers(db: Db): UpstreamAnswerIndex {
  const answerTo = (repository: RepositoryKey, question: UpstreamQuestion) =>
    db
      .selectFrom('upstream_answer')
      .where('repository', '=', repositoryId(repository))
      .where('question', '=', question)
  return {
    async get(repository, question) {
      const row = await answerTo(repository, question)
        .select((eb) => [
          'etag',
          'stored_at as storedAt',
          'checked_at as checkedAt',
          eb.fn<Bytes | null>('octet_length', [eb.ref('body')]).as('bodySize'),
        ])
        .executeTakeFirst()
      return row && { ...row, bodySize: row.bodySize ?? undefined, etag: row.etag ?? undefined }
    },

    async body(repository, question) {
      const row = await answerTo(repository, question).select('body').executeTakeFirst()
      return row?.body == null
        ? undefined
        : Buffer.from(row.body.buffer, row.body.byteOffset, row.body.length)
    },

    async weight() {
      const row = await db
        .selectFrom('upstream_answer')
        .select(({ fn }) => fn.sum<Bytes | null>('weight').as('bytes'))
        .executeTakeFirst()
      return row?.bytes ?? 0
    },
  }
}

export function upstreamAnswerWrites(writing: Writing): UpstreamAnswerWrites {
  const { db, add } = writing
  return {
    putUpstreamAnswer(repository, question, answer, at) {
      const { body, etag, subject } = answer
      const facts = {
        registry: repository.registry,
        subject: subject ?? null,
        body: body ?? null,
        etag: etag ?? null,
        weight: answerWeight(answer),
        stored_at: at,
        checked_at: at,
      }
      add(
        db
          .insertInto('upstream_answer')
          .values({ repository: repositoryId(repository), question, ...facts })
          .onConflict((conflict) => conflict.columns(['repository', 'question']).doUpdateSet(facts)),
      )
    },

    confirmUpstreamAnswer(repository, question, storedAt, checkedAt) {
      add(
        db
          .updateTable('upstream_answer')
          .set({ checked_at: checkedAt })
          .where('repository', '=', repositoryId(repository))
          .where('question', '=', question)
          .where('stored_at', '=', storedAt),
      )
    },

    forgetUpstreamAnswer: (repository, question) => forgetAnswer(writing, repository, question),

    trimUpstreamAnswers(toWeight) {
      const held = sql`select 1 from manifest where manifest.repository = upstream_answer.repository`
      // An answer about content that is here outlives those that strangers can make up: other names, tags, digests.
      const isAboutHeld = sql`exists (${held}) and (question = ${TAG_LIST}
        or exists (${held} and manifest.digest = upstream_answer.subject))`
      const weighed = db
        .selectFrom('upstream_answer')
        .select([
          'repository',
          'question',
          sql<number>`sum(weight) over (
            order by case when ${isAboutHeld} then 0 else 1 end, checked_at desc, repository, question
          )`.as('so_far'),
        ])
        .as('weighed')
      const over = db
        .selectFrom(weighed)
        .select(['weighed.repository', 'weighed.question'])
        .where('so_far', '>', toWeight)
      add(db.deleteFrom('upstream_answer').where(sql<boolean>`(repository, question) in ${over}`))
    },
  }
}

export function forgetAnswer(
  { db, add }: Writing,
  repository: RepositoryKey,
  question: UpstreamQuestion,
): void {
  add(
    db
      .deleteFrom('upstream_answer')
      .where('repository', '=', repositoryId(repository))
      .where('question', '=', question),
  )
}
