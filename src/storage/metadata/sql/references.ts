/**
 * Queries over the graph of manifests: what each one references, and what references a digest.
 *
 * Each relation is written once: a query that needs one as its condition takes it from here.
 */
import { sql, type Expression, type SqlBool } from 'kysely'
import type { Digest } from '../../../oci/digest.ts'
import type { ReferenceIndex, RepositoryKey } from '../metadata.ts'
import { childOf, repositoryId } from './rows.ts'
import type { Db, RepositoryId } from './schema.ts'

/** A value, or the column of an outer query that holds it. */
type Operand<T> = T | Expression<T>

export function some(query: Expression<unknown>) {
  return sql<SqlBool>`exists ${query}`
}

export function none(query: Expression<unknown>) {
  return sql<SqlBool>`not exists ${query}`
}

/** References `n` to the digest, by manifests `parent` of any repository. */
export function referencesTo(db: Db, digest: Operand<Digest>) {
  return db
    .selectFrom('manifest_reference as n')
    .innerJoin('manifest as parent', 'parent.digest', 'n.manifest')
    .where('n.digest', '=', digest)
}

/** Tags `t` of a repository that are no tombstones. */
export function liveTags(db: Db, repository: Operand<RepositoryId>) {
  return db.selectFrom('tag as t').where('t.repository', '=', repository).where('t.deleted_at', 'is', null)
}

/** Manifests `held` of any repository. */
export function manifestsWith(db: Db, digest: Operand<Digest>) {
  return db.selectFrom('manifest as held').where('held.digest', '=', digest)
}

export function references(db: Db): ReferenceIndex {
  return {
    async references(manifest) {
      const rows = await db
        .selectFrom('manifest_reference')
        .selectAll()
        .where('manifest', '=', manifest)
        .orderBy('position')
        .execute()
      return rows.map(childOf)
    },

    async referencedBy(digest, { repository, role, limit }) {
      let query = referencesTo(db, digest).select('parent.digest').distinct()
      if (repository !== undefined) query = query.where('parent.repository', '=', repositoryId(repository))
      if (role !== undefined) query = query.where('n.role', '=', role)
      if (limit !== undefined) query = query.limit(limit)
      return (await query.execute()).map((row) => row.digest)
    },

    async taggedManifests(digest, steps, limit) {
      const found = db
        .selectFrom('manifest as m')
        .innerJoin('repository as r', 'r.id', 'm.repository')
        .leftJoin('tag as t', (join) =>
          join
            .onRef('t.repository', '=', 'm.repository')
            .onRef('t.digest', '=', 'm.digest')
            .on('t.deleted_at', 'is', null),
        )
        .select(['r.registry', 'r.name', 'm.digest', 't.tag'])
        .orderBy('r.id')
        .orderBy('m.digest')
        .orderBy('t.tag')
        .$if(limit !== undefined, (query) => query.limit(limit ?? 0))
      const rows = await (
        steps === 0
          ? found.where('m.digest', '=', digest)
          : found.where('m.digest', 'in', reaching(db, digest, steps))
      ).execute()
      const groups = Map.groupBy(rows, (row) => `${row.registry}/${row.name} ${row.digest}`)
      return [...groups.values()].flatMap((group) => {
        const tags = group.flatMap(({ tag }) => (tag === null ? [] : [tag]))
        return group
          .slice(0, 1)
          .map(({ registry, name, digest: manifest }) => ({ repository: { registry, name }, manifest, tags }))
      })
    },

    linkedIn(digest): Promise<RepositoryKey[]> {
      return db
        .selectFrom('repository_blob as l')
        .innerJoin('repository as r', 'r.id', 'l.repository')
        .select(['r.registry', 'r.name'])
        .where('l.digest', '=', digest)
        .orderBy('r.id')
        .execute()
    },
  }
}

/** Recursive: the digest, and all manifests that reach it in at most so many references. */
function reaching(db: Db, digest: Digest, steps: number) {
  return db
    .withRecursive('up(digest, depth)', (up) =>
      up.selectNoFrom([sql<Digest>`${digest}`.as('digest'), sql<number>`0`.as('depth')]).union(
        up
          .selectFrom('manifest_reference as n')
          .innerJoin('up', 'up.digest', 'n.digest')
          .select(['n.manifest as digest', sql<number>`up.depth + 1`.as('depth')])
          .where('up.depth', '<', steps),
      ),
    )
    .selectFrom('up')
    .select('up.digest')
}
