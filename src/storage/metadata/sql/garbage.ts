/**
 * What nobody names any more, as queries.
 *
 * Local repositories only: what was mirrored is evicted, not collected. Each list is what holds at one moment;
 * whoever sweeps looks again under the locks that pushes take.
 */
import { sql, type Kysely } from 'kysely'
import type { Digest } from '../../../oci/digest.ts'
import type { RepositoryName } from '../../../oci/reference.ts'
import {
  LOCAL,
  type EpochMs,
  type Garbage,
  type GarbageIndex,
  type GarbagePart,
  type GarbagePlace,
  type Hold,
  type Holders,
  type RepositoryKey,
} from '../metadata.ts'
import type { RepositoryId, Tables } from './schema.ts'
import { repositoryId } from './rows.ts'

/** Rows that are looked at in one go: a few milliseconds. */
const PART = 1_000

const NOTHING: GarbagePart = { found: [], next: undefined }

export class SqlGarbage implements GarbageIndex {
  readonly #db: Kysely<Tables>

  constructor(db: Kysely<Tables>) {
    this.#db = db
  }

  async manifests(before: EpochMs, from?: GarbagePlace): Promise<GarbagePart> {
    const scanned = await this.#db
      .selectFrom('manifest as m')
      .select(['m.repository', 'm.digest'])
      .where('m.released_at', 'is not', null)
      .where(isBetween('m', from))
      .orderBy('m.repository')
      .orderBy('m.digest')
      .limit(PART)
      .execute()
    const to = scanned.at(-1)
    if (to === undefined) return NOTHING
    const rows = await this.#db
      .selectFrom('manifest as m')
      .innerJoin('repository as r', 'r.id', 'm.repository')
      .select(['r.registry', 'r.name', 'm.digest', 'm.size', 'm.released_at as since'])
      .where('m.released_at', '<=', before)
      .where('m.stored_at', '<=', before)
      .where(isBetween('m', from, to))
      .where((eb) =>
        eb.not(
          eb.exists(
            eb
              .selectFrom('tag')
              .select('tag.tag')
              .whereRef('tag.repository', '=', 'm.repository')
              .whereRef('tag.digest', '=', 'm.digest')
              .where('tag.deleted_at', 'is', null),
          ),
        ),
      )
      .where((eb) =>
        eb.not(
          eb.exists(
            eb
              .selectFrom('manifest_reference as named')
              .innerJoin('manifest as parent', 'parent.digest', 'named.manifest')
              .select('named.position')
              .whereRef('named.digest', '=', 'm.digest')
              .whereRef('parent.repository', '=', 'm.repository')
              .where('named.role', '=', 'manifest'),
          ),
        ),
      )
      .where((eb) =>
        eb.not(
          eb.exists(
            eb
              .selectFrom('manifest as subject')
              .select('subject.digest')
              .whereRef('subject.repository', '=', 'm.repository')
              .whereRef('subject.digest', '=', 'm.subject'),
          ),
        ),
      )
      .execute()
    return partOf(rows, scanned)
  }

  async links(before: EpochMs, from?: GarbagePlace): Promise<GarbagePart> {
    const scanned = await this.#db
      .selectFrom('repository_blob as l')
      .select(['l.repository', 'l.digest'])
      .where(isBetween('l', from))
      .orderBy('l.repository')
      .orderBy('l.digest')
      .limit(PART)
      .execute()
    const to = scanned.at(-1)
    if (to === undefined) return NOTHING
    const rows = await this.#db
      .selectFrom('repository_blob as l')
      .innerJoin('repository as r', 'r.id', 'l.repository')
      .innerJoin('blob as b', 'b.digest', 'l.digest')
      .select(['r.registry', 'r.name', 'l.digest', 'b.size', 'l.linked_at as since'])
      .where('l.linked_at', '<=', before)
      .where(isBetween('l', from, to))
      .where((eb) =>
        eb.not(
          eb.exists(
            eb
              .selectFrom('manifest_reference as named')
              .innerJoin('manifest as m', 'm.digest', 'named.manifest')
              .select('named.position')
              .whereRef('named.digest', '=', 'l.digest')
              .whereRef('m.repository', '=', 'l.repository'),
          ),
        ),
      )
      .execute()
    return partOf(rows, scanned)
  }

  async blobs(before: EpochMs, from = '' as Digest): ReturnType<GarbageIndex['blobs']> {
    const scanned = await this.#db
      .selectFrom('blob')
      .select('digest')
      .where('digest', '>', from)
      .orderBy('digest')
      .limit(PART)
      .execute()
    const to = scanned.at(-1)
    if (to === undefined) return { found: [], next: undefined }
    const found = await this.#unheld()
      .select(['b.digest', 'b.size'])
      .where('b.stored_at', '<=', before)
      .where('b.digest', '>', from)
      .where('b.digest', '<=', to.digest)
      .execute()
    return { found, next: scanned.length < PART ? undefined : to.digest }
  }

