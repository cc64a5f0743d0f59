/**
 * Reference counts of blobs in use: no collection and no eviction deletes a held blob, whatever the index says of it.
 *
 * A reader has it open, a download is on its way to it, a backup is about to read it, a restore about to reference
 * it. Holds end with the process, as all these do; nginx, which was told the name of a file, may outlive it.
 */
import type { Milliseconds } from '../../base/units.ts'
import type { Digest } from '../../oci/digest.ts'

/** By then even a busy nginx has opened the file whose name it was told. */
const TOLD_MS: Milliseconds = 60_000

export class BlobHolds {
  readonly #held = new Map<Digest, number>()
  /** When the hold of each ends, in that order. */
  readonly #told = new Map<Digest, Milliseconds>()
  readonly #now: () => Milliseconds
  #everything = 0

  /** @param now a monotonic clock: a step of the time of day must not end holds */
  constructor(now: () => Milliseconds = () => performance.now()) {
    this.#now = now
  }

  has(digest: Digest): boolean {
    return this.#everything > 0 || this.#held.has(digest) || (this.#told.get(digest) ?? 0) > this.#now()
  }

  /** Holds the blob for nginx, which opens a file by its name, and does not say when it has. */
  tell(digest: Digest): void {
    const now = this.#now()
    for (const [other, until] of this.#told) {
      if (until > now) break
      this.#told.delete(other)
    }
    this.#told.delete(digest)
    this.#told.set(digest, now + TOLD_MS)
  }

  /** Holds all blobs. */
  everything(): Disposable {
    this.#everything++
    return once(() => this.#everything--)
  }

  hold(digest: Digest): Disposable {
    this.#held.set(digest, (this.#held.get(digest) ?? 0) + 1)
    return once(() => {
      const left = (this.#held.get(digest) ?? 1) - 1
      if (left === 0) this.#held.delete(digest)
      else this.#held.set(digest, left)
    })
  }
}

function once(release: () => void): Disposable {
  let released = false
  return {
    [Symbol.dispose]: () => {
      if (released) return
      released = true
      release()
    },
  }
}
