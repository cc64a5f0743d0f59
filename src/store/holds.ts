/**
 * Bytes that are in use: no collection and no eviction may take them away, whatever the index says of them.
 *
 * A reader has them open, a download is on its way to them, a backup is about to read them, a restore about to
 * name them. Holds do not outlive the process; neither does whoever holds.
 */
import type { Digest } from '../oci/digest.ts'

export class Holds {
  readonly #held = new Map<Digest, number>()
  #everything = 0

  has(digest: Digest): boolean {
    return this.#everything > 0 || this.#held.has(digest)
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
