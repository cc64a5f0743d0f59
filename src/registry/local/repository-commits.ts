/**
 * Commits to one local repository: rows of the index, the bytes of manifests before them, the event with them.
 *
 * Bytes are durable before the commit that names them. A commit that lets something be collected also works on a full
 * disk, from the reserve. The caller holds the repository's lock.
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
  /** The request that all of it is done by. */
  readonly cause?: EventRequest | undefined
  /**
   * Asked again before a first commit takes the name: bytes take their time to come.
   *
   * @throws OciError DENIED when something of that name came from elsewhere meanwhile
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

  /** Queues the events in the commit that makes them true. */
  tell(tx: MetadataTransaction, ...events: readonly Omit<RepositoryEvent, 'repository'>[]): void {
    const repository = this.#name
    this.#context.events.queue(
      tx,
      events.map((it) => ({ ...it, repository })),
      this.#options.cause,
    )
  }

  /**
   * @param frees something can be collected after it: it is done also when the disk is full
   * @throws OciError when the index does not take it
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
   * Durably, all of it or nothing; what is stored and not committed is collected.
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
    // Held until the index knows them: the collector would find bytes that nothing names.
    using held = new DisposableStack()
    const byDigest = new Map(manifests.map(({ digest, bytes }) => [digest, bytes]))
    // In order, so that no two pushes ever wait for each other.
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

  /** Deletes the bytes that nothing names any more, without a grace period. What fails is left to the collector. */
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
