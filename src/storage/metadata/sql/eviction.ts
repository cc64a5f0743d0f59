/**
 * Queries of the eviction: `blob.mirrored_by` says what is mirrored; one index holds that in the order of its pulls.
 */
import type { Bytes } from '../../../base/units.ts'
import { sql } from 'kysely'
import type { Digest } from '../../../oci/digest.ts'
import type { ColdPart, ColdPlace, EvictionIndex, MirroredBlob } from '../eviction-index.ts'
import { manifestsWith, none, references, referencesTo, some } from './references.ts'
import type { Db } from './schema.ts'

/** Rows of a part, which takes a few milliseconds. */
const PART = 250

const COLUMNS = ['b.digest', 'b.size', 'b.pulled_at', 'b.mirrored_by'] as const

export function eviction(db: Db, usedBytes: () => Bytes): EvictionIndex {
  const mirroredBlobs = db.selectFrom('blob as b').where('b.mirrored_by', 'is not', null)
  const digest = sql.ref<Digest>('b.digest')
  const parents = referencesTo(db, digest).select('parent.digest')

  /** @param kept which of the scanned rows are in the part */
  const part = async (
    from: ColdPlace = { pulledAt: Number.MIN_SAFE_INTEGER, digest: '' as Digest },
    kept: ReturnType<typeof some>,
  ): Promise<ColdPart> => {
    const cold = mirroredBlobs
      .where(sql<boolean>`(b.pulled_at, b.digest) > (${from.pulledAt}, ${from.digest})`)
      .orderBy('b.pulled_at')
      .orderBy('b.digest')
    const scanned = await cold.select(['b.digest', 'b.pulled_at']).limit(PART).execute()
    const last = scanned.at(-1)
    if (last === undefined) return { found: [], next: undefined }
    const rows = await cold
      .select(COLUMNS)
      .where(sql<boolean>`(b.pulled_at, b.digest) <= (${last.pulled_at}, ${last.digest})`)
      .where(kept)
      .execute()
    const next = { pulledAt: last.pulled_at, digest: last.digest }
    return { found: rows.flatMap(blobOf), next: scanned.length < PART ? undefined : next }
  }

  return {
    ...references(db),

    async stored() {
      const rows = await db
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
      const answers = await db
        .selectFrom('upstream_answer')
        .select(({ fn }) => ['registry', fn.sum<number>('weight').as('bytes')])
        .groupBy('registry')
        .execute()
      let answered = 0
      for (const { registry, bytes } of answers) {
        mirrored.set(registry, (mirrored.get(registry) ?? 0) + bytes)
        answered += bytes
      }
      return { mirrored, pushed, index: Math.max(usedBytes() - answered, 0) }
    },

    coldest: (after) => part(after, none(parents)),

    coldestParts: (after) =>
      part(after, sql`${some(parents)} and ${none(manifestsWith(db, digest).select('held.digest'))}`),

    async mirrored(digest) {
      const rows = await mirroredBlobs.select(COLUMNS).where('b.digest', '=', digest).execute()
      return rows.flatMap(blobOf)[0]
    },

    async contents(manifest, role) {
      const rows = await db
        .selectFrom('manifest_reference as n')
        .innerJoin('blob as b', 'b.digest', 'n.digest')
        .select(COLUMNS)
        .distinct()
        .where('n.manifest', '=', manifest)
        .where('n.role', role === 'manifest' ? '=' : '!=', 'manifest')
        .execute()
      return rows.flatMap(blobOf)
    },

    async referring(subject) {
      const rows = await db
        .selectFrom('manifest')
        .select('digest')
        .distinct()
        .where('subject', '=', subject)
        .execute()
      return rows.map((row) => row.digest)
    },

    async subjects(manifest) {
      const rows = await db
        .selectFrom('manifest as m')
        .innerJoin('manifest as s', (join) =>
          join.onRef('s.digest', '=', 'm.subject').onRef('s.repository', '=', 'm.repository'),
        )
        .select('s.digest')
        .distinct()
        .where('m.digest', '=', manifest)
        .execute()
      return rows.map((row) => row.digest)
    },

    async known(after, until) {
      const rows = await db
        .selectFrom('blob')
        .select(['digest', 'size', 'mirrored_by'])
        .where('digest', '>', after as Digest)
        .where('digest', '<', until as Digest)
        .orderBy('digest')
        .execute()
      return rows.map(({ digest, size, mirrored_by }) => ({ digest, size, pushed: mirrored_by === null }))
    },
  }
}

interface Row {
  readonly digest: Digest
  readonly size: number
  readonly pulled_at: number
  readonly mirrored_by: string | null
}

/** Empty for pushed bytes. */
function blobOf({ digest, size, pulled_at: pulledAt, mirrored_by: registry }: Row): MirroredBlob[] {
  return registry === null ? [] : [{ digest, size, pulledAt, registry }]
}
