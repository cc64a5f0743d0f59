/** Queries about names: repositories, their tags, and the manifests that they hold. */
import { sql } from 'kysely'
import type { Digest } from '../../../oci/digest.ts'
import type { RepositoryName, Tag } from '../../../oci/reference.ts'
import { LOCAL, type ManifestIndex, type RepositoryIndex, type TagIndex } from '../metadata.ts'
import { liveTags, references, referencesTo } from './references.ts'
import { childOf, descriptorOf, MANIFEST, manifestOf, repositoryId, withManifests } from './rows.ts'
import type { Db, RepositoryId } from './schema.ts'

export function repositories(db: Db): RepositoryIndex {
  return {
    async get(repository) {
      const row = await db
        .selectFrom('repository')
        .select(['served_at', 'deleted_at'])
        .where('id', '=', repositoryId(repository))
        .executeTakeFirst()
      return row && { servedAt: row.served_at ?? undefined, deletedAt: row.deleted_at ?? undefined }
    },

    async list(registry, page) {
      const rows = await db
        .selectFrom('repository')
        .select('name')
        .where('registry', '=', registry)
        .where('name', '>', (page.last ?? '') as RepositoryName)
        .orderBy('name')
        .limit(page.limit)
        .execute()
      return rows.map((row) => row.name)
    },

    async catalog(page, containing) {
      const last = page.last ?? ''
      const like = containing === undefined ? undefined : `%${containing.replace(/[\\%_]/g, '\\$&')}%`
      const all = withManifests(db).limit(page.limit)
      // Local names stand without their registry, so two ranges of the index are merged here.
      const local = all
        .where('r.registry', '=', LOCAL)
        .where('r.name', '>', last as RepositoryName)
        .$if(like !== undefined, (query) => query.where(sql<boolean>`r.name like ${like} escape '\\'`))
        .select('r.name as path')
        .orderBy('r.name')
      const mirrored = all
        .where('r.registry', '!=', LOCAL)
        .where('r.id', '>', last as RepositoryId)
        .$if(like !== undefined, (query) => query.where(sql<boolean>`r.id like ${like} escape '\\'`))
        .select('r.id as path')
        .orderBy('r.id')
      const rows = [...(await local.execute()), ...(await mirrored.execute())]
      return rows
        .map(({ path }) => path as string)
        .sort((a, b) => (a < b ? -1 : a > b ? 1 : 0))
        .slice(0, page.limit)
    },
  }
}

export function tags(db: Db): TagIndex {
  return {
    async get(repository, tag) {
      const row = await db
        .selectFrom('tag')
        .select(['tag', 'digest', 'size', 'media_type as mediaType', 'checked_at as checkedAt', 'deleted_at'])
        .where('repository', '=', repositoryId(repository))
        .where('tag', '=', tag)
        .executeTakeFirst()
      if (row === undefined) return undefined
      const { deleted_at, ...record } = row
      return { ...record, deletedAt: deleted_at ?? undefined }
    },

    async list(repository, page) {
      const rows = await liveTags(db, repositoryId(repository))
        .select('t.tag')
        .where('t.tag', '>', (page.last ?? '') as Tag)
        .orderBy('t.tag')
        .limit(page.limit)
        .execute()
      return rows.map((row) => row.tag)
    },

    async of(repository, manifest) {
      const rows = await liveTags(db, repositoryId(repository))
        .select('t.tag')
        .where('t.digest', '=', manifest)
        .orderBy('t.tag')
        .execute()
      return rows.map((row) => row.tag)
    },

    held: (repository, limit) =>
      liveTags(db, repositoryId(repository))
        .innerJoin('manifest as m', (join) =>
          join.onRef('m.repository', '=', 't.repository').onRef('m.digest', '=', 't.digest'),
        )
        .select(['t.tag', 't.checked_at as checkedAt'])
        .orderBy('t.tag')
        .limit(limit)
        .execute(),
  }
}

export function manifests(db: Db): ManifestIndex {
  const graph = references(db)
  return {
    references: (manifest) => graph.references(manifest),

    async get(repository, digest) {
      const row = await db
        .selectFrom('manifest')
        .select(MANIFEST)
        .where('repository', '=', repositoryId(repository))
        .where('digest', '=', digest)
        .executeTakeFirst()
      return row && manifestOf(row)
    },

    async list(repository, page) {
      const rows = await db
        .selectFrom('manifest')
        .select('digest')
        .where('repository', '=', repositoryId(repository))
        .where('digest', '>', (page.last ?? '') as Digest)
        .orderBy('digest')
        .limit(page.limit)
        .execute()
      return rows.map((row) => row.digest)
    },

    async descriptor(repository, digest) {
      const row = await referencesTo(db, digest)
        .selectAll('n')
        .where('parent.repository', '=', repositoryId(repository))
        .limit(1)
        .executeTakeFirst()
      return row && childOf(row)
    },

    async referrers(repository, subject) {
      const rows = await db
        .selectFrom('manifest')
        .select(['media_type', 'digest', 'size', 'artifact_type', 'annotations'])
        .where('repository', '=', repositoryId(repository))
        .where('subject', '=', subject)
        .orderBy('stored_at')
        .orderBy('digest')
        .execute()
      return rows.map(descriptorOf)
    },
  }
}
