/** Mutex by key. It is an interface because several replicas would have to agree some other way. */
import type { Digest } from '../../oci/digest.ts'
import type { RepositoryName } from '../../oci/reference.ts'

/** Held by an upload, a fill, a repair, an eviction or a collection while it changes the bytes or whose they are. */
export function lockOfBlob(digest: Digest): string {
  return `blob ${digest}`
}

/** Lock order, against deadlocks: a push, and all else that needs both, locks the repository before its blobs. */
export function lockOfRepository(name: RepositoryName): string {
  return `repository ${name}`
}

export function lockOfUpload(session: string): string {
  return `upload ${session}`
}

export const COLLECTION_LOCK = 'collection'

export const EVICTION_LOCK = 'eviction'

export interface KeyedLocks {
  /**
   * Resolves when the key is free, first come, first served. Dispose to release it.
   *
   * @throws the signal's reason when it aborts before that
   */
  exclusive(key: string, signal: AbortSignal): Promise<Disposable>
  /** Whether the key is free now: a later holder sees what the caller had done before it asked. */
  isFree(key: string): Promise<boolean>
}

export class InProcessKeyedLocks implements KeyedLocks {
  /** The waiters of each held key; a free key has no entry. */
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
