/**
 * The file system as the store needs it: the one seam under blobs and partial files.
 *
 * It has raw descriptors, not FileHandles: a FileHandle that is garbage-collected unclosed ends the process. The
 * opener of a descriptor closes it, and never while an operation on it runs (see open-file.ts), or the number may
 * already belong to another file. It is an interface so that tests can take away what it promises: everything
 * unsynced (power loss), all space (ENOSPC), all permission (EROFS).
 */
import type { Bytes } from '../../base/units.ts'
import fs from 'node:fs'
import pLimit from 'p-limit'

export type Descriptor = number

export interface FileInfo {
  readonly kind: 'file' | 'folder' | 'other'
  readonly size: Bytes
  /** Unix time in ms. */
  readonly modifiedAt: number
  /** Hard links of the file. */
  readonly links: number
  /** Changes when the file is another one, or was written to. */
  readonly identity: string
}

export interface Files {
  open(path: string, flags: 'r' | 'r+' | 'wx+'): Promise<Descriptor>
  /** Positional; may be short, 0 at the end. */
  read(file: Descriptor, buffer: Uint8Array, position: Bytes): Promise<Bytes>
  /** Positional; may be short. The buffers are in use until it settles. */
  write(file: Descriptor, chunks: readonly Uint8Array[], position: Bytes): Promise<Bytes>
  truncate(file: Descriptor, size: Bytes): Promise<void>
  /** Makes what was written to the file survive a power loss. */
  datasync(file: Descriptor): Promise<void>
  close(file: Descriptor): Promise<void>
  describe(file: Descriptor): Promise<FileInfo>
  /** A symbolic link to a folder counts as a folder; any other link as `other`, for `open` would not follow it. */
  stat(path: string): Promise<FileInfo | undefined>
  rename(from: string, to: string): Promise<void>
  /** An absent file is no error. */
  remove(path: string): Promise<void>
  /** Makes one level; an existing folder is no error. @param mode default: what the umask leaves to everybody */
  makeFolder(path: string, mode?: number): Promise<void>
  /** Makes the names in the folder survive a power loss. */
  syncFolder(path: string): Promise<void>
  /** The names in the folder; `undefined` when it is absent. */
  list(path: string): Promise<string[] | undefined>
  /** The space of the file system that holds `path`. */
  space(path: string): Promise<{ readonly total: Bytes; readonly free: Bytes }>
}

/**
 * Five concurrent fdatasyncs stall every other operation of a small thread pool for a second (measured), so
 * all stores of the process share these four.
 */
const syncs = pLimit(4)

/** A link in a blob's place must not lead elsewhere, nor a pipe hold a thread for ever. */
const PLAIN_FILE = fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW | fs.constants.O_NONBLOCK

export const nodeFiles: Files = {
  open: (path, flags) => call((done) => fs.open(path, flags === 'r' ? PLAIN_FILE : flags, done)),
  read: (file, buffer, position) => call((done) => fs.read(file, buffer, 0, buffer.length, position, done)),
  write: (file, chunks, position) => call((done) => fs.writev(file, chunks, position, done)),
  truncate: (file, size) => finish((done) => fs.ftruncate(file, size, done)),
  datasync: (file) => syncs(() => finish((done) => fs.fdatasync(file, done))),
  close: (file) => finish((done) => fs.close(file, done)),
  describe: async (file) => describe(await call<fs.Stats>((done) => fs.fstat(file, done))),
  stat: (path) => unless(ABSENT, () => look(path)),
  rename: (from, to) => finish((done) => fs.rename(from, to, done)),
  remove: (path) => unless(ABSENT, () => finish((done) => fs.unlink(path, done))),
  makeFolder: (path, mode) => unless(['EEXIST'], () => finish((done) => fs.mkdir(path, { mode }, done))),
  syncFolder,
  list: (path) => unless(['ENOENT'], () => call((done) => fs.readdir(path, done))),
  space: async (path) => {
    const { bsize, blocks, bavail } = await call<fs.StatsFs>((done) => fs.statfs(path, done))
    return { total: blocks * bsize, free: bavail * bsize }
  },
}

export function systemCode(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined
}

const ABSENT = ['ENOENT', 'ENOTDIR']

async function syncFolder(path: string): Promise<void> {
  const folder = await call<number>((done) => fs.open(path, 'r', done))
  try {
    await syncs(() => finish((done) => fs.fsync(folder, done)))
  } finally {
    await finish((done) => fs.close(folder, done))
  }
}

async function look(path: string): Promise<FileInfo> {
  const itself = await call<fs.Stats>((done) => fs.lstat(path, done))
  if (!itself.isSymbolicLink()) return describe(itself)
  const target = await unless(ABSENT, () => call<fs.Stats>((done) => fs.stat(path, done)))
  return describe(target?.isDirectory() === true ? target : itself)
}

function describe(stats: fs.Stats): FileInfo {
  const kind = stats.isFile() ? 'file' : stats.isDirectory() ? 'folder' : 'other'
  const identity = [stats.dev, stats.ino, stats.size, stats.mtimeMs, stats.ctimeMs].join(' ')
  return { kind, size: stats.size, modifiedAt: stats.mtimeMs, links: stats.nlink, identity }
}

function call<T>(start: (done: (error: Error | null, value: T) => void) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    start((error, value) => {
      if (error) reject(error)
      else resolve(value)
    })
  })
}

function finish(start: (done: (error: Error | null) => void) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    start((error) => {
      if (error) reject(error)
      else resolve()
    })
  })
}

async function unless<T>(codes: readonly string[], action: () => Promise<T>): Promise<T | undefined> {
  try {
    return await action()
  } catch (error) {
    if (codes.includes(systemCode(error) ?? '')) return undefined
    throw error
  }
}
