/**
 * Condition variable: a change wakes every waiter, and each checks whether it is the change that it waits for.
 *
 * A waiter that has no `await` between the check and the wait misses no change.
 */

/** Waking two hundred clients for each piece of a layer costs more than the layer (measured). */
const TOGETHER_MS = 4

export class Condition {
  readonly #waiting = new Set<() => void>()
  #wokenAt = Number.NEGATIVE_INFINITY
  #soon: NodeJS.Timeout | undefined

  /** @throws the signal's reason */
  wait(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal.aborted) {
        reject(signal.reason as Error)
        return
      }
      const woken = (): void => {
        signal.removeEventListener('abort', aborted)
        resolve()
      }
      const aborted = (): void => {
        this.#waiting.delete(woken)
        reject(signal.reason as Error)
      }
      signal.addEventListener('abort', aborted, { once: true })
      this.#waiting.add(woken)
    })
  }

  wake(): void {
    clearTimeout(this.#soon)
    this.#soon = undefined
    this.#wokenAt = performance.now()
    const woken = [...this.#waiting]
    this.#waiting.clear()
    for (const wake of woken) wake()
  }

  /** Wakes at once for the first of several changes in quick succession, and once for all the others. */
  wakeSoon(): void {
    if (this.#soon !== undefined) return
    const waitMs = this.#wokenAt + TOGETHER_MS - performance.now()
    if (waitMs <= 0) this.wake()
    else this.#soon = setTimeout(() => this.wake(), waitMs)
  }
}

/** The signal for a wait without a limit. */
export const NEVER = new AbortController().signal

/** The promise's result, unless the signal ends the wait first. The promise goes on, its failure handled. */
export function abandonable<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const aborted = (): void => reject(signal.reason as Error)
    if (signal.aborted) aborted()
    signal.addEventListener('abort', aborted, { once: true })
    void promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', aborted))
  })
}
