/**
 * Access times of mirrored blobs, for LRU eviction: the latest in memory, written down once a minute.
 *
 * However often a blob is pulled, it is written at most once a minute, in a batch with the others. A crash loses the
 * last minute; a clean stop loses nothing.
 */
import type { Milliseconds } from '../../base/units.ts'
import type { Logger } from 'pino'
import type { Digest } from '../../oci/digest.ts'
import type { EpochMs, MetadataStore } from '../../storage/metadata/metadata.ts'

const EVERY_MS: Milliseconds = 60_000

/** Per transaction: all of the process shares the one writer thread. */
const BATCH = 500

/** Bounds the memory while the index takes no writes. */
const MOST = 200_000

interface RecencyOptions {
  readonly metadata: Pick<MetadataStore, 'transaction'>
  readonly log: Logger
  readonly now: () => EpochMs
}

export class AccessTimes implements AsyncDisposable {
  readonly #options: RecencyOptions
  /** Pulls that are not written yet. */
  readonly #pulled = new Map<Digest, EpochMs>()
  readonly #timer: NodeJS.Timeout
  #flushing: Promise<void> | undefined

  constructor(options: RecencyOptions) {
    this.#options = options
    this.#timer = setInterval(() => void this.flush(), EVERY_MS).unref()
  }

  touch(digest: Digest): void {
    if (this.#pulled.size >= MOST && !this.#pulled.has(digest)) return
    this.#pulled.set(digest, this.#options.now())
  }

  /** The later of the written time and the pending one. */
  latest(digest: Digest, written: EpochMs): EpochMs {
    return Math.max(written, this.#pulled.get(digest) ?? 0)
  }

  /** Writes the pending times. Never rejects: the next flush tries again what could not be written. */
  flush(): Promise<void> {
    this.#flushing ??= this.#flush().finally(() => {
      this.#flushing = undefined
    })
    return this.#flushing
  }

  async #flush(): Promise<void> {
    const { metadata, log } = this.#options
    const due = [...this.#pulled]
    try {
      for (let at = 0; at < due.length; at += BATCH) {
        const batch = due.slice(at, at + BATCH)
        await metadata.transaction((tx) => {
          for (const [digest, pulledAt] of batch) tx.markPulled(digest, pulledAt)
        })
        for (const [digest, pulledAt] of batch) {
          if (this.#pulled.get(digest) === pulledAt) this.#pulled.delete(digest)
        }
      }
    } catch (err) {
      log.debug({ err, blobs: this.#pulled.size }, 'when they were pulled is not written down yet')
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer)
    // A flush that already runs does not know the pulls that came after its start.
    await this.#flushing
    await this.flush()
  }
}
