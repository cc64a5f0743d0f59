/**
 * Reference counts of blobs in use: no collection and no eviction may take those away, whatever the index says of them.
 *
 * A reader has them open, a download is on its way to them, a backup is about to read them, a restore about to
 * name them. Holds end with the process, as all these do; nginx, which was told the name of a file, may outlive it.
 */
import type { Milliseconds } from '../../base/units.ts'
import type { Digest } from '../../oci/digest.ts'

/** nginx has the file open that long after it was told its name; a busy one takes a while. */
const TOLD_MS: Milliseconds = 60_000

export class BlobHolds {
  readonly #held = new Map<Digest, number>()
  /** When the hold of each ends; those that end first are in front. */
  readonly #told = new Map<Digest, Milliseconds>()
  readonly #now: () => Milliseconds
  #everything = 0

  /** @param now goes on, whatever becomes of the time of day */
  constructor(now: () => Milliseconds = () => performance.now()) {
    this.#now = now
  }

  has(digest: Digest): boolean {
    return this.#everything > 0 || this.#held.has(digest) || (this.#told.get(digest) ?? 0) > this.#now()
  }

  /** For nginx, which opens a file by its name, and does not say when it has. */
  tell(digest: Digest): void {
    const now = this.#now()
    for (const [other, until] of this.#told) {
      if (until > now) break
      this.#told.delete(other)
    }
    this.#told.delete(digest)
    this.#told.set(digest, now + TOLD_MS)
  }

  /** Whatever is here. */
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
