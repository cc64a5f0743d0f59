/**
 * Repair of a blob that is damaged or gone: for `verify --repair`, for the scrub, and for a read that found it so.
 *
 * A blob that was only mirrored is dropped, so that the next pull fetches it again. A blob that was pushed, or that
 * the index does not know, is never deleted: it is put aside, recorded in the quarantine, and stays in the index. A
 * client that pulls it is told the truth, until a push or an upstream brings the right bytes. The caller must hold
 * the digest's lock.
 */
import type { Bytes } from '../../base/units.ts'
import type { Digest } from '../../oci/digest.ts'
import type { BlobAudit, Checked, KnownBlob } from '../metadata/audit-index.ts'
import type { BlobStore } from '../blobs/blob-store.ts'
import { LOCAL, type EpochMs, type MetadataStore, type TaggedManifest } from '../metadata/metadata.ts'
import type { Outcome } from './findings.ts'

export type Fault = 'corrupt' | 'missing' | 'unreadable' | 'size' | 'orphan'

/** Lost bytes that upstreams gave. */
export interface Lost {
  readonly digest: Digest
  readonly fault: Fault
  /** A local repository holds them as well. */
  readonly pushed: boolean
  /** Mirrored manifests that reference it, or were it: the index has just forgotten the latter. */
  readonly manifests: readonly TaggedManifest[]
}

interface MendTools {
  readonly disk: Pick<BlobAudit, 'quarantine'>
  readonly store: Pick<BlobStore, 'delete'>
  readonly metadata: Pick<MetadataStore, 'transaction' | 'audit'>
  readonly now: () => EpochMs
  readonly lost?: (lost: Lost) => void
}

export async function mendBlob(
  tools: MendTools,
  fault: Fault,
  digest: Digest,
  known: KnownBlob | undefined,
  checked: Checked,
): Promise<Outcome> {
  const { disk, store, metadata, now } = tools
  const pushed = known?.pushed === true
  const mirroredOnly = known?.mirrored === true && !pushed
  const size: Bytes = 'size' in checked ? checked.size : 0
  const manifests = known?.mirrored === true ? await mirroredManifests(tools, digest) : []
  const lost = (): void => {
    if (known?.mirrored === true) tools.lost?.({ digest, fault, pushed, manifests })
  }
  const quarantine = async (path: string | undefined): Promise<void> => {
    await metadata.transaction((tx) => tx.putQuarantine(digest, { size, path }, now()))
    lost()
  }
  const drop = async (): Promise<void> => {
    await forget(tools, digest, manifests)
    lost()
  }
  switch (fault) {
    case 'orphan':
      return { remains: false }
    case 'size':
      await metadata.transaction((tx) => tx.recordBlob(digest, size, now()))
      return { repair: 'the index was set right', remains: false }
    case 'missing':
      if (pushed) {
        await quarantine(undefined)
        return { remains: true }
      }
      await drop()
      return { repair: dropped(mirroredOnly), remains: false }
    case 'unreadable':
      // Another check may be able to read the file, so it stays; and so does anything in the place of pushed bytes.
      if (checked.is === 'unreadable') return { remains: true }
      if (pushed && checked.is === 'no file') {
        await quarantine(undefined)
        return { remains: true }
      }
      break
    case 'corrupt':
      break
  }
  if (mirroredOnly) {
    await store.delete(digest)
    await drop()
    return { repair: dropped(true), remains: false }
  }
  const where = await disk.quarantine(digest)
  if (pushed) await quarantine(where)
  else await drop()
  return { repair: `put aside as ${String(where)}`, remains: pushed }
}

function dropped(mirrored: boolean): string {
  return mirrored ? 'dropped; the next pull fetches it again' : 'dropped from the index'
}

async function mirroredManifests({ metadata }: MendTools, digest: Digest): Promise<TaggedManifest[]> {
  const manifests = await metadata.audit.taggedManifests(digest, 1)
  return manifests.filter(({ repository }) => repository.registry !== LOCAL)
}

/** Forgets all that the index says of bytes that no local repository holds. */
async function forget(
  { metadata, now }: MendTools,
  digest: Digest,
  manifests: readonly TaggedManifest[],
): Promise<void> {
  await metadata.transaction((tx) => {
    for (const { manifest, repository } of manifests) {
      if (manifest === digest) tx.deleteManifest(repository, digest, now())
    }
    tx.forgetBlob(digest)
  })
}
