/**
 * Timeouts for a hung disk: a frozen file system, a dead NFS server.
 *
 * A call to it waits inside the kernel, on a thread of libuv's small pool, for as long as that lasts. So changes of
 * the disk take only a part of those threads, which leaves some for reads from the page cache, and their callers get
 * an error after a while. A change may still happen after that: its descriptor stays open for it, and its buffers and
 * its file must not be used for anything else.
 */
import type { Milliseconds } from '../../base/units.ts'
import { DiskHangs } from '../storage-error.ts'
import type { Descriptor, Files } from './files.ts'

/** Threads for changes, of libuv's sixteen (start.js); syncs have four of their own (files.ts). */
const MOST_CHANGES = 6

export interface DiskTimeouts {
  /** Limits the making of a file: a download that gets none still answers in time, without the disk. */
  readonly create: Milliseconds
  /** Limits any other change but a sync, which may have much to write. */
  readonly change: Milliseconds
  readonly sync: Milliseconds
  /** Limits any change while the disk is known to hang. */
  readonly again: Milliseconds
  /** Limits the question of free space: a writer that gets no answer finds out by writing. */
  readonly look: Milliseconds
}

const DEFAULT_TIMEOUTS: DiskTimeouts = {
  ...{ create: 10_000, change: 30_000, sync: 120_000 },
  ...{ again: 1_000, look: 5_000 },
}

/** A change of the disk, whether its caller still waits or not. */
interface Change {
  readonly file: Descriptor | undefined
  /** Never rejects. */
  readonly run: () => Promise<void>
  /** Its caller has got the error. */
  late: boolean
}

interface DiskWatchOptions {
  readonly timeouts?: DiskTimeouts | undefined
  /** Unix time in ms. */
  readonly now?: (() => Milliseconds) | undefined
  /** Called when the disk hangs, with since when, and when it answers again. */
  readonly onChange?: ((hangsSince: Milliseconds | undefined) => void) | undefined
}

export class HungDiskWatch {
  readonly #timeouts: DiskTimeouts
  readonly #now: () => Milliseconds
  readonly #onChange: DiskWatchOptions['onChange']
  readonly #waiting: Change[] = []
  /** The running changes and when each began. */
  readonly #running = new Map<Change, Milliseconds>()
  readonly #idleFiles = new Map<Descriptor, () => void>()
  readonly #lateLooks = new Set<string>()
  #syncs = 0
  #answeredAt = Number.NEGATIVE_INFINITY
  #hangsSince: Milliseconds | undefined

  constructor({ timeouts = DEFAULT_TIMEOUTS, now = Date.now, onChange }: DiskWatchOptions = {}) {
    this.#timeouts = timeouts
    this.#now = now
    this.#onChange = onChange
  }

  /** Unix time in ms; undefined: the disk answers. */
  get hangsSince(): Milliseconds | undefined {
    return this.#hangsSince
  }

