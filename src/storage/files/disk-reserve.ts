/**
 * A file that keeps some of the disk for whoever frees more of it: deletions and collections write to the index too.
 *
 * Nobody else gets what it gives up: a write that found the disk full is made again after each piece that was given
 * up. It is filled again once there is room.
 */
import type { Bytes } from '../../base/units.ts'
import { randomFillSync } from 'node:crypto'
import { open, stat, truncate } from 'node:fs/promises'
import { PRIVATE_FILE } from './private-file.ts'
import { isDiskFull } from '../storage-error.ts'

const MiB = 1024 * 1024

const MOST: Bytes = 8 * MiB

/** Of the file system, where that is less. */
const SHARE = 0.05

/** More than a commit takes, or a list that is written again. */
const PIECE: Bytes = MiB

export class DiskReserve {
  readonly #path: string
  #size: Bytes

  private constructor(path: string, size: Bytes) {
    this.#path = path
    this.#size = size
  }

  /** What an earlier process left of it. */
  static async open(path: string): Promise<DiskReserve> {
    const found = await stat(path).catch(() => undefined)
    return new DiskReserve(path, found?.isFile() === true ? found.size : 0)
  }

  /** Makes the write, again and again as long as the disk is full and there is some of it left. */
  async use<T>(write: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await write()
      } catch (error) {
        if (!isDiskFull(error) || !(await this.giveUp(PIECE))) throw error
      }
    }
  }

  /** @returns false when nothing is left of it */
  async giveUp(bytes: Bytes): Promise<boolean> {
    if (this.#size === 0) return false
    this.#size = Math.max(this.#size - bytes, 0)
    try {
      await truncate(this.#path, this.#size)
      return true
    } catch {
      return false
    }
  }

  /** Takes what is missing of it, where that leaves as much again. Never rejects. */
  async refill({ total, free }: { readonly total: Bytes; readonly free: Bytes }): Promise<void> {
    const wanted = Math.min(MOST, Math.floor((total * SHARE) / PIECE) * PIECE)
    const missing = wanted - this.#size
    if (missing <= 0 || free < 2 * missing) return
    try {
      await using file = await open(this.#path, 'a', PRIVATE_FILE)
      // What is all zeros, some file systems do not store.
      const piece = randomFillSync(Buffer.allocUnsafe(PIECE))
      while (this.#size < wanted) {
        const { bytesWritten } = await file.write(piece)
        this.#size += bytesWritten
      }
    } catch {
      // The next time.
    }
  }
}