  async wanted(digest: Digest): Promise<boolean> {
    const known = await this.#db
      .selectFrom('blob')
      .select('digest')
      .where('digest', '=', digest)
      .executeTakeFirst()
    if (known === undefined) return false
    const unheld = await this.#unheld().select('b.digest').where('b.digest', '=', digest).executeTakeFirst()
    return unheld === undefined
  }

  async hold(repository: RepositoryKey, digest: Digest): Promise<Hold | undefined> {
    const id = repositoryId(repository)
    const manifest = await this.#db
      .selectFrom('manifest')
      .select(['size', 'released_at', 'stored_at', 'subject'])
      .where('repository', '=', id)
      .where('digest', '=', digest)
      .executeTakeFirst()
    if (manifest === undefined) return undefined
    const tag = await this.#db
      .selectFrom('tag')
      .select('tag')
      .where('repository', '=', id)
      .where('digest', '=', digest)
      .where('deleted_at', 'is', null)
      .limit(1)
      .executeTakeFirst()
    const { size, released_at: releasedAt, stored_at: storedAt, subject } = manifest
    return {
      size,
      tagged: tag !== undefined,
      releasedAt: releasedAt ?? undefined,
      storedAt,
      subject: subject ?? undefined,
    }
  }

  async namedBy(repository: RepositoryKey, digest: Digest, role?: 'manifest'): Promise<Digest[]> {
    const rows = await this.#db
      .selectFrom('manifest_reference as named')
      .innerJoin('manifest as m', 'm.digest', 'named.manifest')
      .select('m.digest')
      .distinct()
      .where('named.digest', '=', digest)
      .where('m.repository', '=', repositoryId(repository))
      .$if(role !== undefined, (query) => query.where('named.role', '=', role ?? 'manifest'))
      .execute()
    return rows.map((row) => row.digest)
  }

  async holders(digest: Digest): Promise<Holders> {
    const linked = await this.#db
      .selectFrom('repository_blob as l')
      .innerJoin('repository as r', 'r.id', 'l.repository')
      .select(['r.registry', 'r.name'])
      .where('l.digest', '=', digest)
      .execute()
    const manifestOf = await this.#db
      .selectFrom('manifest as m')
      .innerJoin('repository as r', 'r.id', 'm.repository')
      .select(['r.registry', 'r.name'])
      .where('m.digest', '=', digest)
      .execute()
    const source = await this.#db
      .selectFrom('blob_source')
      .select('registry')
      .where('digest', '=', digest)
      .limit(1)
      .executeTakeFirst()
    return { linked, manifestOf, delivered: source !== undefined }
  }

  #unheld() {
    return this.#db
      .selectFrom('blob as b')
      .where((eb) =>
        eb.not(
          eb.exists(
            eb.selectFrom('repository_blob as l').select('l.digest').whereRef('l.digest', '=', 'b.digest'),
          ),
        ),
      )
      .where((eb) =>
        eb.not(
          eb.exists(
            eb.selectFrom('blob_source as s').select('s.digest').whereRef('s.digest', '=', 'b.digest'),
          ),
        ),
      )
      .where((eb) =>
        eb.not(
          eb.exists(eb.selectFrom('manifest as m').select('m.digest').whereRef('m.digest', '=', 'b.digest')),
        ),
      )
  }
}

interface Row {
  readonly repository: RepositoryId
  readonly digest: Digest
}

/**
 * Lists are in the order of repository and digest, and local repositories stand together in it.
 *
 * @param to its last row; undefined: to the end of the local ones. Never both: only one bound is found by the index
 */
function isBetween(table: 'm' | 'l', from: GarbagePlace | undefined, to?: Row) {
  const key = sql`(${sql.ref(`${table}.repository`)}, ${sql.ref(`${table}.digest`)})`
  const start = from === undefined ? `${LOCAL}/` : repositoryId(from.repository)
  const first = sql`${key} > (${start}, ${from?.digest ?? ''})`
  // `0` is what follows a slash.
  return to === undefined
    ? sql<boolean>`${first} and ${key} < (${`${LOCAL}0`}, '')`
    : sql<boolean>`${first} and ${key} <= (${to.repository}, ${to.digest})`
}

function partOf(rows: readonly Parameters<typeof garbageOf>[0][], scanned: readonly Row[]): GarbagePart {
  const to = scanned.length < PART ? undefined : scanned.at(-1)
  const name = to?.repository.slice(LOCAL.length + 1) as RepositoryName
  return {
    found: rows.map(garbageOf),
    next: to && { repository: { registry: LOCAL, name }, digest: to.digest },
  }
}

function garbageOf(row: {
  registry: string
  name: Garbage['repository']['name']
  digest: Digest
  size: number
  since: EpochMs | null
}): Garbage {
  const { registry, name, digest, size, since } = row
  return { repository: { registry, name }, digest, size, since: since ?? 0 }
}
