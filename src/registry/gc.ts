/**
 * The collector: frees what nobody names any more, while pushes go on.
 *
 * Three sweeps, each making garbage for the next: manifests that were let go, links of blobs that no manifest
 * needs, bytes that no repository holds. Each waits for its grace period, and each looks once more under the very
 * lock that a push holds from its check to its commit, so a push or a mount that needs the thing wins. Nothing
 * that was mirrored is collected.
 */
import type { Logger } from 'pino'
import type { Digest } from '../oci/digest.ts'
import type { BlobStore, Bytes } from '../store/blob-store.ts'
import type { Locks } from '../store/locks.ts'
import type { EpochMs, Garbage, MetadataStore } from '../store/metadata.ts'

type Milliseconds = number

interface CollectorOptions {
  readonly store: BlobStore
  readonly metadata: MetadataStore
  readonly locks: Locks
  /** How long what is not named is kept, from the last time anybody was told that it is here. */
  readonly graceMs: Milliseconds
  readonly log: Logger
  readonly now: () => EpochMs
}

/** One thing that goes, or would go, and why. */
export interface Collected {
  readonly what: 'manifest' | 'link' | 'blob'
  /** Undefined for bytes. */
  readonly repository: string | undefined
  readonly digest: Digest
  /** What the disk gets back; 0 for a link. */
  readonly bytes: Bytes
  readonly why: string
}

const MINUTE: Milliseconds = 60_000
const HOUR: Milliseconds = 60 * MINUTE

/** Rows of one look; between two of them everything else gets its turn. */
const BATCH = 200

export class Collector {
  readonly #options: CollectorOptions
  #running: Promise<unknown> = Promise.resolve()

  constructor(options: CollectorOptions) {
    this.#options = options
  }

  /**
   * One collection; a second one waits for the first.
   *
   * @param dryRun tells what would go now; what that would let go in turn is not foreseen
   */
  run(options: { dryRun: boolean; signal: AbortSignal }): Promise<readonly Collected[]> {
    const run = this.#running.then(() => this.#run(options))
    this.#running = run.catch(() => undefined)
    return run
  }

  /** On its own schedule from now on, until it is disposed; a collection that runs then ends early. */
  everyNowAndThen(): AsyncDisposable {
    const { log, graceMs } = this.#options
    const ending = new AbortController()
    let running: Promise<unknown> = Promise.resolve()
    const collect = (): void => {
      running = this.run({ dryRun: false, signal: ending.signal }).catch((err: unknown) => {
        if (!ending.signal.aborted) log.error({ err }, 'the collection failed')
      })
    }
    const timer = setInterval(collect, Math.min(Math.max(graceMs / 24, MINUTE), HOUR)).unref()
    return {
      [Symbol.asyncDispose]: async () => {
        clearInterval(timer)
        ending.abort(new Error('shutting down'))
        await running
      },
    }
  }

