/**
 * What lies in `storage.root` is for its owner, but for the blobs, which an nginx of another user may send.
 *
 * A database that others may read is one that they may lock as well: a shared lock stops every write.
 */
import { chmodSync, closeSync, lstatSync, openSync } from 'node:fs'
import path from 'node:path'
import { systemCode } from './files.ts'

/** Of folders; whoever has no business in one cannot reach what is in it, whatever mode that has. */
export const PRIVATE_FOLDER = 0o700

/** Of the root: others pass through to the blobs, and cannot list what else is there. */
export const PASSED_THROUGH = 0o711

export const PRIVATE_FILE = 0o600

/** In `storage.root`: partial files, what was damaged, the mark of the index, and room for deletions. */
const PRIVATE_ENTRIES = ['ingest', 'quarantine', 'index.json', 'reserve']

/** What SQLite keeps beside a database; it gives a new one the mode of the database. */
const BESIDE = ['-wal', '-shm', '-journal']

/** Before SQLite opens it: makes it where it is not there, and takes from others what an earlier version gave them. */
export function makePrivateDatabase(file: string): void {
  try {
    // One that is there is not opened: closing it would let go of the locks that this process has on it.
    closeSync(openSync(file, 'wx', PRIVATE_FILE))
  } catch (error) {
    if (systemCode(error) !== 'EEXIST') throw error
  }
  for (const name of ['', ...BESIDE]) tighten(`${file}${name}`)
}

/** What an earlier version left in `storage.root` for everybody. */
export function tightenEntries(root: string): void {
  for (const name of PRIVATE_ENTRIES) tighten(path.join(root, name))
}

/** Takes from others what they may do to a file or a folder. Nothing when it is not there. */
export function tighten(it: string): void {
  const found = lstatSync(it, { throwIfNoEntry: false })
  if (found === undefined || found.isSymbolicLink()) return
  const mode = found.mode & 0o7777
  const wanted = mode & ~0o077
  if (wanted === mode) return
  try {
    chmodSync(it, wanted)
  } catch {
    // Another user's that lets us in: it is his to close, and no reason not to start.
  }
}
