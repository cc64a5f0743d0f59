/**
 * Commits to one local repository: the manifests' bytes first, then rows and events in one transaction.
 *
 * Bytes are durable before the commit that references them. A commit that frees something also works on a full disk,
 * from the reserve. The caller holds the repository's lock.
 */
import { NEVER } from '../../base/condition.ts'
import type { Digest } from '../../oci/digest.ts'
import type { RepositoryName } from '../../oci/reference.ts'
import { storeWhole } from '../../storage/ingest/store-whole.ts'
import { lockOfBlob } from '../../storage/locks/keyed-locks.ts'
import { LOCAL, type MetadataTransaction, type RepositoryKey } from '../../storage/metadata/metadata.ts'
import type { EventRequest, RepositoryEvent } from '../notifications/event.ts'
import type { LocalContext } from './local-context.ts'
import { ReferrersTags, type Kept } from './referrers-tag.ts'
import { refusal } from './storage-errors.ts'

export interface CommitOptions {
  /** The request behind all the commits. */
  readonly cause?: EventRequest | undefined
  /**
   * Called again just before the first commit takes the name, because the upload took time.
   *
   * @throws OciError DENIED when a pull has made the name the upstream's meanwhile
   */
  readonly assertFree?: (() => Promise<void>) | undefined
}

export class RepositoryCommits {
  readonly key: RepositoryKey
  readonly referrersTags: ReferrersTags
  readonly #context: LocalContext
  readonly #name: RepositoryName
  readonly #options: CommitOptions

  constructor(context: LocalContext, name: RepositoryName, options: CommitOptions) {
    this.#context = context
    this.#name = name
    this.#options = options
    this.key = { registry: LOCAL, name }
    this.referrersTags = new ReferrersTags(context, this.key)
  }

  async assertFree(): Promise<void> {
    await this.#options.assertFree?.()
  }

  /** Queues events in the transaction of the write that they report. */
  tell(tx: MetadataTransaction, ...events: readonly Omit<RepositoryEvent, 'repository'>[]): void {
    const repository = this.#name
    this.#context.events.queue(
      tx,
      events.map((it) => ({ ...it, repository })),
      this.#options.cause,
    )
  }

  /**
   * @param frees the commit lets something be collected, so it may use the reserve of a full disk
   * @throws OciError when the index refuses the write
   */
  async commit(fill: (tx: MetadataTransaction) => void, frees = false): Promise<void> {
    const { metadata, reserve } = this.#context
    const write = (): Promise<void> => metadata.transaction(fill)
    try {
      await (frees ? reserve.use(write) : write())
    } catch (error) {
      throw refusal(error)
    }
  }

  /**
   * Stores manifests durably, all or none; bytes whose commit fails are collected.
   *
   * @param frees as for {@link commit}
   */
  async keep(
    manifests: readonly Kept[],
    also: (tx: MetadataTransaction) => void,
    frees = false,
  ): Promise<void> {
    const replaced = await this.referrersTags.replaced(manifests)
    const write = (tx: MetadataTransaction): void => {
      also(tx)
      for (const digest of replaced) tx.dropManifest(this.key, digest)
    }
    await this.#keepAll(manifests, write, frees)
    for (const digest of replaced) await this.#freeBytes(digest)
  }

  async #keepAll(
    manifests: readonly Kept[],
    also: (tx: MetadataTransaction) => void,
    frees: boolean,
  ): Promise<void> {
    const { pushSpace: room, reserve, locks, holds, localNames, now } = this.#context
    // Holds last until the commit: before it the bytes are unreferenced, and the collector would delete them.
    using held = new DisposableStack()
    const byDigest = new Map(manifests.map(({ digest, bytes }) => [digest, bytes]))
    // Sorted: with one order for all pushes their locks cannot deadlock.
    for (const [digest, bytes] of [...byDigest].sort(([one], [other]) => (one < other ? -1 : 1))) {
      held.use(holds.hold(digest))
      held.use(await locks.exclusive(lockOfBlob(digest), NEVER))
      try {
        using _expected = frees ? undefined : await room.expect(bytes.length)
        const store = (): Promise<void> => storeWhole(this.#context, { source: LOCAL, digest }, bytes)
        await (frees ? reserve.use(store) : store())
      } catch (error) {
        throw refusal(error)
      }
    }
    await this.assertFree()
    localNames.add(this.#name)
    await this.commit((tx) => {
      const at = now()
      tx.putRepository(this.key, at)
      also(tx)
      for (const { digest, bytes, content, tags } of manifests) {
        const size = bytes.length
        tx.putManifest(this.key, digest, size, content, at)
        const { mediaType } = content
        for (const tag of tags) {
          tx.putTag(this.key, { tag, digest, size, mediaType, checkedAt: at, deletedAt: undefined })
        }
      }
    }, frees)
  }

  /** Deletes unreferenced bytes without a grace period. Where that fails the collector deletes them later. */
  async #freeBytes(digest: Digest): Promise<void> {
    const { store, metadata, locks, holds, log } = this.#context
    try {
      using _held = await locks.exclusive(lockOfBlob(digest), NEVER)
      if (holds.has(digest) || (await metadata.garbage.isHeld(digest))) return
      await metadata.transaction((tx) => tx.forgetBlob(digest))
      await store.delete(digest)
    } catch (err) {
      log.debug({ err, digest }, 'a list that was replaced is left to the collector')
    }
  }
}
