/** Queries of the inventory: about a few digests by their keys, about everything in parts. */
import { sql } from 'kysely'
import type { Digest } from '../../../oci/digest.ts'
import type { Tag } from '../../../oci/reference.ts'
import type { InventoryIndex, KnownBytes, Weight } from '../inventory-index.ts'
import { LOCAL, type EpochMs } from '../metadata.ts'
import { liveTags, none, references, referencesTo } from './references.ts'
import { repositoryId, withManifests } from './rows.ts'
import type { Db, RepositoryId } from './schema.ts'

/** A statement takes only so many parameters, and each length of a list makes another statement. */
const DIGESTS = 500

/** Manifests of a part. */
const PART = 500

export function inventory(db: Db): InventoryIndex {
  return {
    ...references(db),

    async blobs(digests) {
      const found: KnownBytes[] = []
      for (const part of partsOf(digests)) {
        const rows = await db
          .selectFrom('blob')
          .select(['digest', 'size', 'mirrored_by'])
          .select(['stored_at as storedAt', 'pulled_at as pulledAt', 'checked_at as checkedAt'])
          .where('digest', 'in', part)
          .execute()
        found.push(...rows.map(({ mirrored_by, ...row }) => ({ ...row, pushed: mirrored_by === null })))
      }
      return found
    },

    async quarantined(digests) {
      const found = new Map<Digest, EpochMs>()
      for (const part of partsOf(digests)) {
        const rows = await db
          .selectFrom('quarantine')
          .select(['digest', 'found_at'])
          .where('digest', 'in', part)
          .execute()
        for (const { digest, found_at } of rows) found.set(digest, found_at)
      }
      return found
    },

    async colder(pulledAt, limit) {
      const some = db
        .selectFrom('blob')
        .select('digest')
        .where('mirrored_by', 'is not', null)
        .where('pulled_at', '<', pulledAt)
        .limit(limit)
      const { count } = await db
        .selectFrom(some.as('b'))
        .select(({ fn }) => fn.countAll<number>().as('count'))
        .executeTakeFirstOrThrow()
      return count
    },

    repositories(kind, page) {
      const first = kind === 'local' ? `${LOCAL}/${page.last ?? ''}` : (page.last ?? '')
      return withManifests(db)
        .select(['r.registry', 'r.name'])
        .where('r.id', '>', first as RepositoryId)
        .where('r.registry', kind === 'local' ? '=' : '!=', LOCAL)
        .orderBy('r.id')
        .limit(page.limit)
        .execute()
    },

    tags: (repository, page) =>
      liveTags(db, repositoryId(repository))
        .select(['t.tag', 't.digest', 't.checked_at as checkedAt'])
        .where('t.tag', '>', (page.last ?? '') as Tag)
        .orderBy('t.tag')
        .limit(page.limit)
        .execute(),

    async untagged(repository, last = '' as Digest) {
      const id = repositoryId(repository)
      const manifests = db
        .selectFrom('manifest as m')
        .select('m.digest')
        .where('m.repository', '=', id)
        .where('m.digest', '>', last)
        .orderBy('m.digest')
      const scanned = await manifests.limit(PART).execute()
      const to = scanned.at(-1)
      if (to === undefined) return { found: [], next: undefined }
      const digest = sql.ref<Digest>('m.digest')
      const parents = referencesTo(db, digest)
        .where('n.role', '=', 'manifest')
        .where('parent.repository', '=', id)
      const rows = await manifests
        .where('m.digest', '<=', to.digest)
        .where(none(liveTags(db, id).select('t.tag').where('t.digest', '=', digest)))
        .where(none(parents.select('n.position')))
        .execute()
      return {
        found: rows.map((row) => row.digest),
        next: scanned.length < PART ? undefined : to.digest,
      }
    },

    async weights(manifests) {
      const found: Weight[] = []
      for (const part of partsOf(manifests)) {
        const rows = await db
          .withRecursive('reach(root, digest, role)', (reach) =>
            reach
              .selectFrom('blob')
              .select(['digest as root', 'digest', sql<string>`'manifest'`.as('role')])
              .where('digest', 'in', part)
              .union(
                reach
                  .selectFrom('manifest_reference as n')
                  .innerJoin('reach', 'reach.digest', 'n.manifest')
                  .select(['reach.root', 'n.digest', 'n.role']),
              ),
          )
          .selectFrom('reach')
          .innerJoin('blob as b', 'b.digest', 'reach.digest')
          .select(({ fn }) => [
            'reach.root as digest',
            fn.sum<number>('b.size').as('bytes'),
            sql<EpochMs>`max(case when reach.role = 'manifest' then b.pulled_at else 0 end)`.as('pulledAt'),
            sql<EpochMs>`max(case when reach.root = reach.digest then b.stored_at else 0 end)`.as('storedAt'),
          ])
          .groupBy('reach.root')
          .execute()
        found.push(...rows)
      }
      return found
    },
  }
}

function* partsOf(digests: readonly Digest[]): Generator<Digest[]> {
  for (let from = 0; from < digests.length; from += DIGESTS) yield digests.slice(from, from + DIGESTS)
}
