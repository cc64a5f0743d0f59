/** Conversion between table rows and the types of the specifications. */
import { sql, type Insertable, type Selectable } from 'kysely'
import type { Descriptor } from '../../../oci/descriptor.ts'
import type { Digest } from '../../../oci/digest.ts'
import type { ManifestContent } from '../../../oci/manifest.ts'
import { LOCAL, type ChildDescriptor, type StoredManifest, type RepositoryKey } from '../metadata.ts'
import type { Db, RepositoryId, Tables } from './schema.ts'

type ReferenceRow = Selectable<Tables['manifest_reference']>

export function repositoryId({ registry, name }: RepositoryKey): RepositoryId {
  return `${registry}/${name}` as RepositoryId
}

/**
 * The right value of `blob.mirrored_by`. Local repositories stand together, behind their registry's key and a slash.
 *
 * @param without a repository that is about to let go of what it holds
 */
export function mirroredBy(without = '' as RepositoryId) {
  // `0` is the character after the slash: the end of all local repositories.
  const local = (table: string) =>
    sql`exists (select 1 from ${sql.table(table)} as held where held.digest = blob.digest
      and held.repository > ${`${LOCAL}/`} and held.repository < ${`${LOCAL}0`} and held.repository <> ${without})`
  return sql<
    string | null
  >`case when ${local('repository_blob')} or ${local('manifest')} then null else coalesce(
    (select registry from blob_source as source where source.digest = blob.digest
      order by source.delivered_at, source.registry limit 1), '') end`
}

/** Repositories `r` that are no tombstones, and hold a manifest to pull. */
export function withManifests(db: Db) {
  return db
    .selectFrom('repository as r')
    .where('r.deleted_at', 'is', null)
    .where((eb) =>
      eb.exists(eb.selectFrom('manifest as m').select('m.digest').whereRef('m.repository', '=', 'r.id')),
    )
}

/** Stands for a size that a manifest does not tell. */
const UNTOLD = -1

/** The references of a manifest, config first, in its order. */
export function referenceRows(
  manifest: Digest,
  content: ManifestContent,
): Insertable<Tables['manifest_reference']>[] {
  const rows: Insertable<Tables['manifest_reference']>[] = []
  const add = (role: ReferenceRow['role'], descriptor: Descriptor): void => {
    rows.push({
      manifest,
      position: rows.length,
      role,
      digest: descriptor.digest,
      size: descriptor.size ?? UNTOLD,
      media_type: descriptor.mediaType,
      artifact_type: descriptor.artifactType ?? null,
      annotations: toJson(descriptor.annotations),
      urls: toJson(descriptor.urls),
    })
  }
  if (content.config) add('config', content.config)
  for (const layer of content.layers) add('layer', layer)
  for (const child of content.manifests) add('manifest', child)
  return rows
}

export const MANIFEST = ['digest', 'size', 'media_type', 'subject', 'stored_at', 'released_at'] as const

export function manifestOf(
  row: Pick<Selectable<Tables['manifest']>, (typeof MANIFEST)[number]>,
): StoredManifest {
  return {
    digest: row.digest,
    size: row.size,
    mediaType: row.media_type,
    subject: row.subject ?? undefined,
    storedAt: row.stored_at,
    releasedAt: row.released_at ?? undefined,
  }
}

export function childOf(row: ReferenceRow): ChildDescriptor {
  return { ...descriptorOf(row), role: row.role }
}

export function descriptorOf(
  row: Pick<ReferenceRow, 'media_type' | 'digest' | 'size' | 'artifact_type' | 'annotations'> &
    Partial<Pick<ReferenceRow, 'urls'>>,
): Descriptor {
  const { artifact_type: artifactType, annotations, urls } = row
  return {
    mediaType: row.media_type,
    digest: row.digest,
    size: row.size === UNTOLD ? undefined : row.size,
    ...(artifactType === null ? {} : { artifactType }),
    ...(annotations === null ? {} : { annotations: JSON.parse(annotations) as Record<string, string> }),
    ...(urls == null ? {} : { urls: JSON.parse(urls) as string[] }),
  }
}

export function toJson(value: object | undefined): string | null {
  return value === undefined ? null : JSON.stringify(value)
}
