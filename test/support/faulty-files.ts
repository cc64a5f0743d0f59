/**
 * A file system that refuses what it is told to refuse, or does not answer; everything else really happens.
 */
import { nodeFiles, type Files } from '../../src/storage/files/files.ts'

/** `open` is for reading, `create` for writing. */
export type Operation = 'open' | 'create' | 'write' | 'datasync' | 'rename' | 'remove' | 'makeFolder' | 'stat'

const NEED_ROOM = new Set<Operation>(['create', 'write', 'datasync', 'rename', 'makeFolder'])

export class FaultyFiles {
  /** Operation -> the code that it fails with. */
  readonly failing = new Map<Operation, string>()
  /** Bytes that writes still take before they fail with `fullWith`. */
  room = Infinity
  fullWith = 'ENOSPC'
  /** So many more operations that need room work, then one fails with `fullWith`. */
  untilFull = Infinity
  /** Changes that wait for the disk to answer. */
  stuck = 0
  #answers: Promise<void> = Promise.resolve()
  #thaw: (() => void) | undefined
  /** Descriptors that are open. */
  opened = 0
  readonly files: Files

  constructor() {
    const check = (operation: Operation): void => {
      const code = this.failing.get(operation)
      if (code !== undefined) throw systemError(code, operation)
      if (NEED_ROOM.has(operation) && --this.untilFull < 0) {
        this.untilFull = Infinity
        throw systemError(this.fullWith, operation)
      }
    }
    this.files = {
      ...nodeFiles,
      open: async (path, flags) => {
        check(flags === 'r' ? 'open' : 'create')
        if (flags !== 'r') await this.#answer()
        const file = await nodeFiles.open(path, flags)
        this.opened += 1
        return file
      },
      close: async (file) => {
        this.opened -= 1
        await nodeFiles.close(file)
      },
      write: async (file, chunks, position) => {
        check('write')
        await this.#answer()
        const bytes = chunks.reduce((sum, chunk) => sum + chunk.length, 0)
        if (bytes > this.room) throw systemError(this.fullWith, 'write')
        this.room -= bytes
        return await nodeFiles.write(file, chunks, position)
      },
      datasync: async (file) => {
        check('datasync')
        await this.#answer()
        await nodeFiles.datasync(file)
      },
      rename: async (from, to) => {
        check('rename')
        await this.#answer()
        await nodeFiles.rename(from, to)
      },
      remove: async (path) => {
        check('remove')
        await this.#answer()
        await nodeFiles.remove(path)
      },
      makeFolder: async (path, mode) => {
        check('makeFolder')
        await this.#answer()
        await nodeFiles.makeFolder(path, mode)
      },
      stat: async (path) => {
        check('stat')
        return await nodeFiles.stat(path)
      },
    }
  }

  /** From now on no change ends, until it heals: a frozen file system. */
  hang(): void {
    const { promise, resolve } = Promise.withResolvers<undefined>()
    this.#answers = promise.then(() => undefined)
    this.#thaw = () => resolve(undefined)
  }

  async #answer(): Promise<void> {
    this.stuck += 1
    await this.#answers
    this.stuck -= 1
  }

  heal(): void {
    this.#thaw?.()
    this.failing.clear()
    this.room = Infinity
    this.untilFull = Infinity
  }
}

function systemError(code: string, operation: string): Error {
  return Object.assign(new Error(`${code}: ${operation}`), { code, syscall: operation })
}
