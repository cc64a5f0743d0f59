/**
 * The referrers tag `sha256-<hex>` of a mirrored repository: finds the cached manifest that is its subject.
 *
 * Clients ask for it where there is no referrers API. Spec: distribution-spec § Referrers tag schema.
 */
import type { Digest } from '../../oci/digest.ts'
import { subjectOfReferrersTag } from '../../oci/referrers.ts'
import type { Tag } from '../../oci/reference.ts'
import type { ManifestStore } from '../manifests/manifest-store.ts'
import type { MirrorRef } from '../origin.ts'

/** @returns undefined also for a manifest that this repository does not have */
export async function subjectHere(
  manifestStore: Pick<ManifestStore, 'heldWith'>,
  repository: MirrorRef,
  tag: Tag,
): Promise<Digest | undefined> {
  const start = subjectOfReferrersTag(tag)
  return start === undefined ? undefined : manifestStore.heldWith(repository, start)
}
