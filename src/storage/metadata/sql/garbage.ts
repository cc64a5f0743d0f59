/**
 * Queries of the garbage collector: what nothing references any more.
 *
 * They list local repositories only: mirrored content is evicted, not collected. Each list is the state of one
 * moment; the collector looks again under the locks that pushes take.
 */
import { sql } from 'kysely'
import type { Digest } from '../../../oci/digest.ts'
import type { RepositoryName } from '../../../oci/reference.ts'
import { LOCAL, type GarbageIndex, type GarbagePart, type GarbagePlace } from '../metadata.ts'
import { liveTags, manifestsWith, none, references, referencesTo } from './references.ts'
import { repositoryId } from './rows.ts'
import type { Db, RepositoryId } from './schema.ts'

/** Rows of a part, which takes a few milliseconds. */
const PART = 1_000

const NOTHING: GarbagePart = { found: [], next: undefined }

export function garbage(db: Db): GarbageIndex {
  const digest = sql.ref<Digest>('b.digest')
  const unheld = db
    .selectFrom('blob as b')
    .where(none(db.selectFrom('repository_blob as l').select('l.digest').where('l.digest', '=', digest)))
    .where(none(db.selectFrom('blob_source as s').select('s.digest').where('s.digest', '=', digest)))
    .where(none(manifestsWith(db, digest).select('held.digest')))
  return {
    ...references(db),

    async manifests(before, from) {
      const scanned = await db
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
      const repository = sql.ref<RepositoryId>('m.repository')
      const manifest = sql.ref<Digest>('m.digest')
      const parents = referencesTo(db, manifest)
        .where('n.role', '=', 'manifest')
        .where('parent.repository', '=', repository)
      const subject = manifestsWith(db, sql.ref('m.subject')).where('held.repository', '=', repository)
      const rows = await db
        .selectFrom('manifest as m')
        .innerJoin('repository as r', 'r.id', 'm.repository')
        .select(['r.registry', 'r.name', 'm.digest', 'm.size', 'm.released_at as since'])
        .where('m.released_at', '<=', before)
        .where('m.stored_at', '<=', before)
        .where(isBetween('m', from, to))
        .where(none(liveTags(db, repository).select('t.tag').where('t.digest', '=', manifest)))
        .where(none(parents.select('n.position')))
        .where(none(subject.select('held.digest')))
        .execute()
      return partOf(rows, scanned)
    },

    async links(before, from) {
      const scanned = await db
        .selectFrom('repository_blob as l')
        .select(['l.repository', 'l.digest'])
        .where(isBetween('l', from))
        .orderBy('l.repository')
        .orderBy('l.digest')
        .limit(PART)
        .execute()
      const to = scanned.at(-1)
      if (to === undefined) return NOTHING
      const repository = sql.ref<RepositoryId>('l.repository')
      const parents = referencesTo(db, sql.ref('l.digest')).where('parent.repository', '=', repository)
      const rows = await db
        .selectFrom('repository_blob as l')
        .innerJoin('repository as r', 'r.id', 'l.repository')
        .innerJoin('blob as b', 'b.digest', 'l.digest')
        .select(['r.registry', 'r.name', 'l.digest', 'b.size', 'l.linked_at as since'])
        .where('l.linked_at', '<=', before)
        .where(isBetween('l', from, to))
        .where(none(parents.select('n.position')))
        .execute()
      return partOf(rows, scanned)
    },

    async blobs(before, from = '' as Digest) {
      const scanned = await db
        .selectFrom('blob')
        .select('digest')
        .where('digest', '>', from)
        .orderBy('digest')
        .limit(PART)
        .execute()
      const to = scanned.at(-1)
      if (to === undefined) return { found: [], next: undefined }
      const found = await unheld
        .select(['b.digest', 'b.size'])
        .where('b.stored_at', '<=', before)
        .where('b.digest', '>', from)
        .where('b.digest', '<=', to.digest)
        .execute()
      return { found, next: scanned.length < PART ? undefined : to.digest }
    },

    async isHeld(digest) {
      const known = await db
        .selectFrom('blob')
        .select('digest')
        .where('digest', '=', digest)
        .executeTakeFirst()
      if (known === undefined) return false
      return (await unheld.select('b.digest').where('b.digest', '=', digest).executeTakeFirst()) === undefined
    },

    async isDelivered(digest) {
      const source = db.selectFrom('blob_source').select('registry').where('digest', '=', digest).limit(1)
      return (await source.executeTakeFirst()) !== undefined
    },
  }
}

interface Row {
  readonly repository: RepositoryId
  readonly digest: Digest
}

/**
 * Lists are in the order of repository and digest, in which local repositories stand together.
 *
 * @param to the last row; undefined: to the end of the local ones. Only one upper bound, for the index uses only one
 */
function isBetween(table: 'm' | 'l', from: GarbagePlace | undefined, to?: Row) {
  const key = sql`(${sql.ref(`${table}.repository`)}, ${sql.ref(`${table}.digest`)})`
  const start = from === undefined ? `${LOCAL}/` : repositoryId(from.repository)
  const first = sql`${key} > (${start}, ${from?.digest ?? ''})`
  // `0` is the character after the slash: the end of all local repositories.
  return to === undefined
    ? sql<boolean>`${first} and ${key} < (${`${LOCAL}0`}, '')`
    : sql<boolean>`${first} and ${key} <= (${to.repository}, ${to.digest})`
}

function partOf(
  rows: readonly {
    registry: string
    name: RepositoryName
    digest: Digest
    size: number
    since: number | null
  }[],
  scanned: readonly Row[],
): GarbagePart {
  const to = scanned.length < PART ? undefined : scanned.at(-1)
  const name = to?.repository.slice(LOCAL.length + 1) as RepositoryName
  return {
    found: rows.map(({ registry, name, digest, size, since }) => ({
      ...{ repository: { registry, name }, digest, size },
      since: since ?? 0,
    })),
    next: to && { repository: { registry: LOCAL, name }, digest: to.digest },
  }
}
