/**
 * Semaphore: at most `width` pieces of work at once; the others wait in the order in which they came.
 */
export class Limiter {
  #free: number
  readonly #waiting: (() => void)[] = []

  constructor(width: number) {
    this.#free = width
  }

  async run<T>(action: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free--
    else await new Promise<void>((resolve) => this.#waiting.push(resolve))
    try {
      return await action()
    } finally {
      const next = this.#waiting.shift()
      // The place is handed over, not freed: nobody who comes just now can overtake.
      if (next) next()
      else this.#free++
    }
  }
}
