/**
 * Files that are not ours to keep: backups, wherever somebody wants them.
 */
import { createReadStream } from 'node:fs'
import { randomBytes } from 'node:crypto'
import { chmod, stat } from 'node:fs/promises'
import path from 'node:path'
import { OpenFile } from './open-file.ts'
import type { Bytes } from './blob-store.ts'
import type { Files } from './files.ts'

/** What is not on the disk yet is everybody's page cache. */
const SYNC_EVERY: Bytes = 256 * 1024 * 1024

/** In chunks of memory of their own. */
const READ: Bytes = 1024 * 1024

/** @throws the system's error, also for a folder */
export async function openOutside(
  path: string,
): Promise<{ readonly size: Bytes; readonly chunks: AsyncIterable<Buffer> }> {
  const stats = await stat(path)
  if (stats.isDirectory()) throw new Error('it is a folder')
  return { size: stats.size, chunks: createReadStream(path, { highWaterMark: READ }) }
}

/**
 * There whole, or not at all: written under another name, synced, renamed. Readable by its owner alone.
 *
 * Dispose to give it up, if it is not finished.
 */
export class NewFile implements AsyncDisposable {
  readonly #files: Files
  readonly #path: string
  readonly #temporary: string
  readonly #file: OpenFile
  #size: Bytes = 0
  #synced: Bytes = 0
  #finished = false

  private constructor(files: Files, target: string, temporary: string, file: OpenFile) {
    this.#files = files
    this.#path = target
    this.#temporary = temporary
    this.#file = file
  }

  static async create(files: Files, target: string): Promise<NewFile> {
    const temporary = `${target}.${randomBytes(6).toString('hex')}.tmp`
    const file = await OpenFile.open(files, temporary, 'wx+')
    const created = new NewFile(files, target, temporary, file)
    try {
      await chmod(temporary, 0o600)
      return created
    } catch (error) {
      await created[Symbol.asyncDispose]()
      throw error
    }
  }

  /** The bytes are the caller's again when it resolves. */
  async write(bytes: Uint8Array): Promise<void> {
    await this.#file.write([bytes], this.#size)
    this.#size += bytes.length
    if (this.#size - this.#synced < SYNC_EVERY) return
    await this.#file.datasync()
    this.#synced = this.#size
  }

  /** It is at its place, and survives a power loss, when it resolves. */
  async finish(): Promise<void> {
    await this.#file.datasync()
    await this.#files.rename(this.#temporary, this.#path)
    this.#finished = true
    await this.#files.syncFolder(path.dirname(path.resolve(this.#path)))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#file[Symbol.dispose]()
    await this.#file.closed
    if (!this.#finished) await this.#files.remove(this.#temporary)
  }
}
