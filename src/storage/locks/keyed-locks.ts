/**
 * Mutex by key, exclusive or shared.
 *
 * An interface because several replicas would have to agree some other way; everything that must not happen
 * twice at once goes through it.
 */
export interface KeyedLocks {
  /**
   * Resolves when nobody else holds `key`, first come, first served. Dispose to let go.
   *
   * @throws the signal's reason when it aborts before that
   */
  exclusive(key: string, signal: AbortSignal): Promise<Disposable>
  /** Nobody holds it at this moment: whoever does so later sees what is so now. */
  isFree(key: string): Promise<boolean>
}

export class InProcessKeyedLocks implements KeyedLocks {
  /** Who waits for a held key; no entry: it is free. */
  readonly #waiting = new Map<string, (() => void)[]>()

  async exclusive(key: string, signal: AbortSignal): Promise<Disposable> {
    signal.throwIfAborted()
    const line = this.#waiting.get(key)
    if (line) await wait(line, signal)
    else this.#waiting.set(key, [])
    return this.#held(key)
  }

  isFree(key: string): Promise<boolean> {
    return Promise.resolve(!this.#waiting.has(key))
  }

  #held(key: string): Disposable {
    let released = false
    return {
      [Symbol.dispose]: () => {
        if (released) return
        released = true
        const next = this.#waiting.get(key)?.shift()
        if (next) next()
        else this.#waiting.delete(key)
      },
    }
  }
}

function wait(line: (() => void)[], signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const enter = (): void => {
      signal.removeEventListener('abort', leave)
      resolve()
    }
    const leave = (): void => {
      line.splice(line.indexOf(enter), 1)
      reject(signal.reason as Error)
    }
    line.push(enter)
    signal.addEventListener('abort', leave, { once: true })
  })
}
