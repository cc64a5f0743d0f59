/**
 * Files that are not ours to keep: backups, wherever somebody wants them.
 */
import type { Bytes } from '../../base/units.ts'
import { randomBytes } from 'node:crypto'
import { chmod, realpath, stat } from 'node:fs/promises'
import path from 'node:path'
import { OpenFile } from './open-file.ts'
import type { Files } from './files.ts'

/** What is not on the disk yet is everybody's page cache. */
const SYNC_EVERY: Bytes = 256 * 1024 * 1024

/** In chunks of memory of their own. */
const READ: Bytes = 1024 * 1024

/** Of a file that has less than that share of its size on the disk the rest are holes, or it compresses very well. */
const SOLID = 0.9

/** As `stat` counts them. */
const STAT_BLOCK: Bytes = 512

/** Where most of it is passed over. */
const GLANCE: Bytes = 64 * 1024

/** One that somebody gave us to read, as often as it takes. Dispose to close it. */
export class OutsideFile implements AsyncDisposable {
  readonly size: Bytes
  /** Its bytes may be many more than anybody has ever written. */
  readonly hasHoles: boolean
  readonly #file: OpenFile

  private constructor(file: OpenFile, size: Bytes, onDisk: Bytes) {
    this.#file = file
    this.size = size
    this.hasHoles = onDisk < SOLID * size
  }

  /** @throws the system's error, also for what is no plain file: a pipe can only be read once */
  static async open(files: Files, path: string): Promise<OutsideFile> {
    const { blocks } = await stat(path)
    const file = await OpenFile.open(files, await realpath(path), 'r')
    const { kind, size } = await file.describe()
    if (kind === 'file') return new OutsideFile(file, size, blocks * STAT_BLOCK)
    file[Symbol.dispose]()
    throw new Error(kind === 'folder' ? 'it is a folder' : 'it is no plain file')
  }

  /**
   * From its beginning, without what is skipped.
   *
   * @param options.glancing little of it is looked at
   */
  chunks({ glancing = false } = {}): SkippingChunks {
    return new SkippingChunks(this.#file, glancing ? GLANCE : READ)
  }

  /** @returns less where it ends before that */
  async read(position: Bytes, length: Bytes): Promise<Buffer<ArrayBuffer>> {
    const bytes = Buffer.allocUnsafeSlow(length)
    let filled = 0
    while (filled < length) {
      const piece = bytes.subarray(filled, Math.min(length, filled + READ))
      const count = await this.#file.read(piece, position + filled)
      if (count === 0) break
      filled += count
    }
    return bytes.subarray(0, filled)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#file[Symbol.dispose]()
    await this.#file.closed
  }
}

/** The next one is read while one is looked at, unless it is going to be skipped. */
class SkippingChunks implements AsyncIterable<Buffer> {
  readonly #file: OpenFile
  readonly #length: Bytes
  #position: Bytes = 0
  #ahead: { readonly position: Bytes; readonly chunk: Promise<Buffer> } | undefined

  constructor(file: OpenFile, length: Bytes) {
    this.#file = file
    this.#length = length
  }

  skip(count: Bytes): void {
    this.#position += count
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer, void, undefined> {
    for (;;) {
      const ahead = this.#ahead
      this.#ahead = undefined
      const chunk = await (ahead?.position === this.#position ? ahead.chunk : this.#read(this.#position))
      if (chunk.length === 0) return
      this.#position += chunk.length
      if (this.#length === READ) {
        this.#ahead = { position: this.#position, chunk: this.#read(this.#position) }
        // Who never comes back for it does not care.
        this.#ahead.chunk.catch(() => undefined)
      }
      yield chunk
    }
  }

  async #read(position: Bytes): Promise<Buffer> {
    const chunk = Buffer.allocUnsafeSlow(this.#length)
    return chunk.subarray(0, await this.#file.read(chunk, position))
  }
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
