/**
 * File modes: `storage.root` is private to its owner, except the blobs, which an nginx of another user may send.
 *
 * A user who may read a database may lock it as well: a shared lock stops every write.
 */
import { chmodSync, closeSync, lstatSync, openSync } from 'node:fs'
import path from 'node:path'
import { systemCode } from './files.ts'

/** Mode of a folder: other users cannot reach the files in it, whatever mode these have. */
export const PRIVATE_FOLDER = 0o700

/** Mode of the root: nginx passes through to the blobs, and cannot list what else is there. */
export const PASSED_THROUGH = 0o711

export const PRIVATE_FILE = 0o600

/** Entries of `storage.root`: partial files, damaged blobs, the mark of the index, and the disk reserve. */
const PRIVATE_ENTRIES = ['ingest', 'quarantine', 'index.json', 'reserve']

/** Files that SQLite keeps beside a database; it makes them with the mode of the database. */
const BESIDE = ['-wal', '-shm', '-journal']

/** Called before SQLite opens it: makes it if absent, and takes back what an earlier version gave other users. */
export function makePrivateDatabase(file: string): void {
  try {
    // An existing file is not opened: closing it would release the locks that this process has on it.
    closeSync(openSync(file, 'wx', PRIVATE_FILE))
  } catch (error) {
    if (systemCode(error) !== 'EEXIST') throw error
  }
  for (const name of ['', ...BESIDE]) tighten(`${file}${name}`)
}

/** Makes private what an earlier version left in `storage.root` for everybody. */
export function tightenEntries(root: string): void {
  for (const name of PRIVATE_ENTRIES) tighten(path.join(root, name))
}

/** Takes all permissions on a file or a folder from other users. A no-op when it is absent. */
export function tighten(it: string): void {
  const found = lstatSync(it, { throwIfNoEntry: false })
  if (found === undefined || found.isSymbolicLink()) return
  const mode = found.mode & 0o7777
  const wanted = mode & ~0o077
  if (wanted === mode) return
  try {
    chmodSync(it, wanted)
  } catch {
    // A file of another user that lets us in is his to close, and no reason not to start.
  }
}
