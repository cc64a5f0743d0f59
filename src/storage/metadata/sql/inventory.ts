/**
 * What is here, as queries: of a few digests by their keys, of everything in parts.
 */
import { sql, type Kysely } from 'kysely'
import type { Digest } from '../../../oci/digest.ts'
import type { Tag } from '../../../oci/reference.ts'
import type { InventoryIndex, KnownBytes, ListedTag, Wanting, Weight } from '../inventory-index.ts'
import { LOCAL, type EpochMs, type Page, type RepositoryKey } from '../metadata.ts'
import type { RepositoryId, Tables } from './schema.ts'
import { repositoryId } from './rows.ts'

/** A statement takes only so many parameters, and each length of a list is a statement of its own. */
const DIGESTS = 500

/** Manifests that are looked at in one go. */
const PART = 500

export class SqlInventory implements InventoryIndex {
  readonly #db: Kysely<Tables>

  constructor(db: Kysely<Tables>) {
    this.#db = db
  }

  async blobs(digests: readonly Digest[]): Promise<KnownBytes[]> {
    const found: KnownBytes[] = []
    for (const part of partsOf(digests)) {
      const rows = await this.#db
        .selectFrom('blob as b')
        .select(['b.digest', 'b.size', 'b.stored_at', 'b.pulled_at', 'b.checked_at'])
        .where('b.digest', 'in', part)
        .execute()
      const held = await this.#db
        .selectFrom('repository_blob as l')
        .innerJoin('repository as r', 'r.id', 'l.repository')
        .select('l.digest')
        .where('l.digest', 'in', part)
        .where('r.registry', '=', LOCAL)
        .union(
          this.#db
            .selectFrom('manifest as m')
            .innerJoin('repository as r', 'r.id', 'm.repository')
            .select('m.digest')
            .where('m.digest', 'in', part)
            .where('r.registry', '=', LOCAL),
        )
        .execute()
      const pushed = new Set(held.map(({ digest }) => digest))
      for (const { digest, size, stored_at, pulled_at, checked_at } of rows) {
        found.push({
          ...{ digest, size, storedAt: stored_at, pulledAt: pulled_at, checkedAt: checked_at },
          pushed: pushed.has(digest),
        })
      }
    }
    return found
  }

  async quarantined(digests: readonly Digest[]): Promise<ReadonlyMap<Digest, EpochMs>> {
    const found = new Map<Digest, EpochMs>()
    for (const part of partsOf(digests)) {
      const rows = await this.#db
        .selectFrom('quarantine')
        .select(['digest', 'found_at'])
        .where('digest', 'in', part)
        .execute()
      for (const { digest, found_at } of rows) found.set(digest, found_at)
    }
    return found
  }

  async wanting(digest: Digest, limit: number): Promise<Wanting[]> {
    const rows = await this.#db
      .withRecursive('up(digest, depth)', (db) =>
        db.selectNoFrom([sql<Digest>`${digest}`.as('digest'), sql<number>`0`.as('depth')]).union(
          db
            .selectFrom('manifest_reference as n')
            .innerJoin('up', 'up.digest', 'n.digest')
            .select(['n.manifest as digest', sql<number>`up.depth + 1`.as('depth')])
            .where('up.depth', '<', 2),
        ),
      )
      .selectFrom('manifest as m')
      .innerJoin('repository as r', 'r.id', 'm.repository')
      .leftJoin('tag as t', (join) =>
        join
          .onRef('t.repository', '=', 'm.repository')
          .onRef('t.digest', '=', 'm.digest')
          .on('t.deleted_at', 'is', null),
      )
      .select(['r.registry', 'r.name', 'm.digest', 't.tag'])
      .where('m.digest', 'in', (db) => db.selectFrom('up').select('up.digest'))
      .orderBy('r.id')
      .orderBy('m.digest')
      .orderBy('t.tag')
      .limit(limit)
      .execute()
    const groups = Map.groupBy(rows, (row) => `${row.registry}/${row.name} ${row.digest}`)
    return [...groups.values()].flatMap((group) => {
      const [first] = group
      if (first === undefined) return []
      const tags = group.flatMap(({ tag }) => (tag === null ? [] : [tag]))
      return [{ repository: { registry: first.registry, name: first.name }, manifest: first.digest, tags }]
    })
  }

  async colder(pulledAt: EpochMs, limit: number): Promise<number> {
    const { count } = await this.#db
      .selectFrom(
        this.#db
          .selectFrom('blob')
          .select('digest')
          .where('mirrored_by', 'is not', null)
          .where('pulled_at', '<', pulledAt)
          .limit(limit)
          .as('b'),
      )
      .select(({ fn }) => fn.countAll<number>().as('count'))
      .executeTakeFirstOrThrow()
    return count
  }

