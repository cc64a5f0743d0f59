/**
 * Reference count of the followers of a fill, and what stays open for as long as one of them may still read it.
 */
import { Condition } from '../../base/condition.ts'

interface AudienceOptions {
  /** The first has come. */
  readonly came: () => void
  /** The last has gone. */
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

  /** One more, who goes by disposing what he gets. */
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

  /** Resolves when there is nobody, or the signal aborts. */
  async gone(signal: AbortSignal): Promise<void> {
    while (this.#count > 0 && !signal.aborted) {
      await this.#leaving.wait(signal).catch(() => undefined)
    }
  }

  keep(what: Disposable): void {
    this.#kept.push(what)
  }

  /** Nobody comes any more: what was kept is let go of with the last. */
  over(): void {
    this.#over = true
    if (this.#count === 0) this.letGo()
  }

  letGo(): void {
    for (const what of this.#kept.splice(0)) what[Symbol.dispose]()
  }
}
