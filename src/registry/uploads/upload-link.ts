/** Commit that makes an upload a blob of its repository, and records as which blob its session ended. */
import type { Digest } from '../../oci/digest.ts'
import type { RepositoryName } from '../../oci/reference.ts'
import type { BlobInfo } from '../../storage/blobs/blob-store.ts'
import {
  LOCAL,
  type EpochMs,
  type MetadataStore,
  type MetadataTransaction,
} from '../../storage/metadata/metadata.ts'
import type { LocalNames } from '../naming/local-names.ts'

export interface UploadHooks {
  /** Called before that commit. @throws OciError DENIED when the repository takes no pushes any more */
  assertFree(): Promise<void>
  /** Called within that commit. */
  linked(tx: MetadataTransaction, digest: Digest, size: number): void
}

interface LinkOptions {
  readonly metadata: Pick<MetadataStore, 'transaction'>
  readonly localNames: Pick<LocalNames, 'add'>
  /** Lifetime of the record as which blob a session ended. */
  readonly sessionTtlMs: number
  readonly now: () => EpochMs
}

interface FinishedSession {
  readonly session: string
  readonly repository: RepositoryName
  readonly push: UploadHooks | undefined
}

/** Must be called after the bytes are on the disk. */
export function link(
  { metadata, localNames, sessionTtlMs, now }: LinkOptions,
  { session, repository: name, push }: FinishedSession,
  { digest, size }: BlobInfo,
): Promise<void> {
  const repository = { registry: LOCAL, name }
  localNames.add(name)
  return metadata.transaction((tx) => {
    const at = now()
    tx.putRepository(repository, at)
    tx.linkBlob(repository, digest, size, at)
    tx.putFinishedUpload(session, { name, digest, finishedAt: at }, at - sessionTtlMs)
    push?.linked(tx, digest, size)
  })
}