  /**
   * @param file the descriptor that it changes, if it does
   * @param undo takes the result when the caller has already got the error
   * @throws DiskHangs; the change may still happen, if it was begun
   */
  change<T>(
    name: string,
    file: Descriptor | undefined,
    action: () => Promise<T>,
    undo?: (done: T) => Promise<void>,
  ): Promise<T> {
    const isSync = name === 'datasync' || name === 'syncFolder'
    const { again, sync, create, change } = this.#timeouts
    const usual = isSync ? sync : name === 'create' ? create : change
    const { promise, resolve, reject } = Promise.withResolvers<T>()
    const it: Change = {
      ...{ file, late: false },
      run: async () => {
        try {
          const done = await action()
          if (it.late) await undo?.(done)
          resolve(done)
        } catch (error) {
          reject(error)
        } finally {
          clearTimeout(timer)
        }
      },
    }
    const giveUp = (): void => {
      it.late = true
      this.#overdue(usual)
      reject(new DiskHangs(name))
    }
    const timer = setTimeout(giveUp, this.#hangsSince === undefined ? usual : Math.min(again, usual))
    // Syncs have their own queue (files.ts): they must not take the threads of other changes.
    if (isSync) void this.#run(it, true)
    else if (this.#running.size - this.#syncs < MOST_CHANGES) void this.#run(it, false)
    else this.#waiting.push(it)
    return promise
  }

  /**
   * A question that changes nothing. A late one keeps its thread, so others of its name fail at once until it ends.
   *
   * @throws DiskHangs
   */
  async look<T>(name: string, action: () => Promise<T>): Promise<T> {
    if (this.#lateLooks.has(name)) throw new DiskHangs(name)
    const { promise: late, reject } = Promise.withResolvers<never>()
    const looking = action()
    const timer = setTimeout(() => {
      this.#lateLooks.add(name)
      const ended = (): boolean => this.#lateLooks.delete(name)
      void looking.then(ended, ended)
      reject(new DiskHangs(name))
    }, this.#timeouts.look)
    try {
      return await Promise.race([looking, late])
    } finally {
      clearTimeout(timer)
    }
  }

  /** Resolves when no change of that descriptor runs. */
  async idle(file: Descriptor): Promise<void> {
    while (this.#uses(file)) await new Promise<void>((resolve) => this.#idleFiles.set(file, resolve))
  }

  async #run(change: Change, isSync: boolean): Promise<void> {
    this.#running.set(change, this.#now())
    if (isSync) this.#syncs += 1
    await change.run()
    this.#running.delete(change)
    this.#answered()
    if (isSync) this.#syncs -= 1
    else this.#next()
    const { file } = change
    if (file === undefined || this.#uses(file)) return
    this.#idleFiles.get(file)?.()
    this.#idleFiles.delete(file)
  }

  #next(): void {
    // A change whose caller has got the error is not begun.
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      if (next.late) continue
      void this.#run(next, false)
      return
    }
  }

  #uses(file: Descriptor): boolean {
    for (const [change] of this.#running) if (change.file === file) return true
    return false
  }

  #answered(): void {
    this.#answeredAt = this.#now()
    if (this.#hangsSince === undefined) return
    this.#hangsSince = undefined
    this.#onChange?.(undefined)
  }

  /** If the disk has answered other calls meanwhile, only one file is stuck, and the disk does not count as hung. */
  #overdue(after: Milliseconds): void {
    if (this.#hangsSince !== undefined || this.#now() - this.#answeredAt < after / 2) return
    this.#hangsSince = Math.min(this.#now(), ...this.#running.values())
    this.#onChange?.(this.#hangsSince)
  }
}

/** Reads have no timeout: the page cache answers at once, whatever the disk does. The free space has one. */
export function withHungDiskTimeouts(files: Files, watch: HungDiskWatch): Files {
  /** Descriptors that are open for writing. */
  const written = new Set<Descriptor>()
  /** Closes once no change of the descriptor runs: after that its number may be another file's. */
  const close = async (file: Descriptor): Promise<void> => {
    await watch.idle(file)
    written.delete(file)
    await watch.change('close', undefined, () => files.close(file))
  }
  return {
    read: (file, buffer, position) => files.read(file, buffer, position),
    describe: (file) => files.describe(file),
    stat: (path) => files.stat(path),
    list: (path) => files.list(path),
    space: (path) => watch.look('space', () => files.space(path)),
    open: async (path, flags) => {
      if (flags === 'r') return files.open(path, flags)
      const name = flags === 'wx+' ? 'create' : 'open'
      const undo = async (late: Descriptor): Promise<void> => {
        await files.close(late)
        if (flags === 'wx+') await files.remove(path)
      }
      const file = await watch.change(name, undefined, () => files.open(path, flags), undo)
      written.add(file)
      return file
    },
    write: (file, chunks, position) => watch.change('write', file, () => files.write(file, chunks, position)),
    truncate: (file, size) => watch.change('truncate', file, () => files.truncate(file, size)),
    datasync: (file) => watch.change('datasync', file, () => files.datasync(file)),
    rename: (from, to) => watch.change('rename', undefined, () => files.rename(from, to)),
    remove: (path) => watch.change('remove', undefined, () => files.remove(path)),
    makeFolder: (path, mode) => watch.change('makeFolder', undefined, () => files.makeFolder(path, mode)),
    syncFolder: (path) => watch.change('syncFolder', undefined, () => files.syncFolder(path)),
    close: (file) => (written.has(file) ? close(file) : files.close(file)),
  }
}
