/**
 * Queries and writes about bytes: which are known, which repository may read them, who gave them, which are damaged.
 */
import type { Bytes } from '../../../base/units.ts'
import { sql, type Compilable } from 'kysely'
import type { Digest } from '../../../oci/digest.ts'
import type { BlobIndex, BlobWrites, EpochMs } from '../metadata.ts'
import { some } from './references.ts'
import { mirroredBy, repositoryId } from './rows.ts'
import type { Db } from './schema.ts'

/** A transaction in the making: statements that have not run yet, and what has to follow them. */
export interface Writing {
  readonly db: Db
  readonly add: (query: Compilable) => void
  /** Digests whose `blob.mirrored_by` may have to be another one. */
  readonly moved: Set<Digest>
  /** Pushed bytes may have lost their last repository, or were found damaged. */
  letGo: boolean
  /** This commit wakes the delivery of events. */
  queuedEvents: boolean
}

export function blobs(db: Db): BlobIndex {
  return {
    linked: async (repository, digest) => (await linkedAt(db, repository, digest)) !== undefined,
    linkedAt: (repository, digest) => linkedAt(db, repository, digest),

    async deliveredBy(registry, digest) {
      const row = await db
        .selectFrom('blob_source')
        .select('delivered_at')
        .where('digest', '=', digest)
        .where('registry', '=', registry)
        .executeTakeFirst()
      return row !== undefined
    },

    async size(digest) {
      const row = await db.selectFrom('blob').select('size').where('digest', '=', digest).executeTakeFirst()
      return row?.size
    },
  }
}

async function linkedAt(db: Db, ...[repository, digest]: Parameters<BlobIndex['linkedAt']>) {
  const row = await db
    .selectFrom('repository_blob')
    .select('linked_at')
    .where('repository', '=', repositoryId(repository))
    .where('digest', '=', digest)
    .executeTakeFirst()
  return row?.linked_at
}

export function blobWrites(writing: Writing): BlobWrites {
  const { db, add, moved } = writing
  return {
    linkBlob(repository, digest, size, at) {
      putBlob(writing, digest, size, at)
      add(
        db
          .insertInto('repository_blob')
          .values({ repository: repositoryId(repository), digest, linked_at: at })
          .onConflict((conflict) =>
            conflict.columns(['repository', 'digest']).doUpdateSet({ linked_at: at }),
          ),
      )
    },

    linkKnownBlob(repository, digest, at) {
      moved.add(digest)
      const known = db
        .selectFrom('blob')
        .select((eb) => [
          eb.val(repositoryId(repository)).as('repository'),
          'blob.digest',
          eb.val(at).as('linked_at'),
        ])
        .where('blob.digest', '=', digest)
      add(
        db
          .insertInto('repository_blob')
          .columns(['repository', 'digest', 'linked_at'])
          .expression(known)
          .onConflict((conflict) =>
            conflict.columns(['repository', 'digest']).doUpdateSet({ linked_at: at }),
          ),
      )
    },

    touchBlob(repository, digest, at) {
      add(
        db
          .updateTable('repository_blob')
          .set({ linked_at: at })
          .where('repository', '=', repositoryId(repository))
          .where('digest', '=', digest),
      )
    },

    unlinkBlob(repository, digest, linkedAt) {
      const link = db
        .deleteFrom('repository_blob')
        .where('repository', '=', repositoryId(repository))
        .where('digest', '=', digest)
      add(linkedAt === undefined ? link : link.where('linked_at', '=', linkedAt))
      moved.add(digest)
      writing.letGo = true
    },

    recordDelivery(registry, digest, size, at) {
      putBlob(writing, digest, size, at)
      add(
        db
          .insertInto('blob_source')
          .values({ registry, digest, delivered_at: at })
          .onConflict((conflict) => conflict.columns(['digest', 'registry']).doNothing()),
      )
    },

    recordBlob: (digest, size, at) => putBlob(writing, digest, size, at),

    markChecked(digests, at) {
      for (const digest of digests) {
        add(db.updateTable('blob').set({ checked_at: at }).where('digest', '=', digest))
      }
    },

    putQuarantine(digest, { size, path = null }, at) {
      add(
        db
          .insertInto('quarantine')
          .values({ digest, size, found_at: at, path })
          .onConflict((conflict) => {
            const known = conflict.column('digest')
            // A file that is gone adds nothing to what an earlier quarantine says.
            return path === null ? known.doNothing() : known.doUpdateSet({ size, path })
          }),
      )
      writing.letGo = true
    },

    markPulled(digest, at) {
      add(
        db
          .updateTable('blob')
          .set({ pulled_at: at })
          .where('digest', '=', digest)
          .where('pulled_at', '<', at),
      )
    },

    forgetBlob(digest) {
      add(db.deleteFrom('quarantine').where('digest', '=', digest))
      add(db.deleteFrom('manifest_reference').where('manifest', '=', digest))
      add(db.deleteFrom('repository_blob').where('digest', '=', digest))
      add(db.deleteFrom('blob_source').where('digest', '=', digest))
      add(db.deleteFrom('blob').where('digest', '=', digest))
    },
  }
}

export function putBlob({ db, add, moved }: Writing, digest: Digest, size: Bytes, at: EpochMs): void {
  moved.add(digest)
  add(db.deleteFrom('quarantine').where('digest', '=', digest))
  add(
    db
      .insertInto('blob')
      .values({ digest, size, stored_at: at, pulled_at: at, checked_at: at, mirrored_by: null })
      .onConflict((conflict) => conflict.column('digest').doUpdateSet({ size })),
  )
}

/** The last statements of a transaction: they charge the bytes to their registry, and end needless quarantines. */
export function settleBlobs({ db, add, moved, letGo }: Writing): void {
  for (const digest of moved) {
    add(db.updateTable('blob').set({ mirrored_by: mirroredBy() }).where('digest', '=', digest))
  }
  if (!letGo) return
  // There are never many in quarantine.
  const mirrored = db
    .selectFrom('blob')
    .select('blob.digest')
    .where('blob.digest', '=', sql.ref<Digest>('quarantine.digest'))
    .where('mirrored_by', 'is not', null)
  add(db.deleteFrom('quarantine').where(some(mirrored)))
}
