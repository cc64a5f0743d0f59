/**
 * Queries of the audit, which reads the index from end to end, and of a backup. They give the event loop a turn
 * between two pages, for a read blocks it.
 */
import { setImmediate as turn } from 'node:timers/promises'
import { sql, type SqlBool } from 'kysely'
import type { Digest } from '../../../oci/digest.ts'
import type { RepositoryName } from '../../../oci/reference.ts'
import type { AuditIndex, KnownBlob, LocalSnapshot } from '../audit-index.ts'
import { LOCAL } from '../metadata.ts'
import { liveTags, manifestsWith, none, references, some } from './references.ts'
import { childOf, MANIFEST, manifestOf, repositoryId } from './rows.ts'
import type { Db, RepositoryId } from './schema.ts'

const PAGE = 500

/** All tables that name a blob by its digest. */
const TABLES = ['blob', 'repository_blob', 'manifest', 'blob_source'] as const

/** @param problems tells the faults of the database itself */
export function audit(db: Db, problems: AuditIndex['problems']): AuditIndex {
  const known = async (digests: readonly Digest[]): Promise<KnownBlob[]> => {
    const sizes = await db
      .selectFrom('blob')
      .select(['digest', 'size'])
      .where('digest', 'in', digests)
      .execute()
    const held = await db
      .selectFrom('repository_blob as l')
      .innerJoin('repository as r', 'r.id', 'l.repository')
      .select(['l.digest', 'r.registry'])
      .where('l.digest', 'in', digests)
      .unionAll(
        db
          .selectFrom('manifest as m')
          .innerJoin('repository as r', 'r.id', 'm.repository')
          .select(['m.digest', 'r.registry'])
          .where('m.digest', 'in', digests),
      )
      .unionAll(db.selectFrom('blob_source').select(['digest', 'registry']).where('digest', 'in', digests))
      .execute()
    const size = new Map(sizes.map((row) => [row.digest, row.size]))
    const pushed = new Set(held.filter(({ registry }) => registry === LOCAL).map(({ digest }) => digest))
    const mirrored = new Set(held.filter(({ registry }) => registry !== LOCAL).map(({ digest }) => digest))
    return digests.map((digest) => ({
      digest,
      size: size.get(digest),
      pushed: pushed.has(digest),
      mirrored: mirrored.has(digest),
    }))
  }

  return {
    ...patientReferences(db),
    problems,

    async totals() {
      const { blobs, bytes } = await db
        .selectFrom('blob')
        .select(({ fn }) => [fn.countAll<number>().as('blobs'), fn.sum<number | null>('size').as('bytes')])
        .executeTakeFirstOrThrow()
      return { blobs, bytes: bytes ?? 0 }
    },

    async digests({ last, limit }) {
      await turn()
      const found = new Set<Digest>()
      for (const table of TABLES) {
        const rows = await db
          .selectFrom(table as 'blob')
          .select('digest')
          .distinct()
          .where('digest', '>', last ?? ('' as Digest))
          .orderBy('digest')
          .limit(limit)
          .execute()
        for (const { digest } of rows) found.add(digest)
      }
      // The smallest `limit` digests of the union lie among the smallest `limit` of each table.
      return known([...found].sort().slice(0, limit))
    },

    async digest(digest) {
      for (const table of TABLES) {
        const row = await db
          .selectFrom(table as 'blob')
          .select('digest')
          .where('digest', '=', digest)
          .executeTakeFirst()
        if (row !== undefined) return (await known([digest]))[0]
      }
      return undefined
    },

    async manifests({ last, limit }) {
      await turn()
      const rows = await db
        .selectFrom('manifest as m')
        .innerJoin('repository as r', 'r.id', 'm.repository')
        .select(['r.registry', 'r.name', ...MANIFEST.map((column) => `m.${column}` as const)])
        .$if(last !== undefined, (query) =>
          query.where(
            sql<SqlBool>`(m.digest, r.registry, r.name) > (${last?.digest}, ${last?.repository.registry}, ${last?.repository.name})`,
          ),
        )
        .orderBy('m.digest')
        .orderBy('r.registry')
        .orderBy('r.name')
        .limit(limit)
        .execute()
      return rows.map(({ registry, name, ...row }) => ({
        repository: { registry, name },
        ...manifestOf(row),
      }))
    },

    async lacking(repository, manifest) {
      const id = repositoryId(repository)
      const digest = sql.ref<Digest>('n.digest')
      const held = manifestsWith(db, digest).where('held.repository', '=', id)
      const linked = db
        .selectFrom('repository_blob as l')
        .select('l.digest')
        .where('l.repository', '=', id)
        .where('l.digest', '=', digest)
      const rows = await db
        .selectFrom('manifest_reference as n')
        .selectAll('n')
        .where('n.manifest', '=', manifest)
        // The references of a manifest are known for as long as any repository holds it.
        .where(some(manifestsWith(db, manifest).select('held.digest').where('held.repository', '=', id)))
        // BuildKit's cache is an index that names layers where others name manifests.
        .where(none(linked))
        .where((eb) => eb.or([eb('n.role', '!=', 'manifest'), none(held.select('held.digest'))]))
        .orderBy('n.position')
        .execute()
      return rows.map(childOf)
    },

    async *danglingTags() {
      let last: { repository: string; tag: string } | undefined
      for (;;) {
        await turn()
        const rows = await db
          .selectFrom('tag as t')
          .innerJoin('repository as r', 'r.id', 't.repository')
          .leftJoin('manifest as m', (join) =>
            join.onRef('m.repository', '=', 't.repository').onRef('m.digest', '=', 't.digest'),
          )
          .select(['t.repository', 'r.name', 't.tag', 't.digest', 't.media_type', 'm.digest as manifest'])
          .where('r.registry', '=', LOCAL)
          .where('t.deleted_at', 'is', null)
          .$if(last !== undefined, (query) =>
            query.where(sql<SqlBool>`(t.repository, t.tag) > (${last?.repository}, ${last?.tag})`),
          )
          .orderBy('t.repository')
          .orderBy('t.tag')
          .limit(PAGE)
          .execute()
        for (const { name, tag, digest, media_type: mediaType, manifest } of rows) {
          if (manifest === null) yield { repository: { registry: LOCAL, name }, tag, digest, mediaType }
        }
        last = rows.at(-1)
        if (rows.length < PAGE) return
      }
    },
  }
}

