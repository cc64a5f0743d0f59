/**
 * A file layer that remembers what was synced, and shows what a power loss would have left.
 *
 * Everything goes to the real disk as usual; beside it a log is kept of what changed data and names, and of what
 * was synced. {@link PowerLossFiles.leave} builds the folder anew as a disk may hold it when the power goes: what
 * was synced is there; each other change is there, there in part, or not, as `luck` says. Only for folders that
 * were empty when recording began; file contents are held in memory.
 */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { nodeFiles, type Descriptor, type FileInfo, type Files } from '../../src/store/files.ts'

interface Inode {
  readonly id: number
}

type Change =
  | { readonly type: 'write'; readonly inode: Inode; readonly position: number; readonly bytes: Buffer }
  | { readonly type: 'truncate'; readonly inode: Inode; readonly size: number }
  | { readonly type: 'create'; readonly path: string; readonly inode: Inode }
  | { readonly type: 'folder'; readonly path: string }
  | { readonly type: 'rename'; readonly from: string; readonly to: string; readonly inode: Inode }
  | { readonly type: 'remove'; readonly path: string }

/** Covers the changes of its subject that were complete (before `upTo`) when it began. */
type Sync =
  | { readonly type: 'datasync'; readonly inode: Inode; readonly upTo: number }
  | { readonly type: 'syncFolder'; readonly path: string; readonly upTo: number }

type Event = Change | Sync

/** How much of a change that was never synced is there: 0 to 1. */
export type Luck = () => number

export const NO_LUCK: Luck = () => 0

export class PowerLossFiles implements Files {
  readonly #root: string
  #files = 0
  readonly #log: Event[] = []
  readonly #open = new Map<Descriptor, Inode>()
  readonly #inodes = new Map<string, Inode>()

  constructor(root: string) {
    this.#root = path.resolve(root)
  }

  /** Events so far: a moment to cut the power at. */
  get moment(): number {
    return this.#log.length
  }

