/**
 * What a push means: the seam between `http/` and the local repositories.
 *
 * A success told to the client is a promise: what it names is on the disk, synced, and in the index, committed.
 * A throw is an OciError (told to the client as it is) or a bug.
 */
import type { Bytes } from '../../base/units.ts'
import type { Digest, DigestAlgorithm } from '../../oci/digest.ts'
import type { Reference, RepositoryName, Tag } from '../../oci/reference.ts'
import type { EventRequest } from '../notifications/event.ts'

/** Who pushes, as far as it decides what may be pushed. */
export interface Pusher {
  /** Certainly a program on this machine, talking to us directly. docs/architecture.md "Security ground rules". */
  readonly onThisMachine: boolean
  /** The request that it is done by; undefined: none. */
  readonly cause?: EventRequest | undefined
}

/** A repository that takes writes. */
export interface PushTarget {
  readonly name: RepositoryName

  /**
   * Nothing of the repository exists because of it.
   *
   * @param algorithm of the digest it will be finished with, if the client has said so
   */
  startUpload(algorithm?: DigestAlgorithm): Promise<UploadSession>
  /** @throws OciError BLOB_UPLOAD_UNKNOWN, also for a session of another repository, and one that is finished */
  openUpload(id: string): Promise<UploadSession>
  /** Whether that session ended as that blob, a while ago, and the blob is here still. */
  finishedUpload(id: string, digest: Digest): Promise<boolean>

  /**
   * Makes a blob of another repository readable here, without moving its bytes.
   *
   * @param from where it is, or undefined: wherever we have it
   * @returns false when it cannot be: the client uploads it
   */
  mount(digest: Digest, from: RepositoryName | undefined): Promise<boolean>

  /** @throws OciError MANIFEST_INVALID, DIGEST_INVALID, MANIFEST_BLOB_UNKNOWN, DENIED for a tag that must not move */
  putManifest(reference: Reference, manifest: PushedManifest): Promise<KeptManifest>
  /** @returns false when there is none. @throws OciError DENIED for what a tag leads to that must not move */
  deleteManifest(reference: Reference): Promise<boolean>
  /**
   * @returns false when there is none. @throws OciError DENIED for what a tag leads to that must not move, UNSUPPORTED
   *   for what any manifest of the repository names, in whatever role: who pulls that one would find it gone
   */
  deleteBlob(digest: Digest): Promise<boolean>
  /** All of it; the name stays local. @returns false when nothing of it is there, not even the repository */
  deleteRepository(): Promise<boolean>
  /** Frees the name of a repository of which nothing is left. @returns what is, when anything can be pulled by it */
  release(): Promise<Remains | undefined>
}

export interface Remains {
  /** Some of them; none: there are manifests that no tag names. */
  readonly tags: readonly Tag[]
}

export interface PushedManifest {
  readonly bytes: Buffer
  /** `Content-Type`, as it came. */
  readonly mediaType: string | undefined
  /** Beside the reference: tags of the `tag` parameters. */
  readonly tags: readonly Tag[]
}

export interface KeptManifest {
  readonly digest: Digest
  /** The manifest it refers to; that we say it tells the client to keep no referrers tag of its own. */
  readonly subject: Digest | undefined
}

/**
 * One upload. Of its methods one runs at a time; a second client of the same session waits for the first.
 * Disposing lets go of the session, not of its bytes.
 */
export interface UploadSession extends AsyncDisposable {
  readonly id: string
  /** Bytes received so far. */
  readonly offset: Bytes

  /**
   * Takes a body to its end; what came before it broke off is kept. Without a range, bytes that the client sends
   * again are taken once.
   *
   * @param range of a chunk, inclusive as in `Content-Range`; a body of another length leaves nothing
   * @param known `told` is where the client knows the session to stand, from the last answer that it got; `length` is
   *   that of the body
   * @throws OciError RANGE_INVALID when it does not begin at `offset` (nothing was taken then), SIZE_INVALID,
   *   INSUFFICIENT_STORAGE, also before anything is read
   */
  append(
    body: AsyncIterable<Buffer>,
    range: { first: Bytes; last: Bytes } | undefined,
    known?: { readonly told?: Bytes; readonly length?: Bytes | undefined },
  ): Promise<void>

  /**
   * The bytes are the blob `digest`, durable and linked in the repository when it resolves; ends the session.
   *
   * @param told as for {@link append}, of a client that sends no more
   * @throws OciError DIGEST_INVALID; the session has ended then, too. RANGE_INVALID when less is here than was told
   */
  finish(digest: Digest, told?: Bytes): Promise<void>

  cancel(): Promise<void>
}
