/**
 * One process owns a `storage.root`.
 *
 * The lock is an exclusive transaction on an SQLite file that is never ended: the system frees it however the
 * process dies. The JSON file beside it only tells the loser who won.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { StorageError } from './storage-error.ts'

/**
 * Makes the folder when it is not there. Dispose to let go.
 *
 * @throws StorageError LOCKED, the system's error when the folder cannot be written
 */
export function acquireRootLock(root: string): Disposable {
  mkdirSync(root, { recursive: true })
  const holderFile = path.join(root, 'lock.json')
  const database = lockedDatabase(path.join(root, 'lock.sqlite'), holderFile, root)
  const holder = { pid: process.pid, startedAt: new Date().toISOString(), host: hostname() }
  try {
    writeFileSync(holderFile, `${JSON.stringify(holder)}\n`)
  } catch (error) {
    database.close()
    throw error
  }
  return {
    [Symbol.dispose]: () => {
      if (!database.isOpen) return
      // Before the lock is free: afterwards the file may be the next owner's.
      rmSync(holderFile, { force: true })
      database.close()
    },
  }
}

const SQLITE_BUSY = 5

function lockedDatabase(file: string, holderFile: string, root: string): DatabaseSync {
  const database = new DatabaseSync(file, { timeout: 0 })
  try {
    database.exec('begin exclusive')
    return database
  } catch (error) {
    database.close()
    if (!(error instanceof Error && 'errcode' in error && error.errcode === SQLITE_BUSY)) throw error
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
