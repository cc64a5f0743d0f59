/**
 * What a metadata transaction writes, as queries that nobody has run yet.
 */
import type { Bytes } from '../../../base/units.ts'
import { sql, type Compilable, type Kysely } from 'kysely'
import { mirroredBy, referenceRows, repositoryId, toJson } from './rows.ts'
import { trimmed } from './upstream-answers.ts'
import type { Digest } from '../../../oci/digest.ts'
import type { ManifestContent } from '../../../oci/manifest.ts'
import type { Tag } from '../../../oci/reference.ts'
import type { EpochMs, FinishedUpload, MetadataTransaction, RepositoryKey, TagRecord } from '../metadata.ts'
import type { RepositoryId, Tables } from './schema.ts'
import {
  answerWeight,
  tagQuestion,
  type NewUpstreamAnswer,
  type UpstreamQuestion,
} from '../upstream-answer-index.ts'

/** Rows of one insert. An index of 4 MiB may name thousands, and a statement takes only so many parameters. */
const ROWS_PER_INSERT = 50

/** At most half a kilobyte each. */
const MOST_FINISHED_UPLOADS = 20_000

export class SqlTransaction implements MetadataTransaction {
  readonly #db: Kysely<Tables>
  readonly #add: (query: Compilable) => void
  /** Whoever delivers events has something to do when this is committed. */
  queuedEvents = false
  /** Whose they are may be another now. */
  readonly #moved = new Set<Digest>()
  /** Something that was pushed may be nobody's any more, or was found damaged after that. */
  #letGo = false

  constructor(db: Kysely<Tables>, add: (query: Compilable) => void) {
    this.#db = db
    this.#add = add
  }

  /** After all that is written, once. */
  finish(): void {
    for (const digest of this.#moved) {
      this.#add(this.#db.updateTable('blob').set({ mirrored_by: mirroredBy() }).where('digest', '=', digest))
    }
    if (this.#letGo) this.#endQuarantinesOfNobody()
  }

  putRepository(repository: RepositoryKey, servedAt: EpochMs): void {
    const { registry, name } = repository
    this.#add(
      this.#db
        .insertInto('repository')
        .values({ id: repositoryId(repository), registry, name, served_at: servedAt, deleted_at: null })
        .onConflict((conflict) =>
          conflict.column('id').doUpdateSet({ served_at: servedAt, deleted_at: null }),
        ),
    )
  }