  async #run({ dryRun, signal }: { dryRun: boolean; signal: AbortSignal }): Promise<readonly Collected[]> {
    const collected: Collected[] = []
    const note = (it: Collected): void => void collected.push(it)
    await this.#sweepManifests(dryRun, note, signal)
    await this.#sweepLinks(dryRun, note, signal)
    await this.#sweepBlobs(dryRun, note, signal)
    await this.#sweepStrays(dryRun, note, signal)
    const { log } = this.#options
    const bytes = collected.reduce((sum, it) => sum + it.bytes, 0)
    if (!dryRun && collected.length > 0) log.info({ entries: collected.length, bytes }, 'collected')
    return collected
  }

  async #sweepManifests(dryRun: boolean, note: (it: Collected) => void, signal: AbortSignal): Promise<void> {
    const { metadata, now } = this.#options
    const find = (): Promise<readonly Garbage[]> => metadata.garbage.manifests(this.#before(), BATCH)
    await this.#sweep(
      find,
      dryRun,
      signal,
      async (it) => {
        await metadata.transaction((tx) => tx.deleteManifest(it.repository, it.digest, it.since))
      },
      (it) => {
        note({
          what: 'manifest',
          repository: it.repository.name,
          digest: it.digest,
          bytes: 0,
          why: `its last tag, or what named it, was deleted ${ago(now() - it.since)} ago`,
        })
      },
    )
  }

  async #sweepLinks(dryRun: boolean, note: (it: Collected) => void, signal: AbortSignal): Promise<void> {
    const { metadata, now } = this.#options
    const find = (): Promise<readonly Garbage[]> => metadata.garbage.links(this.#before(), BATCH)
    await this.#sweep(
      find,
      dryRun,
      signal,
      async (it) => {
        await metadata.transaction((tx) => tx.unlinkBlob(it.repository, it.digest))
      },
      (it) => {
        note({
          what: 'link',
          repository: it.repository.name,
          digest: it.digest,
          bytes: 0,
          why: `no manifest there names it, and nobody was told of it for ${ago(now() - it.since)}`,
        })
      },
    )
  }

  /** Batch by batch; each entry is looked for again under its repository's lock. */
  async #sweep(
    find: () => Promise<readonly Garbage[]>,
    dryRun: boolean,
    signal: AbortSignal,
    remove: (it: Garbage) => Promise<void>,
    note: (it: Garbage) => void,
  ): Promise<void> {
    for (;;) {
      signal.throwIfAborted()
      const found = await find()
      if (dryRun) {
        found.forEach(note)
        return
      }
      let removed = 0
      for (const [name, entries] of byRepository(found)) {
        using _held = await this.#options.locks.exclusive(`repository ${name}`, signal)
        const still = new Set((await find()).map(keyOf))
        for (const entry of entries.filter((it) => still.has(keyOf(it)))) {
          await remove(entry)
          note(entry)
          removed += 1
        }
      }
      if (removed === 0) return
    }
  }

  async #sweepBlobs(dryRun: boolean, note: (it: Collected) => void, signal: AbortSignal): Promise<void> {
    const { garbage } = this.#options.metadata
    for (let last: Digest | undefined; ;) {
      const found = await garbage.blobs({ limit: BATCH, ...(last === undefined ? {} : { last }) })
      for (const { digest, size } of found) {
        const why = 'no repository holds it'
        if (dryRun || (await this.#remove(digest, signal))) {
          note({ what: 'blob', repository: undefined, digest, bytes: size, why })
        }
      }
      last = found.at(-1)?.digest
      if (found.length < BATCH) return
    }
  }

  /** Files that the index has never heard of: a process ended between the file and the commit. */
  async #sweepStrays(dryRun: boolean, note: (it: Collected) => void, signal: AbortSignal): Promise<void> {
    const { store, metadata } = this.#options
    for await (const { digest, size } of store.list()) {
      signal.throwIfAborted()
      if ((await metadata.blobs.size(digest)) !== undefined) continue
      const why = 'the index does not know it'
      if (dryRun || (await this.#remove(digest, signal))) {
        note({ what: 'blob', repository: undefined, digest, bytes: size, why })
      }
    }
  }

  /** @returns false when somebody wants it after all */
  async #remove(digest: Digest, signal: AbortSignal): Promise<boolean> {
    const { store, metadata, locks } = this.#options
    using _held = await locks.exclusive(`blob ${digest}`, signal)
    if (await metadata.garbage.wanted(digest)) return false
    // The index first: a file that nobody knows is found again, a row without its file is not.
    await metadata.transaction((tx) => tx.forgetBlob(digest))
    await store.delete(digest)
    return true
  }

  #before(): EpochMs {
    return this.#options.now() - this.#options.graceMs
  }
}

function keyOf({ repository, digest }: Garbage): string {
  return `${repository.name} ${digest}`
}

function byRepository(found: readonly Garbage[]): Map<string, Garbage[]> {
  return Map.groupBy(found, ({ repository }) => repository.name)
}

function ago(duration: Milliseconds): string {
  const hours = duration / 3_600_000
  if (hours >= 48) return `${Math.floor(hours / 24)} days`
  return hours >= 1 ? `${Math.floor(hours)} hours` : `${Math.floor(duration / 60_000)} minutes`
}
