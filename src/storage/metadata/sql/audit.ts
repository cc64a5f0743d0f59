/**
 * The index from end to end, as queries. A read blocks the thread: everybody else gets a turn between two pages.
 */
import { setImmediate as turn } from 'node:timers/promises'
import { sql, type Kysely, type SqlBool } from 'kysely'
import { childOf, repositoryId } from './rows.ts'
import { LOCAL, type ChildDescriptor, type RepositoryKey } from '../metadata.ts'
import type { Digest } from '../../../oci/digest.ts'
import type { AuditIndex, HeldManifest, KnownBlob, Naming } from '../audit-index.ts'
import type { Tables } from './schema.ts'

const PAGE = 500

/** A digest names the same thing in all of them. */
const TABLES = ['blob', 'repository_blob', 'manifest', 'blob_source'] as const

export class SqlAudit implements Omit<AuditIndex, 'problems' | typeof Symbol.asyncDispose> {
  readonly #db: Kysely<Tables>

  constructor(db: Kysely<Tables>) {
    this.#db = db
  }

  async totals(): ReturnType<AuditIndex['totals']> {
    const { blobs, bytes } = await this.#db
      .selectFrom('blob')
      .select(({ fn }) => [fn.countAll<number>().as('blobs'), fn.sum<number | null>('size').as('bytes')])
      .executeTakeFirstOrThrow()
    return { blobs, bytes: bytes ?? 0 }
  }

  async digests({ last, limit }: Parameters<AuditIndex['digests']>[0]): Promise<KnownBlob[]> {
    await turn()
    const found = new Set<Digest>()
    for (const table of TABLES) {
      const rows = await this.#db
        .selectFrom(table as 'blob')
        .select('digest')
        .distinct()
        .where('digest', '>', last ?? ('' as Digest))
        .orderBy('digest')
        .limit(limit)
        .execute()
      for (const { digest } of rows) found.add(digest)
    }
    // The first of each are the first of all.
    return this.#known([...found].sort().slice(0, limit))
  }

  async digest(digest: Digest): Promise<KnownBlob | undefined> {
    for (const table of TABLES) {
      const row = await this.#db
        .selectFrom(table as 'blob')
        .select('digest')
        .where('digest', '=', digest)
        .executeTakeFirst()
      if (row !== undefined) return (await this.#known([digest]))[0]
    }
    return undefined
  }

  async #known(digests: readonly Digest[]): Promise<KnownBlob[]> {
    const sizes = await this.#db
      .selectFrom('blob')
      .select(['digest', 'size'])
      .where('digest', 'in', digests)
      .execute()
    const held = await this.#db
      .selectFrom('repository_blob as l')
      .innerJoin('repository as r', 'r.id', 'l.repository')
      .select(['l.digest', 'r.registry'])
      .where('l.digest', 'in', digests)
      .unionAll(
        this.#db
          .selectFrom('manifest as m')
          .innerJoin('repository as r', 'r.id', 'm.repository')
          .select(['m.digest', 'r.registry'])
          .where('m.digest', 'in', digests),
      )
      .unionAll(
        this.#db.selectFrom('blob_source').select(['digest', 'registry']).where('digest', 'in', digests),
      )
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

  async manifests({ last, limit }: Parameters<AuditIndex['manifests']>[0]): Promise<HeldManifest[]> {
    await turn()
    const rows = await this.#db
      .selectFrom('manifest as m')
      .innerJoin('repository as r', 'r.id', 'm.repository')
      .select(['r.registry', 'r.name', 'm.digest', 'm.size', 'm.media_type', 'm.subject'])
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
    return rows.map(({ registry, name, digest, size, media_type, subject }) => ({
      repository: { registry, name },
      digest,
      size,
      mediaType: media_type,
      subject: subject ?? undefined,
    }))
  }

  async children(manifest: Digest): Promise<ChildDescriptor[]> {
    await turn()
    return childrenOf(this.#db, manifest)
  }

  async naming(digest: Digest): Promise<Naming[]> {
    const rows = await this.#db
      .selectFrom('manifest as m')
      .innerJoin('repository as r', 'r.id', 'm.repository')
      .leftJoin('tag as t', (join) =>
        join
          .onRef('t.repository', '=', 'm.repository')
          .onRef('t.digest', '=', 'm.digest')
          .on('t.deleted_at', 'is', null),
      )
      .select(['r.registry', 'r.name', 'm.digest', 't.tag'])
      .where((eb) =>
        eb.or([
          eb('m.digest', '=', digest),
          eb(
            'm.digest',
            'in',
            eb.selectFrom('manifest_reference as n').select('n.manifest').where('n.digest', '=', digest),
          ),
        ]),
      )
      .orderBy('r.id')
      .orderBy('m.digest')
      .orderBy('t.tag')
      .execute()
    const groups = Map.groupBy(rows, (row) => `${row.registry}/${row.name} ${row.digest}`)
    return [...groups.values()].flatMap((group) => {
      const [first] = group
      if (first === undefined) return []
      const tags = group.flatMap(({ tag }) => (tag === null ? [] : [tag]))
      return [{ repository: { registry: first.registry, name: first.name }, manifest: first.digest, tags }]
    })
  }

  linkedIn(digest: Digest): Promise<RepositoryKey[]> {
    return this.#db
      .selectFrom('repository_blob as l')
      .innerJoin('repository as r', 'r.id', 'l.repository')
      .select(['r.registry', 'r.name'])
      .where('l.digest', '=', digest)
      .orderBy('r.id')
      .execute()
  }

  async lacking(repository: RepositoryKey, manifest: Digest): Promise<ChildDescriptor[]> {
    const id = repositoryId(repository)
    const rows = await this.#db
      .selectFrom('manifest_reference as n')
      .selectAll('n')
      .where('n.manifest', '=', manifest)
      // What a manifest names is known for as long as any repository holds it.
      .where((eb) =>
        eb.exists(
          eb
            .selectFrom('manifest as m')
            .select('m.digest')
            .where('m.repository', '=', id)
            .where('m.digest', '=', manifest),
        ),
      )
      .where((eb) =>
        eb.not(
          eb.or([
            // BuildKit's cache is an index that names layers where others name manifests.
            eb.exists(
              eb
                .selectFrom('repository_blob as l')
                .select('l.digest')
                .where('l.repository', '=', id)
                .whereRef('l.digest', '=', 'n.digest'),
            ),
            eb.and([
              eb('n.role', '=', 'manifest'),
              eb.exists(
                eb
                  .selectFrom('manifest as c')
                  .select('c.digest')
                  .where('c.repository', '=', id)
                  .whereRef('c.digest', '=', 'n.digest'),
              ),
            ]),
          ]),
        ),
      )
      .orderBy('n.position')
      .execute()
    return rows.map(childOf)
  }

  async *danglingTags(): ReturnType<AuditIndex['danglingTags']> {
    let last: { repository: string; tag: string } | undefined
    for (;;) {
      await turn()
      const rows = await this.#db
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
      for (const { name, tag, digest, media_type, manifest } of rows) {
        if (manifest === null) {
          yield { repository: { registry: LOCAL, name }, tag, digest, mediaType: media_type }
        }
      }
      last = rows.at(-1)
      if (rows.length < PAGE) return
    }
  }
}

export async function childrenOf(db: Kysely<Tables>, manifest: Digest): Promise<ChildDescriptor[]> {
  const rows = await db
    .selectFrom('manifest_reference')
    .selectAll()
    .where('manifest', '=', manifest)
    .orderBy('position')
    .execute()
  return rows.map(childOf)
}
