/**
 * Mutex by key.
 *
 * Everything that must not happen twice at once goes through it. It is an interface because several replicas would have
 * to agree some other way.
 */
import type { Digest } from '../../oci/digest.ts'
import type { RepositoryName } from '../../oci/reference.ts'

/** Held by an upload, a fill, a repair, an eviction or a collection while it changes the bytes or whose they are. */
export function lockOfBlob(digest: Digest): string {
  return `blob ${digest}`
}

/** A push takes the lock of its repository before those of blobs; everybody who needs both keeps to that order. */
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
