/**
 * What is mirrored, as queries. `blob.mirrored_by` says what is, and one index holds that in the order of its pulls.
 */
import type { Bytes } from '../../../base/units.ts'
import { sql, type Kysely } from 'kysely'
import type { Digest } from '../../../oci/digest.ts'
import type {
  ColdPart,
  ColdPlace,
  EvictionIndex,
  Holding,
  KnownFile,
  MirroredBlob,
} from '../eviction-index.ts'
import type { Tables } from './schema.ts'
import type { RepositoryKey } from '../metadata.ts'

/** Rows that are looked at in one go: a few milliseconds. */
const PART = 250

const COLUMNS = ['b.digest', 'b.size', 'b.pulled_at', 'b.mirrored_by'] as const

export class SqlEviction implements EvictionIndex {
  readonly #db: Kysely<Tables>

  readonly #usedBytes: () => Bytes

  constructor(db: Kysely<Tables>, usedBytes: () => Bytes) {
    this.#db = db
    this.#usedBytes = usedBytes
  }

  async stored(): ReturnType<EvictionIndex['stored']> {
    const rows = await this.#db
      .selectFrom('blob')
      .select(({ fn }) => ['mirrored_by', fn.sum<number>('size').as('bytes')])
      .groupBy('mirrored_by')
      .execute()
    const mirrored = new Map<string, number>()
    let pushed = 0
    for (const { mirrored_by: registry, bytes } of rows) {
      if (registry === null) pushed = bytes
      else mirrored.set(registry, bytes)
    }
    const answers = await this.#db
      .selectFrom('upstream_answer')
      .select(({ fn }) => ['registry', fn.sum<number>('weight').as('bytes')])
      .groupBy('registry')
      .execute()
    let answered = 0
    for (const { registry, bytes } of answers) {
      mirrored.set(registry, (mirrored.get(registry) ?? 0) + bytes)
      answered += bytes
    }
    return { mirrored, pushed, index: Math.max(this.#usedBytes() - answered, 0) }
  }

  coldest(after?: ColdPlace): Promise<ColdPart> {
    return this.#part(after, (from, to) =>
      this.#between(from, to)
        .where((eb) => eb.not(eb.exists(this.#namers())))
        .execute(),
    )
  }

  coldestParts(after?: ColdPlace): Promise<ColdPart> {
    return this.#part(after, (from, to) =>
      this.#between(from, to)
        .where((eb) => eb.exists(this.#namers()))
        .where((eb) =>
          eb.not(
            eb.exists(
              eb
                .selectFrom('manifest')
                .select('manifest.digest')
                .whereRef('manifest.digest', '=', 'b.digest'),
            ),
          ),
        )
        .execute(),
    )
  }

  async #part(
    after: ColdPlace | undefined,
    select: (from: ColdPlace, to: ColdPlace) => Promise<Row[]>,
  ): Promise<ColdPart> {
    const from = after ?? { pulledAt: Number.MIN_SAFE_INTEGER, digest: '' as Digest }
    const scanned = await this.#cold()
      .where(isAfter(from))
      .select(['b.digest', 'b.pulled_at'])
      .orderBy('b.pulled_at')
      .orderBy('b.digest')
      .limit(PART)
      .execute()
    const last = scanned.at(-1)
    if (last === undefined) return { found: [], next: undefined }
    const to = { pulledAt: last.pulled_at, digest: last.digest }
    const found = (await select(from, to)).flatMap(blobOf)
    return { found, next: scanned.length < PART ? undefined : to }
  }

  #cold() {
    return this.#db.selectFrom('blob as b').where('b.mirrored_by', 'is not', null)
  }

  #between(from: ColdPlace, to: ColdPlace) {
    return this.#cold()
      .select(COLUMNS)
      .where(isAfter(from))
      .where(sql<boolean>`(b.pulled_at, b.digest) <= (${to.pulledAt}, ${to.digest})`)
      .orderBy('b.pulled_at')
      .orderBy('b.digest')
  }

  /** Manifests here that name `b`. */
  #namers() {
    return this.#db
      .selectFrom('manifest_reference as named')
      .innerJoin('manifest as m', 'm.digest', 'named.manifest')
      .select('m.digest')
      .where(sql<boolean>`named.digest = b.digest`)
  }

  async mirrored(digest: Digest): Promise<MirroredBlob | undefined> {
    const rows = await this.#cold().select(COLUMNS).where('b.digest', '=', digest).execute()
    return rows.flatMap(blobOf)[0]
  }

  async contents(manifest: Digest, role: 'manifest' | 'blob'): Promise<MirroredBlob[]> {
    const rows = await this.#db
      .selectFrom('manifest_reference as named')
      .innerJoin('blob as b', 'b.digest', 'named.digest')
      .select(COLUMNS)
      .distinct()
      .where('named.manifest', '=', manifest)
      .where('named.role', role === 'manifest' ? '=' : '!=', 'manifest')
      .execute()
    return rows.flatMap(blobOf)
  }

  async naming(digest: Digest, limit: number): Promise<Digest[]> {
    const rows = await this.#db
      .selectFrom('manifest_reference as named')
      .innerJoin('manifest as m', 'm.digest', 'named.manifest')
      .select('m.digest')
      .distinct()
      .where('named.digest', '=', digest)
      .limit(limit)
      .execute()
    return rows.map((row) => row.digest)
  }

  async referring(subject: Digest): Promise<Digest[]> {
    const rows = await this.#db
      .selectFrom('manifest')
      .select('digest')
      .distinct()
      .where('subject', '=', subject)
      .execute()
    return rows.map((row) => row.digest)
  }

  async subjects(manifest: Digest): Promise<Digest[]> {
    const rows = await this.#db
      .selectFrom('manifest as m')
      .innerJoin('manifest as s', (join) =>
        join.onRef('s.digest', '=', 'm.subject').onRef('s.repository', '=', 'm.repository'),
      )
      .select('s.digest')
      .distinct()
      .where('m.digest', '=', manifest)
      .execute()
    return rows.map((row) => row.digest)
  }

  async holding(manifest: Digest): Promise<Holding[]> {
    const rows = await this.#db
      .selectFrom('manifest as m')
      .innerJoin('repository as r', 'r.id', 'm.repository')
      .leftJoin('tag as t', (join) =>
        join
          .onRef('t.repository', '=', 'm.repository')
          .onRef('t.digest', '=', 'm.digest')
          .on('t.deleted_at', 'is', null),
      )
      .select(['r.registry', 'r.name', 't.tag'])
      .where('m.digest', '=', manifest)
      .orderBy('r.id')
      .orderBy('t.tag')
      .execute()
    return [...Map.groupBy(rows, ({ registry, name }) => `${registry}/${name}`).values()].flatMap((group) =>
      group.slice(0, 1).map(({ registry, name }) => ({
        repository: { registry, name },
        tags: group.flatMap(({ tag }) => (tag === null ? [] : [tag])),
      })),
    )
  }

  async linking(blob: Digest): Promise<RepositoryKey[]> {
    return await this.#db
      .selectFrom('repository_blob as l')
      .innerJoin('repository as r', 'r.id', 'l.repository')
      .select(['r.registry', 'r.name'])
      .where('l.digest', '=', blob)
      .orderBy('r.id')
      .execute()
  }

  async known(after: string, until: string): Promise<KnownFile[]> {
    const rows = await this.#db
      .selectFrom('blob')
      .select(['digest', 'size', 'mirrored_by'])
      .where('digest', '>', after as Digest)
      .where('digest', '<', until as Digest)
      .orderBy('digest')
      .execute()
    return rows.map(({ digest, size, mirrored_by }) => ({ digest, size, pushed: mirrored_by === null }))
  }
}

interface Row {
  readonly digest: Digest
  readonly size: number
  readonly pulled_at: number
  readonly mirrored_by: string | null
}

function isAfter({ pulledAt, digest }: ColdPlace) {
  return sql<boolean>`(b.pulled_at, b.digest) > (${pulledAt}, ${digest})`
}

/** Nothing of what was pushed. */
function blobOf({ digest, size, pulled_at: pulledAt, mirrored_by: registry }: Row): MirroredBlob[] {
  return registry === null ? [] : [{ digest, size, pulledAt, registry }]
}
