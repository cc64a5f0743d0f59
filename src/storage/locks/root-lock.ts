/**
 * Process lock of a `storage.root`: one process owns it.
 *
 * The lock is an exclusive transaction on an SQLite file that is never ended: the system frees it however the
 * process dies. The JSON file beside it only tells the loser who won.
 */
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { hostname } from 'node:os'
import path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { permissionError } from '../files/permission.ts'
import {
  makePrivateDatabase,
  PASSED_THROUGH,
  PRIVATE_FILE,
  tighten,
  tightenEntries,
} from '../files/private-file.ts'
import { StorageError } from '../storage-error.ts'

/**
 * Makes the folder when it is absent. Dispose to release the lock.
 *
 * @throws StorageError LOCKED, NOT_PERMITTED, the system's error when the folder cannot be written
 */
export function acquireRootLock(root: string): Disposable {
  makeFolders(path.resolve(root), PASSED_THROUGH)
  const holderFile = path.join(root, 'lock.json')
  const database = lockedDatabase(path.join(root, 'lock.sqlite'), holderFile, root)
  tightenEntries(root)
  const holder = { pid: process.pid, startedAt: new Date().toISOString(), host: hostname() }
  try {
    tighten(holderFile)
    writeFileSync(holderFile, `${JSON.stringify(holder)}\n`, { mode: PRIVATE_FILE })
  } catch (error) {
    database.close()
    throw permissionError([holderFile], error) ?? error
  }
  return {
    [Symbol.dispose]: () => {
      if (!database.isOpen) return
      // The file goes before the lock: afterwards it may be the next owner's.
      rmSync(holderFile, { force: true })
      database.close()
    },
  }
}

/** Avoids `recursive`: where a folder cannot be made although its parent is there (/proc), Node never returns. */
function makeFolders(folder: string, mode?: number): void {
  if (statSync(folder, { throwIfNoEntry: false })?.isDirectory() === true) return
  const parent = path.dirname(folder)
  makeFolders(parent)
  mkdirSync(folder, { mode })
  // The folder's name must survive a power loss as its contents do.
  const entry = openSync(parent, 'r')
  try {
    fsyncSync(entry)
  } finally {
    closeSync(entry)
  }
}

const SQLITE_BUSY = 5

function lockedDatabase(file: string, holderFile: string, root: string): DatabaseSync {
  let database: DatabaseSync | undefined
  try {
    makePrivateDatabase(file)
    database = new DatabaseSync(file, { timeout: 0 })
    database.exec('begin exclusive')
    return database
  } catch (error) {
    database?.close()
    if (!(error instanceof Error && 'errcode' in error && error.errcode === SQLITE_BUSY))
      throw permissionError([file], error) ?? error
    throw new StorageError('LOCKED', `${root} is in use by ${describeHolder(holderFile)}`, error)
  }
}

function describeHolder(holderFile: string): string {
  try {
    const { pid, startedAt, host } = JSON.parse(readFileSync(holderFile, 'utf8')) as Record<string, unknown>
    return `process ${String(pid)} on ${String(host)}, started ${String(startedAt)}`
  } catch {
    return 'another process'
  }
}
