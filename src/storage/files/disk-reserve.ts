/**
 * Disk reserve: a file that keeps disk space for what frees more: deletions and collections write to the index too.
 *
 * No other writer gets that space: a write that found the disk full is retried after each piece that was given up.
 * The file is filled again once there is room.
 */
import type { Bytes } from '../../base/units.ts'
import { randomFillSync } from 'node:crypto'
import { open, stat, truncate } from 'node:fs/promises'
import { PRIVATE_FILE } from './private-file.ts'
import { isDiskFull } from '../storage-error.ts'

const MiB = 1024 * 1024

const MOST: Bytes = 8 * MiB

/** The most that it takes of a small file system. */
const SHARE = 0.05

/** A piece holds more than a commit, or a list that is written again. */
const PIECE: Bytes = MiB

export class DiskReserve {
  readonly #path: string
  #size: Bytes

  private constructor(path: string, size: Bytes) {
    this.#path = path
    this.#size = size
  }

  /** Opens what an earlier process left of the reserve. */
  static async open(path: string): Promise<DiskReserve> {
    const found = await stat(path).catch(() => undefined)
    return new DiskReserve(path, found?.isFile() === true ? found.size : 0)
  }

  /** Retries the write for as long as the disk is full and some of the reserve is left. */
  async use<T>(write: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await write()
      } catch (error) {
        if (!isDiskFull(error) || !(await this.giveUp(PIECE))) throw error
      }
    }
  }

  /** @returns false when nothing is left of the reserve */
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

  /** Fills the reserve, where that leaves as much space again. Never rejects. */
  async refill({ total, free }: { readonly total: Bytes; readonly free: Bytes }): Promise<void> {
    const wanted = Math.min(MOST, Math.floor((total * SHARE) / PIECE) * PIECE)
    const missing = wanted - this.#size
    if (missing <= 0 || free < 2 * missing) return
    try {
      await using file = await open(this.#path, 'a', PRIVATE_FILE)
      // Random bytes: some file systems do not store zeros.
      const piece = randomFillSync(Buffer.allocUnsafe(PIECE))
      while (this.#size < wanted) {
        const { bytesWritten } = await file.write(piece)
        this.#size += bytesWritten
      }
    } catch {
      // The next refill tries again.
    }
  }
}
