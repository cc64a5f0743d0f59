/**
 * Reference count of the followers of a fill; it keeps files open for as long as a follower may still read them.
 */
import { Condition } from '../../base/condition.ts'

interface AudienceOptions {
  /** Called when the first follower has come. */
  readonly came: () => void
  /** Called when the last follower has gone. */
  readonly left: () => void
}

export class FollowerCount {
  readonly #options: AudienceOptions
  readonly #kept: Disposable[] = []
  readonly #leaving = new Condition()
  #count = 0
  #over = false

  constructor(options: AudienceOptions) {
    this.#options = options
  }

  get count(): number {
    return this.#count
  }

  /** Adds a follower, until it is disposed. */
  join(): Disposable {
    this.#count += 1
    if (this.#count === 1) this.#options.came()
    let gone = false
    return {
      [Symbol.dispose]: () => {
        if (gone) return
        gone = true
        this.#count -= 1
        if (this.#count > 0) return
        this.#options.left()
        this.#leaving.wake()
        if (this.#over) this.letGo()
      },
    }
  }

  /** Resolves when no follower is left, or the signal aborts. */
  async gone(signal: AbortSignal): Promise<void> {
    while (this.#count > 0 && !signal.aborted) {
      await this.#leaving.wait(signal).catch(() => undefined)
    }
  }

  keep(what: Disposable): void {
    this.#kept.push(what)
  }

  /** No follower comes any more: what was kept is released with the last. */
  over(): void {
    this.#over = true
    if (this.#count === 0) this.letGo()
  }

  letGo(): void {
    for (const what of this.#kept.splice(0)) what[Symbol.dispose]()
  }
}
