/**
 * Interface of a repository to push to: the seam between `http/` and the local repositories.
 *
 * Success is a promise to the client: what it names is on the disk, synced, and in the index, committed.
 * A throw is an OciError (sent to the client unchanged) or a bug.
 */
import type { Bytes } from '../../base/units.ts'
import type { Digest, DigestAlgorithm } from '../../oci/digest.ts'
import type { Reference, RepositoryName, Tag } from '../../oci/reference.ts'
import type { EventRequest } from '../notifications/event.ts'

/** The pushing client, as far as the push policy depends on it. */
export interface Pusher {
  /** Certainly a program on this machine, without a proxy between. docs/architecture.md "Security ground rules". */
  readonly onThisMachine: boolean
  /** The client's request; undefined: an operator's command. */
  readonly cause?: EventRequest | undefined
}

export interface PushTarget {
  readonly name: RepositoryName

  /** Does not create the repository. @param algorithm of the final digest, if the client has announced it */
  startUpload(algorithm?: DigestAlgorithm): Promise<UploadSession>
  /** @throws OciError BLOB_UPLOAD_UNKNOWN, also for a session that is finished, or another repository's */
  openUpload(id: string): Promise<UploadSession>
  /** Whether that session ended as that blob a while ago, and the blob is still here. */
  finishedUpload(id: string, digest: Digest): Promise<boolean>

  /**
   * Makes a blob of another repository readable here, without moving its bytes.
   *
   * @param from the repository that has it; undefined: the client does not know
   * @returns false when it cannot be mounted: the client has to upload it
   */
  mount(digest: Digest, from: RepositoryName | undefined): Promise<boolean>

  /** @throws OciError MANIFEST_INVALID, DIGEST_INVALID, MANIFEST_BLOB_UNKNOWN, DENIED for an immutable tag */
  putManifest(reference: Reference, manifest: PushedManifest): Promise<KeptManifest>
  /** @returns false when there is none. @throws OciError DENIED for what an immutable tag references */
  deleteManifest(reference: Reference): Promise<boolean>
  /**
   * @returns false when there is none. @throws OciError DENIED for what an immutable tag references, UNSUPPORTED for
   *   what any manifest of the repository references, in whatever role: a pull of that manifest would fail
   */
  deleteBlob(digest: Digest): Promise<boolean>
  /** Deletes all of it; the name stays local. @returns false when not even the repository exists */
  deleteRepository(): Promise<boolean>
  /** Frees the name of an empty repository. @returns what can still be pulled by it, and keeps the name */
  release(): Promise<Remains | undefined>
}

export interface Remains {
  /** Some of them; empty: only manifests without a tag are left. */
  readonly tags: readonly Tag[]
}

export interface PushedManifest {
  readonly bytes: Buffer
  /** `Content-Type`, as sent. */
  readonly mediaType: string | undefined
  /** Tags of the `tag` parameters, beside the reference. */
  readonly tags: readonly Tag[]
}

export interface KeptManifest {
  readonly digest: Digest
  /** The manifest's subject; `OCI-Subject` in the answer tells the client not to maintain a referrers tag itself. */
  readonly subject: Digest | undefined
}

/**
 * An upload session. Its methods run one at a time; a second client of the session waits for the first.
 * Disposal releases the session and keeps its bytes.
 */
export interface UploadSession extends AsyncDisposable {
  readonly id: string
  /** Bytes received. */
  readonly offset: Bytes

  /**
   * Takes a body to its end; what arrived before an interruption is kept. Without a range, bytes that the client
   * repeats are stored once.
   *
   * @param range of a chunk, inclusive as in `Content-Range`; a body of another length is dropped
   * @param known `told` is the offset in the last answer that the client got; `length` is that of the body
   * @throws OciError RANGE_INVALID when it does not begin at `offset` (nothing was taken then), SIZE_INVALID,
   *   INSUFFICIENT_STORAGE, also before anything is read
   */
  append(
    body: AsyncIterable<Buffer>,
    range: { first: Bytes; last: Bytes } | undefined,
    known?: { readonly told?: Bytes; readonly length?: Bytes | undefined },
  ): Promise<void>

  /**
   * Ends the session: when it resolves, the bytes are the blob `digest`, durable and linked in the repository.
   *
   * @param told as for {@link append}, if the client sends no body
   * @throws OciError DIGEST_INVALID, which ends the session too; RANGE_INVALID when fewer bytes are here than `told`
   */
  finish(digest: Digest, told?: Bytes): Promise<void>

  cancel(): Promise<void>
}
