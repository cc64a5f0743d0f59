/**
 * Removes mirrored content: from the index, then from the disk.
 *
 * Every blob is checked once more under the lock that pushes, fills and adoptions take: what is in use by then,
 * pushed, or referenced stays. The index comes first, for a file without a row is found again at the next start,
 * while a row without a file is a pull that fails. Only where the index takes no write, as on a full disk, the file
 * goes first: that is a miss that heals.
 */
import type { Bytes } from '../../base/units.ts'
import type { Digest } from '../../oci/digest.ts'
import type { BlobStore } from '../../storage/blobs/blob-store.ts'
import type { EvictionIndex, MirroredBlob } from '../../storage/metadata/eviction-index.ts'
import type { BlobHolds } from '../../storage/locks/blob-holds.ts'
import { lockOfBlob, type KeyedLocks } from '../../storage/locks/keyed-locks.ts'
import {
  LOCAL,
  type EpochMs,
  type MetadataStore,
  type MetadataTransaction,
  type TaggedManifest,
} from '../../storage/metadata/metadata.ts'
import type { EvictionCandidate } from './candidates.ts'

/** The commits of one group cost the disk one sync. */
const AT_ONCE = 8

interface RemovalOptions {
  readonly store: Pick<BlobStore, 'delete' | 'stat'>
  readonly metadata: Pick<MetadataStore, 'transaction'>
  readonly index: EvictionIndex
  readonly locks: KeyedLocks
  readonly holds: Pick<BlobHolds, 'has'>
  readonly now: () => EpochMs
}

export class Removal {
  readonly #options: RemovalOptions
  /** Digests whose files have gone, while the index could not take the removal yet. */
  readonly #owed = new Set<Digest>()

  #told: (manifest: Digest) => void = () => undefined

  constructor(options: RemovalOptions) {
    this.#options = options
  }

  /** Calls `listener` with each manifest that has gone. */
  onManifest(listener: (manifest: Digest) => void): void {
    this.#told = listener
  }

  /** True while a client reads it, or an upstream brings it. */
  isInUse({ manifests, blobs }: EvictionCandidate): boolean {
    return [...manifests, ...blobs].some(({ digest }) => this.#options.holds.has(digest))
  }

  /** @returns the blobs that were really removed */
  async take(candidate: EvictionCandidate, signal: AbortSignal): Promise<MirroredBlob[]> {
    const gone: MirroredBlob[] = []
    if (candidate.is === 'image') {
      if (!(await this.#takeManifests(candidate, signal))) return []
      gone.push(...candidate.manifests)
    }
    const rest = [...candidate.blobs]
    const lanes = Array.from({ length: AT_ONCE }, async () => {
      for (let it = rest.pop(); it !== undefined && !signal.aborted; it = rest.pop()) {
        if (await this.#takeBlob(it.digest, candidate.is === 'part', signal)) gone.push(it)
      }
    })
    await Promise.all(lanes)
    return gone
  }

  /** Removes all of them in one commit, or none: a client cannot pull half an image. */
  async #takeManifests(candidate: EvictionCandidate, signal: AbortSignal): Promise<boolean> {
    const { index, locks, holds, now } = this.#options
    using held = new DisposableStack()
    const digests = candidate.manifests.map(({ digest }) => digest)
    // In sorted order, as pushes take them: two orders could deadlock.
    for (const digest of digests.toSorted()) {
      // Never waits for a blob in use: its holder may be waiting for the space that this makes, a deadlock.
      if (holds.has(digest)) return false
      held.use(await locks.exclusive(lockOfBlob(digest), signal))
    }
    const holdings = new Map<Digest, TaggedManifest[]>()
    for (const digest of digests) {
      // Another removal may have taken it, or it was pushed since.
      if ((await index.mirrored(digest)) === undefined) return false
      const holding = await index.taggedManifests(digest, 0)
      if (holds.has(digest) || holding.some(({ repository }) => repository.registry === LOCAL)) return false
      holdings.set(digest, holding)
    }
    const at = now()
    await this.#remove(digests, (tx) => {
      for (const [digest, holding] of holdings) {
        for (const { repository } of holding) tx.deleteManifest(repository, digest, at)
        tx.forgetBlob(digest)
      }
    })
    for (const digest of digests) this.#told(digest)
    return true
  }

  /** @param named removes it even if a manifest references it */
  async #takeBlob(digest: Digest, named: boolean, signal: AbortSignal): Promise<boolean> {
    const { index, locks, holds } = this.#options
    if (holds.has(digest)) return false
    using _held = await locks.exclusive(lockOfBlob(digest), signal)
    if (holds.has(digest) || (await index.mirrored(digest)) === undefined) return false
    // It has become a manifest: that goes only with all that belongs to it.
    if ((await index.taggedManifests(digest, 0)).length > 0) return false
    if (!named && (await index.referencedBy(digest, { limit: 1 })).length > 0) return false
    await this.#remove([digest], (tx) => tx.forgetBlob(digest))
    return true
  }

  async #remove(digests: readonly Digest[], forget: (tx: MetadataTransaction) => void): Promise<void> {
    const { metadata, store } = this.#options
    let told = true
    try {
      await metadata.transaction(forget)
    } catch {
      told = false
    }
    for (const digest of digests) await store.delete(digest)
    if (told) return
    // The deleted files left room in which the index may take the write.
    await metadata.transaction(forget).catch(() => {
      for (const digest of digests) this.#owed.add(digest)
    })
  }

  /** Tells the index the removals that it could not take before. Never rejects. */
  async settle(signal: AbortSignal): Promise<void> {
    const { metadata, store, index, locks, holds, now } = this.#options
    for (const digest of [...this.#owed]) {
      // Its holder may be waiting for the space that this run makes.
      if (holds.has(digest)) continue
      try {
        using _held = await locks.exclusive(lockOfBlob(digest), signal)
        if (holds.has(digest)) continue
        // It may have been fetched again since.
        if ((await store.stat(digest)) === undefined && (await index.mirrored(digest)) !== undefined) {
          const holding = await index.taggedManifests(digest, 0)
          await metadata.transaction((tx) => {
            for (const { repository } of holding) tx.deleteManifest(repository, digest, now())
            tx.forgetBlob(digest)
          })
        }
        this.#owed.delete(digest)
      } catch {
        return
      }
    }
  }
}

export function bytesIn(gone: readonly MirroredBlob[], registry?: string): Bytes {
  return gone.reduce(
    (sum, it) => (registry === undefined || it.registry === registry ? sum + it.size : sum),
    0,
  )
}
