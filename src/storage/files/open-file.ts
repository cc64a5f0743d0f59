/**
 * Reference-counted descriptor.
 *
 * It is closed when its owner and all who retained it are done, never under a running operation, which counts as a
 * user too. So a late read may fail, but never reads the file that got the number next.
 */
import type { Bytes } from '../../base/units.ts'
import type { Descriptor, FileInfo, Files } from './files.ts'

export class OpenFile implements Disposable {
  /** Resolves when the descriptor is gone; a failing close loses nothing that was synced. */
  readonly closed: Promise<void>
  readonly #files: Files
  readonly #descriptor: Descriptor
  #markClosed: () => void = () => undefined
  #users = 1
  readonly #owner: Disposable

  private constructor(files: Files, descriptor: Descriptor) {
    this.#files = files
    this.#descriptor = descriptor
    this.closed = new Promise((resolve) => {
      this.#markClosed = resolve
    })
    this.#owner = this.#user()
  }

  static async open(files: Files, path: string, flags: 'r' | 'r+' | 'wx+'): Promise<OpenFile> {
    return new OpenFile(files, await files.open(path, flags))
  }

  /** The hasher reads it in another thread; it is valid only while retained. */
  get descriptor(): Descriptor {
    return this.#descriptor
  }

  retain(): Disposable {
    if (this.#users === 0) throw new Error('the file is closed')
    this.#users++
    return this.#user()
  }

  read(buffer: Uint8Array, position: Bytes): Promise<Bytes> {
    return this.#during(() => this.#files.read(this.#descriptor, buffer, position))
  }

  /** Writes all chunks, however many calls it takes. */
  write(chunks: readonly Uint8Array[], position: Bytes): Promise<void> {
    return this.#during(async () => {
      let rest = chunks
      for (let at = position; rest.length > 0;) {
        const written = await this.#files.write(this.#descriptor, rest, at)
        if (written === 0) throw new Error('the file takes no more bytes')
        at += written
        rest = sliceChunks(rest, written)
      }
    })
  }

  truncate(size: Bytes): Promise<void> {
    return this.#during(() => this.#files.truncate(this.#descriptor, size))
  }

  datasync(): Promise<void> {
    return this.#during(() => this.#files.datasync(this.#descriptor))
  }

  describe(): Promise<FileInfo> {
    return this.#during(() => this.#files.describe(this.#descriptor))
  }

  /** The owner is done; idempotent. */
  [Symbol.dispose](): void {
    this.#owner[Symbol.dispose]()
  }

  async #during<T>(operation: () => Promise<T>): Promise<T> {
    const user = this.retain()
    try {
      return await operation()
    } finally {
      user[Symbol.dispose]()
    }
  }

  #user(): Disposable {
    let gone = false
    return {
      [Symbol.dispose]: () => {
        if (gone) return
        gone = true
        if (--this.#users > 0) return
        void this.#files.close(this.#descriptor).then(this.#markClosed, this.#markClosed)
      },
    }
  }
}

/** The bytes of `chunks` from `start` on and before `end`, both counted from the first byte; without empty chunks. */
export function sliceChunks(
  chunks: readonly Uint8Array[],
  start: Bytes,
  end: Bytes = Infinity,
): Uint8Array[] {
  const parts: Uint8Array[] = []
  let at = 0
  for (const chunk of chunks) {
    if (at >= end) break
    const from = Math.max(start - at, 0)
    const to = Math.min(end - at, chunk.length)
    if (from < to) parts.push(from === 0 && to === chunk.length ? chunk : chunk.subarray(from, to))
    at += chunk.length
  }
  return parts
}