  putManifest(
    repository: RepositoryKey,
    digest: Digest,
    size: Bytes,
    content: ManifestContent,
    at: EpochMs,
  ): void {
    const facts = {
      size,
      media_type: content.mediaType,
      kind: content.kind,
      subject: content.subject?.digest ?? null,
      artifact_type: content.artifactType ?? null,
      annotations: toJson(content.annotations),
      stored_at: at,
      // What is pushed again is wanted again.
      released_at: null,
    }
    this.#add(
      this.#db
        .insertInto('manifest')
        .values({ repository: repositoryId(repository), digest, ...facts })
        .onConflict((conflict) => conflict.columns(['repository', 'digest']).doUpdateSet(facts)),
    )
    this.#putBlob(digest, size, at)
    const rows = referenceRows(digest, content)
    for (let i = 0; i < rows.length; i += ROWS_PER_INSERT) {
      this.#add(
        this.#db
          .insertInto('manifest_reference')
          .values(rows.slice(i, i + ROWS_PER_INSERT))
          // The same bytes name the same things.
          .onConflict((conflict) => conflict.columns(['manifest', 'position']).doNothing()),
      )
    }
  }

  putTag(repository: RepositoryKey, record: TagRecord): void {
    const facts = {
      digest: record.digest,
      size: record.size,
      media_type: record.mediaType,
      checked_at: record.checkedAt,
      deleted_at: record.deletedAt ?? null,
    }
    this.#add(
      this.#db
        .insertInto('tag')
        .values({ repository: repositoryId(repository), tag: record.tag, ...facts })
        .onConflict((conflict) => conflict.columns(['repository', 'tag']).doUpdateSet(facts)),
    )
    this.#add(
      this.#db
        .updateTable('manifest')
        .set({ released_at: null })
        .where('repository', '=', repositoryId(repository))
        .where('digest', '=', record.digest)
        .where('released_at', 'is not', null),
    )
    this.forgetUpstreamAnswer(repository, tagQuestion(record.tag))
  }

  confirmTag(repository: RepositoryKey, tag: Tag, digest: Digest, checkedAt: EpochMs): void {
    this.#add(
      this.#db
        .updateTable('tag')
        .set({ checked_at: checkedAt })
        .where('repository', '=', repositoryId(repository))
        .where('tag', '=', tag)
        .where('digest', '=', digest),
    )
  }

  buryTag(repository: RepositoryKey, tag: Tag, deletedAt: EpochMs): void {
    this.#add(
      this.#db
        .updateTable('tag')
        .set({ deleted_at: deletedAt })
        .where('repository', '=', repositoryId(repository))
        .where('tag', '=', tag),
    )
  }

  deleteTag(repository: RepositoryKey, tag: Tag, at: EpochMs): void {
    const id = repositoryId(repository)
    const named = this.#db
      .selectFrom('tag')
      .select('digest')
      .where('repository', '=', id)
      .where('tag', '=', tag)
    const others = this.#db
      .selectFrom('tag')
      .select('digest')
      .where('repository', '=', id)
      .where('tag', '!=', tag)
      .where('deleted_at', 'is', null)
    this.#add(
      this.#db
        .updateTable('manifest')
        .set({ released_at: at })
        .where('repository', '=', id)
        .where('digest', 'in', named)
        .where('digest', 'not in', others),
    )
    this.#add(this.#db.deleteFrom('tag').where('repository', '=', id).where('tag', '=', tag))
    this.forgetUpstreamAnswer(repository, tagQuestion(tag))
  }

  touchManifest(repository: RepositoryKey, digest: Digest, at: EpochMs): void {
    this.#add(
      this.#db
        .updateTable('manifest')
        .set({ stored_at: at })
        .where('repository', '=', repositoryId(repository))
        .where('digest', '=', digest),
    )
  }

  deleteManifest(repository: RepositoryKey, digest: Digest, at: EpochMs, storedBy?: EpochMs): void {
    const id = repositoryId(repository)
    const still = this.#db
      .selectFrom('manifest as m')
      .select('m.digest')
      .where('m.repository', '=', id)
      .where('m.digest', '=', digest)
      .$if(storedBy !== undefined, (query) => query.where('m.stored_at', '<=', storedBy ?? 0))
    const children = this.#db
      .selectFrom('manifest_reference')
      .select('manifest_reference.digest')
      .where('manifest', '=', digest)
      .where('role', '=', 'manifest')
    this.#add(
      this.#db
        .updateTable('manifest')
        .set({ released_at: at })
        .where('repository', '=', id)
        .where('released_at', 'is', null)
        .where((eb) => eb.or([eb('digest', 'in', children), eb('subject', '=', digest)]))
        .where((eb) => eb.exists(still)),
    )
    this.#add(
      this.#db
        .deleteFrom('tag')
        .where('repository', '=', id)
        .where('digest', '=', digest)
        .where((eb) => eb.exists(still)),
    )
    this.#add(
      this.#db
        .deleteFrom('manifest')
        .where('repository', '=', id)
        .where('digest', '=', digest)
        .$if(storedBy !== undefined, (query) => query.where('stored_at', '<=', storedBy ?? 0)),
    )
    this.#forgetAnswersAbout(id, digest)
    this.#moved.add(digest)
    this.#letGo = true
  }

  dropManifest(repository: RepositoryKey, digest: Digest): void {
    const id = repositoryId(repository)
    this.#add(this.#db.deleteFrom('manifest').where('repository', '=', id).where('digest', '=', digest))
    this.#moved.add(digest)
    this.#letGo = true
  }

  /** With a manifest goes what upstream said about it; with the last one, what it said about the repository. */
  #forgetAnswersAbout(id: RepositoryId, digest: Digest): void {
    const answers = this.#db.deleteFrom('upstream_answer').where('repository', '=', id)
    const held = this.#db.selectFrom('manifest').select('digest').where('repository', '=', id)
    const same = held.where('digest', '=', digest)
    this.#add(answers.where('subject', '=', digest).where((eb) => eb.not(eb.exists(same))))
    this.#add(answers.where((eb) => eb.not(eb.exists(held))))
  }

  buryRepository(repository: RepositoryKey, deletedAt: EpochMs): void {
    const id = repositoryId(repository)
    this.#empty(id)
    this.#add(this.#db.updateTable('repository').set({ deleted_at: deletedAt }).where('id', '=', id))
  }

  releaseRepository(repository: RepositoryKey): void {
    const id = repositoryId(repository)
    this.#empty(id)
    this.#add(this.#db.deleteFrom('repository').where('id', '=', id))
  }

  #empty(id: RepositoryId): void {
    for (const table of ['repository_blob', 'manifest'] as const) {
      const held = this.#db
        .selectFrom(table as 'manifest')
        .select('digest')
        .where('repository', '=', id)
      this.#add(
        this.#db
          .updateTable('blob')
          .set({ mirrored_by: mirroredBy(id) })
          .where('digest', 'in', held),
      )
    }
    this.#add(this.#db.deleteFrom('tag').where('repository', '=', id))
    this.#add(this.#db.deleteFrom('manifest').where('repository', '=', id))
    this.#add(this.#db.deleteFrom('repository_blob').where('repository', '=', id))
    this.#add(this.#db.deleteFrom('upstream_answer').where('repository', '=', id))
    this.#letGo = true
  }

  linkBlob(repository: RepositoryKey, digest: Digest, size: Bytes, at: EpochMs): void {
    this.#putBlob(digest, size, at)
    this.#add(
      this.#db
        .insertInto('repository_blob')
        .values({ repository: repositoryId(repository), digest, linked_at: at })
        .onConflict((conflict) => conflict.columns(['repository', 'digest']).doUpdateSet({ linked_at: at })),
    )
  }

  linkKnownBlob(repository: RepositoryKey, digest: Digest, at: EpochMs): void {
    this.#moved.add(digest)
    this.#add(
      this.#db
        .insertInto('repository_blob')
        .columns(['repository', 'digest', 'linked_at'])
        .expression((eb) =>
          eb
            .selectFrom('blob')
            .select((row) => [
              row.val(repositoryId(repository)).as('repository'),
              'blob.digest',
              row.val(at).as('linked_at'),
            ])
            .where('blob.digest', '=', digest),
        )
        .onConflict((conflict) => conflict.columns(['repository', 'digest']).doUpdateSet({ linked_at: at })),
    )
  }

  touchBlob(repository: RepositoryKey, digest: Digest, at: EpochMs): void {
    this.#add(
      this.#db
        .updateTable('repository_blob')
        .set({ linked_at: at })
        .where('repository', '=', repositoryId(repository))
        .where('digest', '=', digest),
    )
  }

  unlinkBlob(repository: RepositoryKey, digest: Digest, linkedAt?: EpochMs): void {
    this.#add(
      this.#db
        .deleteFrom('repository_blob')
        .where('repository', '=', repositoryId(repository))
        .where('digest', '=', digest)
        .$if(linkedAt !== undefined, (query) => query.where('linked_at', '=', linkedAt ?? 0)),
    )
    this.#moved.add(digest)
    this.#letGo = true
  }

  recordDelivery(registry: string, digest: Digest, size: Bytes, at: EpochMs): void {
    this.#putBlob(digest, size, at)
    this.#add(
      this.#db
        .insertInto('blob_source')
        .values({ registry, digest, delivered_at: at })
        .onConflict((conflict) => conflict.columns(['digest', 'registry']).doNothing()),
    )
  }

  recordBlob(digest: Digest, size: Bytes, at: EpochMs): void {
    this.#putBlob(digest, size, at)
  }

  markChecked(digests: readonly Digest[], at: EpochMs): void {
    for (const digest of digests) {
      this.#add(this.#db.updateTable('blob').set({ checked_at: at }).where('digest', '=', digest))
    }
  }

  putQuarantine(
    digest: Digest,
    { size, path = null }: { readonly size: Bytes; readonly path?: string | null | undefined },
    at: EpochMs,
  ): void {
    this.#add(
      this.#db
        .insertInto('quarantine')
        .values({ digest, size, found_at: at, path })
        .onConflict((conflict) => {
          const known = conflict.column('digest')
          // Of a file that is gone nothing is known that was not known before.
          return path === null ? known.doNothing() : known.doUpdateSet({ size, path })
        }),
    )
    this.#letGo = true
  }

  markPulled(digest: Digest, at: EpochMs): void {
    this.#add(
      this.#db
        .updateTable('blob')
        .set({ pulled_at: at })
        .where('digest', '=', digest)
        .where('pulled_at', '<', at),
    )
  }

  forgetBlob(digest: Digest): void {
    this.#endQuarantine(digest)
    this.#add(this.#db.deleteFrom('manifest_reference').where('manifest', '=', digest))
    this.#add(this.#db.deleteFrom('repository_blob').where('digest', '=', digest))
    this.#add(this.#db.deleteFrom('blob_source').where('digest', '=', digest))
    this.#add(this.#db.deleteFrom('blob').where('digest', '=', digest))
  }

  putUpstreamAnswer(
    repository: RepositoryKey,
    question: UpstreamQuestion,
    answer: NewUpstreamAnswer,
    at: EpochMs,
  ): void {
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
    this.#add(
      this.#db
        .insertInto('upstream_answer')
        .values({ repository: repositoryId(repository), question, ...facts })
        .onConflict((conflict) => conflict.columns(['repository', 'question']).doUpdateSet(facts)),
    )
  }

  confirmUpstreamAnswer(
    repository: RepositoryKey,
    question: UpstreamQuestion,
    storedAt: EpochMs,
    checkedAt: EpochMs,
  ): void {
    this.#add(
      this.#db
        .updateTable('upstream_answer')
        .set({ checked_at: checkedAt })
        .where('repository', '=', repositoryId(repository))
        .where('question', '=', question)
        .where('stored_at', '=', storedAt),
    )
  }

  forgetUpstreamAnswer(repository: RepositoryKey, question: UpstreamQuestion): void {
    this.#add(
      this.#db
        .deleteFrom('upstream_answer')
        .where('repository', '=', repositoryId(repository))
        .where('question', '=', question),
    )
  }

  trimUpstreamAnswers(toWeight: Bytes): void {
    this.#add(trimmed(this.#db, toWeight))
  }

  putFinishedUpload(session: string, { name, digest, finishedAt }: FinishedUpload, before: EpochMs): void {
    const table = 'finished_upload'
    this.#add(
      this.#db
        .insertInto(table)
        .values({ session, name, digest, finished_at: finishedAt })
        .onConflict((conflict) => conflict.column('session').doNothing()),
    )
    this.#add(this.#db.deleteFrom(table).where('finished_at', '<', before))
    const oldest = this.#db
      .selectFrom(table)
      .select(({ fn }) => [sql<number>`${fn.max('id')} - ${MOST_FINISHED_UPLOADS}`.as('id')])
    this.#add(this.#db.deleteFrom(table).where('id', '<=', oldest))
  }

  queueEvents(events: readonly { readonly endpoint: string; readonly body: string }[], at: EpochMs): void {
    const rows = events.map(({ endpoint, body }) => ({ endpoint, body, queued_at: at }))
    for (let i = 0; i < rows.length; i += ROWS_PER_INSERT) {
      this.#add(this.#db.insertInto('event').values(rows.slice(i, i + ROWS_PER_INSERT)))
    }
    this.queuedEvents ||= events.length > 0
  }

  dropEvents(endpoint: string, upTo: number): void {
    this.#add(this.#db.deleteFrom('event').where('endpoint', '=', endpoint).where('id', '<=', upTo))
  }

  #endQuarantine(digest: Digest): void {
    this.#add(this.#db.deleteFrom('quarantine').where('digest', '=', digest))
  }

  /** There are never many. */
  #endQuarantinesOfNobody(): void {
    this.#add(
      this.#db
        .deleteFrom('quarantine')
        .where((eb) =>
          eb.exists(
            eb
              .selectFrom('blob')
              .select('blob.digest')
              .whereRef('blob.digest', '=', 'quarantine.digest')
              .where('mirrored_by', 'is not', null),
          ),
        ),
    )
  }

  #putBlob(digest: Digest, size: Bytes, at: EpochMs): void {
    this.#moved.add(digest)
    this.#endQuarantine(digest)
    this.#add(
      this.#db
        .insertInto('blob')
        .values({ digest, size, stored_at: at, pulled_at: at, checked_at: at, mirrored_by: null })
        .onConflict((conflict) => conflict.column('digest').doUpdateSet({ size })),
    )
  }
}