/** @param db a connection that reads one moment */
export function localSnapshot(db: Db): Omit<LocalSnapshot, typeof Symbol.asyncDispose> {
  const idOf = (name: RepositoryName): RepositoryId => repositoryId({ registry: LOCAL, name })
  return {
    ...patientReferences(db),

    async repositories() {
      const rows = await db
        .selectFrom('repository')
        .select(['name', 'deleted_at'])
        .where('registry', '=', LOCAL)
        .orderBy('name')
        .execute()
      return rows.map(({ name, deleted_at }) => ({ name, deletedAt: deleted_at ?? undefined }))
    },

    tags: (name) => liveTags(db, idOf(name)).select(['t.tag', 't.digest']).orderBy('t.tag').execute(),

    async manifests(name) {
      await turn()
      const rows = await db
        .selectFrom('manifest')
        .select(MANIFEST)
        .where('repository', '=', idOf(name))
        .orderBy('digest')
        .execute()
      return rows.map(manifestOf)
    },

    async links(name) {
      const rows = await db
        .selectFrom('repository_blob as l')
        .leftJoin('blob as b', 'b.digest', 'l.digest')
        .select(['l.digest', 'b.size'])
        .where('l.repository', '=', idOf(name))
        .execute()
      return rows.map(({ digest, size }) => ({ digest, size: size ?? undefined }))
    },
  }
}

function patientReferences(db: Db): ReturnType<typeof references> {
  const all = references(db)
  return {
    ...all,
    async references(manifest) {
      await turn()
      return all.references(manifest)
    },
  }
}
