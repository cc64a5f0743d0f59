/**
 * Bytes that no collection may take away although nothing in the index asks for them: a backup is about to read
 * them, or a restore about to name them.
 *
 * They do not outlive the process; neither does whoever pinned them.
 */
import type { Digest } from '../oci/digest.ts'

export class Pins {
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
