/**
 * Garbage collector of local repositories: frees what nothing references any more, while pushes go on.
 *
 * It records files that the index does not know; then three sweeps each make garbage for the next: released
 * manifests, links of blobs that no manifest references, bytes that no repository holds. Each waits for its grace
 * period, and looks once more under the very lock that a push holds from its check to its commit, so a push or a
 * mount that needs the entry wins. Nothing that was mirrored is collected.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { Digest } from '../../oci/digest.ts'
import type { RepositoryName } from '../../oci/reference.ts'
import type { BlobStore } from '../blobs/blob-store.ts'
import { COLLECTION_LOCK, lockOfBlob, lockOfRepository, type KeyedLocks } from '../locks/keyed-locks.ts'
import type {
  EpochMs,
  Garbage,
  GarbagePart,
  GarbagePlace,
  MetadataStore,
  MetadataTransaction,
} from '../metadata/metadata.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import { breathe, CollectionPlan } from './dry-run.ts'

interface CollectorOptions {
  readonly store: BlobStore
  readonly metadata: MetadataStore
  readonly locks: KeyedLocks
  /** Whether a user of the bytes is unknown to the index, such as an open reader. */
  readonly pinned?: (digest: Digest) => boolean
  /** How long unreferenced content is kept after a client was last told that it is here. */
  readonly graceMs: Milliseconds
  /** When the index came into being: it cannot know the files that were there before. */
  readonly indexSince?: EpochMs
  readonly metrics: Pick<Metrics, 'collections' | 'collectedBytes'>
  readonly log: Logger
  readonly now: () => EpochMs
}

/** An entry that is collected, or would be, and why. */
export interface Collected {
  readonly what: 'manifest' | 'link' | 'blob'
  /** Absent for a blob: no repository holds it any more. */
  readonly repository?: string
  readonly digest: Digest
  /** Bytes that the disk gets back; 0 where only the index loses a row. */
  readonly bytes: Bytes
  readonly why: string
}

const MINUTE: Milliseconds = 60_000
const HOUR: Milliseconds = 60 * MINUTE

interface Sweep {
  readonly find: (from: GarbagePlace | undefined) => Promise<GarbagePart>
  readonly remove: (tx: MetadataTransaction, it: Garbage) => void
  readonly told: (it: Garbage) => Collected
}

export class Collector {
  readonly #options: CollectorOptions

  constructor(options: CollectorOptions) {
    this.#options = options
  }

  /**
   * Runs one collection; a second one waits for the first. A yielded entry has gone; a caller that leaves early, or
   * the signal, leaves the rest for the next time.
   *
   * @param dryRun only yields all that would go now
   */
  async *run(options: { dryRun: boolean; signal: AbortSignal }): AsyncGenerator<Collected, void, undefined> {
    const { locks, log, metrics } = this.#options
    const { dryRun, signal } = options
    using _alone = await locks.exclusive(COLLECTION_LOCK, signal)
    const freed = { entries: 0, bytes: 0 }
    let result: 'done' | 'broken_off' | 'failed' = 'broken_off'
    try {
      for await (const it of dryRun ? this.#plan(signal) : this.#collect(signal)) {
        freed.entries += 1
        freed.bytes += it.bytes
        yield it
      }
      result = 'done'
    } catch (error) {
      if (!signal.aborted) result = 'failed'
      throw error
    } finally {
      if (!dryRun) {
        metrics.collections.inc({ result })
        metrics.collectedBytes.inc(freed.bytes)
        if (freed.entries > 0) log.info({ ...freed, result }, 'collected')
      }
    }
  }

  /** Collects on a schedule until it is disposed; a collection that runs then ends early. */
  schedule(everyMs = pauseFor(this.#options.graceMs)): AsyncDisposable {
    const { log } = this.#options
    const ending = new AbortController()
    const { signal } = ending
    const schedule = async (): Promise<void> => {
      for (;;) {
        await sleep(everyMs, undefined, { signal, ref: false })
        try {
          for await (const it of this.run({ dryRun: false, signal })) log.debug(it, 'collects')
        } catch (err) {
          if (!signal.aborted) log.error({ err }, 'the collection failed')
        }
      }
    }
    // The loop ends only by being aborted.
    const ended = schedule().catch(() => undefined)
    return {
      [Symbol.asyncDispose]: async () => {
        ending.abort(new Error('shutting down'))
        await ended
      },
    }
  }

  async *#collect(signal: AbortSignal): AsyncGenerator<Collected> {
    await this.#recordOrphans(signal)
    yield* this.#sweep(this.#manifests(), signal)
    yield* this.#sweep(this.#links(), signal)
    yield* this.#sweepBlobs(signal)
  }

