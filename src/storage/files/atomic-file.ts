/** Files outside the storage, such as backups: read with their holes skipped, written atomically. */
import type { Bytes } from '../../base/units.ts'
import { randomBytes } from 'node:crypto'
import { chmod, realpath, stat } from 'node:fs/promises'
import path from 'node:path'
import { OpenFile } from './open-file.ts'
import type { Files } from './files.ts'

/** Dirty pages take the page cache from everything else: the writer syncs after so many bytes. */
const SYNC_EVERY: Bytes = 256 * 1024 * 1024

/** Size of a chunk, which has memory of its own. */
const READ: Bytes = 1024 * 1024

/** A file with less than this share of its size on the disk has holes, or compresses very well. */
const SOLID = 0.9

/** `stat` counts blocks of this size. */
const STAT_BLOCK: Bytes = 512

/** Size of a chunk for a reader that skips most of the file. */
const GLANCE: Bytes = 64 * 1024

/** A file that the operator gave us to read, as often as it takes. Dispose to close it. */
export class OutsideFile implements AsyncDisposable {
  readonly size: Bytes
  /** Its size may be far more than was ever written. */
  readonly hasHoles: boolean
  readonly #file: OpenFile

  private constructor(file: OpenFile, size: Bytes, onDisk: Bytes) {
    this.#file = file
    this.size = size
    this.hasHoles = onDisk < SOLID * size
  }

  /** @throws the system's error, and for anything but a plain file: a pipe can only be read once */
  static async open(files: Files, path: string): Promise<OutsideFile> {
    const { blocks } = await stat(path)
    const file = await OpenFile.open(files, await realpath(path), 'r')
    const { kind, size } = await file.describe()
    if (kind === 'file') return new OutsideFile(file, size, blocks * STAT_BLOCK)
    file[Symbol.dispose]()
    throw new Error(kind === 'folder' ? 'it is a folder' : 'it is no plain file')
  }

  /**
   * Reads from the beginning, without what the reader skips.
   *
   * @param options.glancing the reader skips most of it
   */
  chunks({ glancing = false } = {}): SkippingChunks {
    return new SkippingChunks(this.#file, glancing ? GLANCE : READ)
  }

  /** @returns fewer bytes when the file ends before that */
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

/** Reads one chunk ahead while the reader looks at this one, except in a glancing read, which would skip it. */
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
        // Unless the reader asks for this chunk, its failure is of no account.
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
 * Atomic write: the file is there whole or not at all, for it is written under another name, synced and renamed. Only
 * its owner may read it. Dispose to give it up, if it is not finished.
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

  /** The caller may reuse the bytes once it resolves. */
  async write(bytes: Uint8Array): Promise<void> {
    await this.#file.write([bytes], this.#size)
    this.#size += bytes.length
    if (this.#size - this.#synced < SYNC_EVERY) return
    await this.#file.datasync()
    this.#synced = this.#size
  }

  /** The file is in its place, and survives a power loss, when it resolves. */
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