  async repositories(kind: 'local' | 'mirrored', page: Page): Promise<RepositoryKey[]> {
    const first = kind === 'local' ? `${LOCAL}/${page.last ?? ''}` : (page.last ?? '')
    return this.#db
      .selectFrom('repository as r')
      .select(['r.registry', 'r.name'])
      .where('r.id', '>', first as RepositoryId)
      .where('r.registry', kind === 'local' ? '=' : '!=', LOCAL)
      .where('r.deleted_at', 'is', null)
      .where((eb) =>
        eb.exists(
          eb.selectFrom('manifest as m').select('m.digest').whereRef('m.repository', '=', 'r.id').limit(1),
        ),
      )
      .orderBy('r.id')
      .limit(page.limit)
      .execute()
  }

  async tags(repository: RepositoryKey, page: Page): Promise<ListedTag[]> {
    const rows = await this.#db
      .selectFrom('tag')
      .select(['tag', 'digest', 'checked_at'])
      .where('repository', '=', repositoryId(repository))
      .where('tag', '>', (page.last ?? '') as Tag)
      .where('deleted_at', 'is', null)
      .orderBy('tag')
      .limit(page.limit)
      .execute()
    return rows.map(({ tag, digest, checked_at }) => ({ tag, digest, checkedAt: checked_at }))
  }

  async untagged(repository: RepositoryKey, last = '' as Digest): ReturnType<InventoryIndex['untagged']> {
    const id = repositoryId(repository)
    const scanned = await this.#db
      .selectFrom('manifest')
      .select('digest')
      .where('repository', '=', id)
      .where('digest', '>', last)
      .orderBy('digest')
      .limit(PART)
      .execute()
    const to = scanned.at(-1)
    if (to === undefined) return { found: [], next: undefined }
    const rows = await this.#db
      .selectFrom('manifest as m')
      .select('m.digest')
      .where('m.repository', '=', id)
      .where('m.digest', '>', last)
      .where('m.digest', '<=', to.digest)
      .where((eb) =>
        eb.not(
          eb.exists(
            eb
              .selectFrom('tag as t')
              .select('t.tag')
              .where('t.repository', '=', id)
              .whereRef('t.digest', '=', 'm.digest')
              .where('t.deleted_at', 'is', null),
          ),
        ),
      )
      .where((eb) =>
        eb.not(
          eb.exists(
            eb
              .selectFrom('manifest_reference as n')
              .innerJoin('manifest as parent', 'parent.digest', 'n.manifest')
              .select('n.position')
              .whereRef('n.digest', '=', 'm.digest')
              .where('n.role', '=', 'manifest')
              .where('parent.repository', '=', id),
          ),
        ),
      )
      .orderBy('m.digest')
      .execute()
    return {
      found: rows.map(({ digest }) => digest),
      next: scanned.length < PART ? undefined : to.digest,
    }
  }

  async weights(manifests: readonly Digest[]): Promise<Weight[]> {
    const found: Weight[] = []
    for (const part of partsOf(manifests)) {
      const rows = await this.#db
        .withRecursive('reach(root, digest, role)', (db) =>
          db
            .selectFrom('blob')
            .select(['digest as root', 'digest', sql<string>`'manifest'`.as('role')])
            .where('digest', 'in', part)
            .union(
              db
                .selectFrom('manifest_reference as n')
                .innerJoin('reach', 'reach.digest', 'n.manifest')
                .select(['reach.root', 'n.digest', 'n.role']),
            ),
        )
        .selectFrom('reach')
        .innerJoin('blob as b', 'b.digest', 'reach.digest')
        .select(({ fn }) => [
          'reach.root',
          fn.sum<number>('b.size').as('bytes'),
          sql<EpochMs>`max(case when reach.role = 'manifest' then b.pulled_at else 0 end)`.as('pulled_at'),
          sql<EpochMs>`max(case when reach.root = reach.digest then b.stored_at else 0 end)`.as('stored_at'),
        ])
        .groupBy('reach.root')
        .execute()
      for (const { root, bytes, pulled_at, stored_at } of rows) {
        found.push({ digest: root, bytes, pulledAt: pulled_at, storedAt: stored_at })
      }
    }
    return found
  }
}

function* partsOf(digests: readonly Digest[]): Generator<Digest[]> {
  for (let from = 0; from < digests.length; from += DIGESTS) yield digests.slice(from, from + DIGESTS)
}
