/** Writes about names: repositories, their tags, and the manifests that they hold. */
import type { Digest } from '../../../oci/digest.ts'
import type { NameWrites } from '../metadata.ts'
import { tagQuestion } from '../upstream-answer-index.ts'
import { putBlob, type Writing } from './blobs.ts'
import { ROWS_PER_INSERT } from './queues.ts'
import { none, some } from './references.ts'
import { mirroredBy, referenceRows, repositoryId, toJson } from './rows.ts'
import type { RepositoryId } from './schema.ts'
import { forgetAnswer } from './upstream-answers.ts'

export function nameWrites(writing: Writing): NameWrites {
  const { db, add, moved } = writing
  const manifestsOf = (id: RepositoryId) =>
    db.selectFrom('manifest as held').select('held.digest').where('held.repository', '=', id)

  /** Forgets upstream's answers about the manifest; after the last manifest, those about the repository. */
  const forgetAnswersAbout = (id: RepositoryId, digest: Digest): void => {
    const answers = db.deleteFrom('upstream_answer').where('repository', '=', id)
    const same = manifestsOf(id).where('held.digest', '=', digest)
    add(answers.where('subject', '=', digest).where(none(same)))
    add(answers.where(none(manifestsOf(id))))
  }

  const empty = (id: RepositoryId): void => {
    for (const table of ['repository_blob', 'manifest'] as const) {
      const held = db
        .selectFrom(table as 'manifest')
        .select('digest')
        .where('repository', '=', id)
      add(
        db
          .updateTable('blob')
          .set({ mirrored_by: mirroredBy(id) })
          .where('digest', 'in', held),
      )
    }
    add(db.deleteFrom('tag').where('repository', '=', id))
    add(db.deleteFrom('manifest').where('repository', '=', id))
    add(db.deleteFrom('repository_blob').where('repository', '=', id))
    add(db.deleteFrom('upstream_answer').where('repository', '=', id))
    writing.letGo = true
  }

  return {
    putRepository({ registry, name }, servedAt) {
      const facts = { served_at: servedAt, deleted_at: null }
      add(
        db
          .insertInto('repository')
          .values({ id: repositoryId({ registry, name }), registry, name, ...facts })
          .onConflict((conflict) => conflict.column('id').doUpdateSet(facts)),
      )
    },

    putManifest(repository, digest, size, content, at) {
      const facts = {
        size,
        media_type: content.mediaType,
        kind: content.kind,
        subject: content.subject?.digest ?? null,
        artifact_type: content.artifactType ?? null,
        annotations: toJson(content.annotations),
        stored_at: at,
        // A push ends the release of a manifest.
        released_at: null,
      }
      add(
        db
          .insertInto('manifest')
          .values({ repository: repositoryId(repository), digest, ...facts })
          .onConflict((conflict) => conflict.columns(['repository', 'digest']).doUpdateSet(facts)),
      )
      putBlob(writing, digest, size, at)
      // An index of 4 MiB may reference thousands.
      const rows = referenceRows(digest, content)
      for (let i = 0; i < rows.length; i += ROWS_PER_INSERT) {
        add(
          db
            .insertInto('manifest_reference')
            .values(rows.slice(i, i + ROWS_PER_INSERT))
            // The same bytes have the same references.
            .onConflict((conflict) => conflict.columns(['manifest', 'position']).doNothing()),
        )
      }
    },

    putTag(repository, { tag, digest, size, mediaType, checkedAt, deletedAt }) {
      const id = repositoryId(repository)
      const facts = {
        ...{ digest, size, media_type: mediaType, checked_at: checkedAt },
        deleted_at: deletedAt ?? null,
      }
      add(
        db
          .insertInto('tag')
          .values({ repository: id, tag, ...facts })
          .onConflict((conflict) => conflict.columns(['repository', 'tag']).doUpdateSet(facts)),
      )
      add(
        db
          .updateTable('manifest')
          .set({ released_at: null })
          .where('repository', '=', id)
          .where('digest', '=', digest)
          .where('released_at', 'is not', null),
      )
      forgetAnswer(writing, repository, tagQuestion(tag))
    },

    confirmTag(repository, tag, digest, checkedAt) {
      add(
        db
          .updateTable('tag')
          .set({ checked_at: checkedAt })
          .where('repository', '=', repositoryId(repository))
          .where('tag', '=', tag)
          .where('digest', '=', digest),
      )
    },

    buryTag(repository, tag, deletedAt) {
      add(
        db
          .updateTable('tag')
          .set({ deleted_at: deletedAt })
          .where('repository', '=', repositoryId(repository))
          .where('tag', '=', tag),
      )
    },

    deleteTag(repository, tag, at) {
      const id = repositoryId(repository)
      const tags = db.selectFrom('tag').select('digest').where('repository', '=', id)
      const others = tags.where('tag', '!=', tag).where('deleted_at', 'is', null)
      add(
        db
          .updateTable('manifest')
          .set({ released_at: at })
          .where('repository', '=', id)
          .where('digest', 'in', tags.where('tag', '=', tag))
          .where('digest', 'not in', others),
      )
      add(db.deleteFrom('tag').where('repository', '=', id).where('tag', '=', tag))
      forgetAnswer(writing, repository, tagQuestion(tag))
    },

    touchManifest(repository, digest, at) {
      add(
        db
          .updateTable('manifest')
          .set({ stored_at: at })
          .where('repository', '=', repositoryId(repository))
          .where('digest', '=', digest),
      )
    },

    deleteManifest(repository, digest, at, storedBy = Number.MAX_SAFE_INTEGER) {
      const id = repositoryId(repository)
      const still = manifestsOf(id).where('held.digest', '=', digest).where('held.stored_at', '<=', storedBy)
      const children = db
        .selectFrom('manifest_reference as n')
        .select('n.digest')
        .where('n.manifest', '=', digest)
        .where('n.role', '=', 'manifest')
      add(
        db
          .updateTable('manifest')
          .set({ released_at: at })
          .where('repository', '=', id)
          .where('released_at', 'is', null)
          .where((eb) => eb.or([eb('digest', 'in', children), eb('subject', '=', digest)]))
          .where(some(still)),
      )
      add(db.deleteFrom('tag').where('repository', '=', id).where('digest', '=', digest).where(some(still)))
      add(
        db
          .deleteFrom('manifest')
          .where('repository', '=', id)
          .where('digest', '=', digest)
          .where('stored_at', '<=', storedBy),
      )
      forgetAnswersAbout(id, digest)
      moved.add(digest)
      writing.letGo = true
    },

    dropManifest(repository, digest) {
      const id = repositoryId(repository)
      add(db.deleteFrom('manifest').where('repository', '=', id).where('digest', '=', digest))
      moved.add(digest)
      writing.letGo = true
    },

    buryRepository(repository, deletedAt) {
      const id = repositoryId(repository)
      empty(id)
      add(db.updateTable('repository').set({ deleted_at: deletedAt }).where('id', '=', id))
    },

    releaseRepository(repository) {
      const id = repositoryId(repository)
      empty(id)
      add(db.deleteFrom('repository').where('id', '=', id))
    },
  }
}