  async *#plan(signal: AbortSignal): AsyncGenerator<Collected> {
    const { metadata, pinned = () => false } = this.#options
    const plan = new CollectionPlan({ metadata, before: this.#before(), signal })
    const [manifests, links] = [this.#manifests(), this.#links()]
    for await (const it of plan.manifests()) yield manifests.told(it)
    for await (const it of plan.links()) yield links.told(it)
    for await (const { digest, size } of plan.blobs()) if (!pinned(digest)) yield unheld(digest, size)
  }

  #manifests(): Sweep {
    const { metadata, now } = this.#options
    return {
      find: (from) => metadata.garbage.manifests(this.#before(), from),
      // A client that asks for a manifest holds no lock: the condition keeps one that it was told of meanwhile.
      remove: (tx, { repository, digest, since }) =>
        tx.deleteManifest(repository, digest, since, this.#before()),
      told: ({ repository, digest, since }) => ({
        what: 'manifest',
        repository: repository.name,
        digest,
        bytes: 0,
        why: `its last tag, or what named it, was deleted ${ago(now() - since)} ago`,
      }),
    }
  }

  #links(): Sweep {
    const { metadata, now } = this.#options
    return {
      find: (from) => metadata.garbage.links(this.#before(), from),
      // Uploads and mounts lock the digest, not the repository: the condition keeps a newer link.
      remove: (tx, { repository, digest, since }) => tx.unlinkBlob(repository, digest, since),
      told: ({ repository, digest, since }) => ({
        what: 'link',
        repository: repository.name,
        digest,
        bytes: 0,
        why: `no manifest there names it, and nobody was told of it for ${ago(now() - since)}`,
      }),
    }
  }

  /** Sweeps in parts, again while a round removes something; finds each entry again under its repository's lock. */
  async *#sweep(sweep: Sweep, signal: AbortSignal): AsyncGenerator<Collected> {
    for (let all = 1; all > 0;) {
      all = 0
      for (let from: GarbagePlace | undefined; ;) {
        await breathe(signal)
        const { found, next } = await sweep.find(from)
        for (const [name, entries] of byRepository(found)) {
          const removed = await this.#removeAll(sweep, name, entries, from, signal)
          yield* removed
          all += removed.length
        }
        if (next === undefined) break
        from = next
      }
    }
  }

  async #removeAll(
    { find, remove, told }: Sweep,
    name: RepositoryName,
    entries: readonly Garbage[],
    from: GarbagePlace | undefined,
    signal: AbortSignal,
  ): Promise<readonly Collected[]> {
    const { locks, metadata } = this.#options
    using _held = await locks.exclusive(lockOfRepository(name), signal)
    const still = new Set((await find(from)).found.map(keyOf))
    const gone = entries.filter((it) => still.has(keyOf(it)))
    await metadata.transaction((tx) => gone.forEach((it) => remove(tx, it)))
    return gone.map(told)
  }

  async *#sweepBlobs(signal: AbortSignal): AsyncGenerator<Collected> {
    const { garbage } = this.#options.metadata
    for (let from: Digest | undefined; ;) {
      await breathe(signal)
      const { found, next } = await garbage.blobs(this.#before(), from)
      for (const { digest, size } of found) {
        if (await this.#remove(digest, signal)) yield unheld(digest, size)
      }
      if (next === undefined) return
      from = next
    }
  }

  /**
   * Records orphans: files that the index does not know, because a process ended between the file and the commit.
   * Their grace period begins now. Files older than the index stay: an index was lost, and they hold what was pushed.
   */
  async #recordOrphans(signal: AbortSignal): Promise<void> {
    const { store, metadata, log, indexSince = 0 } = this.#options
    let older = 0
    for await (const { digest, writtenAt } of store.list()) {
      signal.throwIfAborted()
      if ((await metadata.blobs.size(digest)) !== undefined) continue
      if (writtenAt < indexSince) older += 1
      else await this.#writeDown(digest, signal)
    }
    if (older > 0) {
      const told =
        'files are older than the index, and it does not know them: they stay until verify --rebuild'
      log.warn({ files: older }, told)
    }
  }

  /** Takes the blob's lock: a push or a fill may be between the file and the commit. */
  async #writeDown(digest: Digest, signal: AbortSignal): Promise<void> {
    const { store, metadata, locks, now } = this.#options
    using _held = await locks.exclusive(lockOfBlob(digest), signal)
    const file = await store.stat(digest)
    if (file === undefined || (await metadata.blobs.size(digest)) !== undefined) return
    await metadata.transaction((tx) => tx.recordBlob(digest, file.size, now()))
  }

  /** @returns false when the blob is in use, or referenced again */
  async #remove(digest: Digest, signal: AbortSignal): Promise<boolean> {
    const { store, metadata, locks } = this.#options
    using _held = await locks.exclusive(lockOfBlob(digest), signal)
    if (this.#options.pinned?.(digest) === true || (await metadata.garbage.isHeld(digest))) return false
    // The index goes first: a collection finds a file without its row again, but not a row without its file.
    await metadata.transaction((tx) => tx.forgetBlob(digest))
    await store.delete(digest)
    return true
  }

  #before(): EpochMs {
    return this.#options.now() - this.#options.graceMs
  }
}

const unheld = (digest: Digest, bytes: Bytes): Collected => ({
  ...{ what: 'blob', digest, bytes },
  why: 'no repository holds it',
})

function keyOf({ repository, digest, since }: Garbage): string {
  return `${repository.name} ${digest} ${since}`
}

function byRepository(found: readonly Garbage[]): Map<RepositoryName, Garbage[]> {
  return Map.groupBy(found, ({ repository }) => repository.name)
}

/** Short enough to collect soon after the grace period, long enough to leave an idle server in peace. */
function pauseFor(graceMs: Milliseconds): Milliseconds {
  return Math.min(Math.max(graceMs / 24, MINUTE), HOUR)
}

function ago(duration: Milliseconds): string {
  const hours = duration / HOUR
  if (hours >= 48) return `${Math.floor(hours / 24)} days`
  return hours >= 1 ? `${Math.floor(hours)} hours` : `${Math.floor(duration / MINUTE)} minutes`
}