  /** Builds in `target` what is left when the power goes at `moment`. */
  leave(target: string, moment: number, luck: Luck): void {
    const log = this.#log.slice(0, moment)
    // Up to where the changes of a file, or of the names in a folder, are on the disk.
    const synced = new Map<Inode | string, number>()
    for (const event of log) {
      if (event.type === 'datasync') synced.set(event.inode, event.upTo)
      if (event.type === 'syncFolder') synced.set(event.path, event.upTo)
    }
    const names = new Map<string, Inode | 'folder'>()
    const data = new Map<Inode, Buffer>()
    for (const [i, event] of log.entries()) {
      if (event.type === 'datasync' || event.type === 'syncFolder') continue
      const part = i < (synced.get(subjectOf(event)) ?? 0) ? 1 : luck()
      apply(event, part, names, data)
    }
    for (const [name, what] of [...names].sort(([a], [b]) => a.length - b.length)) {
      const copy = path.join(target, path.relative(this.#root, name))
      // A folder that was lost takes what is in it along.
      if (!existsSync(path.dirname(copy))) continue
      if (what === 'folder') mkdirSync(copy)
      else writeFileSync(copy, data.get(what) ?? '')
    }
  }

  async open(name: string, flags: 'r' | 'r+' | 'wx+'): Promise<Descriptor> {
    const descriptor = await nodeFiles.open(name, flags)
    const known = this.#inodes.get(path.resolve(name))
    const inode = known ?? { id: this.#files++ }
    this.#open.set(descriptor, inode)
    if (flags === 'wx+') {
      this.#inodes.set(path.resolve(name), inode)
      this.#log.push({ type: 'create', path: path.resolve(name), inode })
    }
    return descriptor
  }

  async write(file: Descriptor, chunks: readonly Uint8Array[], position: number): Promise<number> {
    const written = await nodeFiles.write(file, chunks, position)
    const bytes = Buffer.concat(chunks).subarray(0, written)
    this.#log.push({ type: 'write', inode: this.#inode(file), position, bytes })
    return written
  }

  async truncate(file: Descriptor, size: number): Promise<void> {
    await nodeFiles.truncate(file, size)
    this.#log.push({ type: 'truncate', inode: this.#inode(file), size })
  }

  async datasync(file: Descriptor): Promise<void> {
    const inode = this.#inode(file)
    const upTo = this.moment
    await nodeFiles.datasync(file)
    this.#log.push({ type: 'datasync', inode, upTo })
  }

  async close(file: Descriptor): Promise<void> {
    this.#open.delete(file)
    await nodeFiles.close(file)
  }

  async rename(from: string, to: string): Promise<void> {
    await nodeFiles.rename(from, to)
    const [source, target] = [path.resolve(from), path.resolve(to)]
    const inode = this.#inodes.get(source)
    this.#inodes.delete(source)
    if (!inode) throw new Error(`${from} was there before recording began`)
    this.#inodes.set(target, inode)
    this.#log.push({ type: 'rename', from: source, to: target, inode })
  }

  async remove(name: string): Promise<void> {
    await nodeFiles.remove(name)
    if (this.#inodes.delete(path.resolve(name))) this.#log.push({ type: 'remove', path: path.resolve(name) })
  }

  async makeFolder(name: string): Promise<void> {
    const present = await nodeFiles.stat(name)
    await nodeFiles.makeFolder(name)
    if (!present) this.#log.push({ type: 'folder', path: path.resolve(name) })
  }

  async syncFolder(name: string): Promise<void> {
    const upTo = this.moment
    await nodeFiles.syncFolder(name)
    this.#log.push({ type: 'syncFolder', path: path.resolve(name), upTo })
  }

  read(file: Descriptor, buffer: Uint8Array, position: number): Promise<number> {
    return nodeFiles.read(file, buffer, position)
  }

  describe(file: Descriptor): Promise<FileInfo> {
    return nodeFiles.describe(file)
  }

  stat(name: string): Promise<FileInfo | undefined> {
    return nodeFiles.stat(name)
  }

  list(name: string): Promise<string[] | undefined> {
    return nodeFiles.list(name)
  }

  space(name: string): Promise<{ total: number; free: number }> {
    return nodeFiles.space(name)
  }

  #inode(file: Descriptor): Inode {
    const inode = this.#open.get(file)
    if (!inode) throw new Error(`descriptor ${file} is not open`)
    return inode
  }
}

/** What must be synced for the change to be on the disk. */
function subjectOf(change: Change): Inode | string {
  if (change.type === 'write' || change.type === 'truncate') return change.inode
  // A rename is one transaction of the journal: it is there as soon as its new name is.
  return path.dirname(change.type === 'rename' ? change.to : change.path)
}

/** `part`: how much of it reached the disk. A name is there or not; of a write any beginning can be. */
function apply(
  event: Change,
  part: number,
  names: Map<string, Inode | 'folder'>,
  data: Map<Inode, Buffer>,
): void {
  switch (event.type) {
    case 'write': {
      const bytes = event.bytes.subarray(0, Math.floor(event.bytes.length * part))
      const before = data.get(event.inode) ?? Buffer.alloc(0)
      const size = bytes.length === 0 ? before.length : Math.max(before.length, event.position + bytes.length)
      const after = size === before.length ? before : Buffer.concat([before], size)
      bytes.copy(after, event.position)
      data.set(event.inode, after)
      break
    }
    case 'truncate':
      if (part === 1) {
        data.set(event.inode, Buffer.concat([data.get(event.inode) ?? Buffer.alloc(0)], event.size))
      }
      break
    case 'create':
      if (part >= 0.5) names.set(event.path, event.inode)
      break
    case 'folder':
      if (part >= 0.5) names.set(event.path, 'folder')
      break
    case 'rename':
      if (part < 0.5) break
      names.delete(event.from)
      names.set(event.to, event.inode)
      break
    case 'remove':
      if (part >= 0.5) names.delete(event.path)
  }
}
