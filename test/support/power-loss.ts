/**
 * A file layer that remembers what was synced, and shows what a power loss would have left.
 *
 * Everything goes to the real disk, except that syncing only takes a moment; beside it a log is kept of what
 * changed data and names, and of what was synced. {@link PowerLossFiles.leave} builds the folder anew as a disk may hold it when the power goes: what
 * was synced is there; each other change is there, there in part, or not, as `luck` says, whatever came after it.
 * The folders that are there when recording begins count as synced; file contents are held in memory.
 */
import { existsSync, linkSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { nodeFiles, type Descriptor, type FileInfo, type Files } from '../../src/storage/files/files.ts'
import { contentOf, type DataChange } from './power-loss-data.ts'
import type { Luck } from './power-loss-luck.ts'

/** Enough for other changes to come in between. */
const SYNC_MS = 2

interface Inode {
  readonly id: number
}

type Change =
  | (DataChange & { readonly inode: Inode })
  | { readonly type: 'create'; readonly path: string; readonly inode: Inode }
  | { readonly type: 'folder'; readonly path: string }
  | { readonly type: 'rename'; readonly from: string; readonly to: string; readonly inode: Inode }
  | { readonly type: 'remove'; readonly path: string }

/** Covers the changes of its subject that were complete (before `upTo`) when it began. */
type Sync =
  | { readonly type: 'datasync'; readonly inode: Inode; readonly upTo: number }
  | { readonly type: 'syncFolder'; readonly path: string; readonly upTo: number }

type Event = Change | Sync

export class PowerLossFiles implements Files {
  /** Called after every event: the power could go now. */
  onEvent: ((type: Event['type']) => void) | undefined
  readonly #root: string
  #files = 0
  readonly #log: Event[] = []
  readonly #open = new Map<Descriptor, Inode>()
  readonly #inodes = new Map<string, Inode>()
  /** Events before it stand for what was there at the beginning. */
  readonly #beginning: number

  constructor(root: string) {
    this.#root = path.resolve(root)
    if (existsSync(this.#root)) this.#recordFolder(this.#root)
    this.#beginning = this.#log.length
  }

  /** Events so far: a moment to cut the power at. */
  get moment(): number {
    return this.#log.length
  }

  /** Builds in `target` what is left when the power goes at `moment`. */
  leave(target: string, moment: number, luck: Luck): void {
    const log = this.#log.slice(0, Math.max(moment, this.#beginning))
    // Up to where the changes of a file, or of the names in a folder, are on the disk.
    const synced = new Map<Inode | string, number>()
    for (const event of log) {
      if (event.type !== 'datasync' && event.type !== 'syncFolder') continue
      const subject = event.type === 'datasync' ? event.inode : event.path
      synced.set(subject, Math.max(event.upTo, synced.get(subject) ?? 0))
    }
    const names = new Map<string, Inode | 'folder'>()
    const data = new Map<Inode, { change: DataChange; synced: boolean }[]>()
    for (const [i, event] of log.entries()) {
      if (event.type === 'datasync' || event.type === 'syncFolder') continue
      const isSynced = (subject: Inode | string): boolean =>
        i < Math.max(this.#beginning, synced.get(subject) ?? 0)
      /** Of a name: a change of the folder that holds it. */
      const happens = (name: string): boolean => isSynced(path.dirname(name)) || luck('name') >= 0.5
      switch (event.type) {
        case 'write':
        case 'truncate': {
          const changes = data.get(event.inode) ?? []
          changes.push({ change: event, synced: isSynced(event.inode) })
          data.set(event.inode, changes)
          break
        }
        case 'create':
          if (happens(event.path)) names.set(event.path, event.inode)
          break
        case 'folder':
          if (happens(event.path)) names.set(event.path, 'folder')
          break
        case 'remove':
          if (happens(event.path)) names.delete(event.path)
          break
        case 'rename':
          // Never lost, but where a file system has no journal the old name may outlive the new one's sync.
          if (!happens(event.to)) break
          names.set(event.to, event.inode)
          if (happens(event.from)) names.delete(event.from)
      }
    }
    const written = new Map<Inode, string>()
    for (const [name, what] of [...names].sort(([a], [b]) => a.length - b.length)) {
      const copy = path.join(target, path.relative(this.#root, name))
      // A folder that was lost takes what is in it along.
      if (!existsSync(path.dirname(copy))) continue
      const other = what === 'folder' ? undefined : written.get(what)
      if (what === 'folder') mkdirSync(copy)
      else if (other !== undefined) linkSync(other, copy)
      else {
        writeFileSync(copy, contentOf(data.get(what) ?? [], luck))
        written.set(what, copy)
      }
    }
  }

  async open(name: string, flags: 'r' | 'r+' | 'wx+'): Promise<Descriptor> {
    const descriptor = await nodeFiles.open(name, flags)
    const known = this.#inodes.get(path.resolve(name))
    const inode = known ?? { id: this.#files++ }
    this.#open.set(descriptor, inode)
    if (flags === 'wx+') {
      this.#inodes.set(path.resolve(name), inode)
      this.#record({ type: 'create', path: path.resolve(name), inode })
    }
    return descriptor
  }

  async write(file: Descriptor, chunks: readonly Uint8Array[], position: number): Promise<number> {
    const written = await nodeFiles.write(file, chunks, position)
    const bytes = Buffer.concat(chunks).subarray(0, written)
    this.#record({ type: 'write', inode: this.#inode(file), position, bytes })
    return written
  }

  async truncate(file: Descriptor, size: number): Promise<void> {
    await nodeFiles.truncate(file, size)
    this.#record({ type: 'truncate', inode: this.#inode(file), size })
  }

  async datasync(file: Descriptor): Promise<void> {
    const inode = this.#inode(file)
    const upTo = this.moment
    await sleep(SYNC_MS)
    this.#record({ type: 'datasync', inode, upTo })
  }

  async close(file: Descriptor): Promise<void> {
    this.#open.delete(file)
    await nodeFiles.close(file)
  }

  async rename(from: string, to: string): Promise<void> {
    await nodeFiles.rename(from, to)
    const [source, target] = [path.resolve(from), path.resolve(to)]
    const inode = this.#inodes.get(source)
    if (!inode) throw new Error(`nothing is known of ${from}`)
    this.#inodes.delete(source)
    this.#inodes.set(target, inode)
    this.#record({ type: 'rename', from: source, to: target, inode })
  }

  async remove(name: string): Promise<void> {
    await nodeFiles.remove(name)
    if (this.#inodes.delete(path.resolve(name))) this.#record({ type: 'remove', path: path.resolve(name) })
  }

  async makeFolder(name: string, mode?: number): Promise<void> {
    const present = await nodeFiles.stat(name)
    await nodeFiles.makeFolder(name, mode)
    if (!present) this.#record({ type: 'folder', path: path.resolve(name) })
  }

  async syncFolder(name: string): Promise<void> {
    const upTo = this.moment
    await sleep(SYNC_MS)
    this.#record({ type: 'syncFolder', path: path.resolve(name), upTo })
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

  #record(event: Event): void {
    this.#log.push(event)
    this.onEvent?.(event.type)
  }

  /** Folders with all that is in them; files that lie beside those are not written through here. */
  #recordFolder(folder: string, inodes = new Map<number, Inode>()): void {
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      const name = path.join(folder, entry.name)
      if (entry.isDirectory()) {
        this.#log.push({ type: 'folder', path: name })
        this.#recordFolder(name, inodes)
      } else if (folder !== this.#root) {
        const { ino } = statSync(name)
        // It may have a second name.
        const known = inodes.get(ino)
        const inode = known ?? { id: this.#files++ }
        inodes.set(ino, inode)
        this.#inodes.set(name, inode)
        this.#log.push({ type: 'create', path: name, inode })
        if (!known) this.#log.push({ type: 'write', inode, position: 0, bytes: readFileSync(name) })
      }
    }
  }

  #inode(file: Descriptor): Inode {
    const inode = this.#open.get(file)
    if (!inode) throw new Error(`descriptor ${file} is not open`)
    return inode
  }
}
