/**
 * Index identity: tells whether the index in a folder is the one that knows the files beside it.
 *
 * An index that was emptied, exchanged or set back looks like one of which nothing was ever pushed, and a collection
 * would act by that. So the index has an identity and a generation, which grows with every start and every clean
 * stop, and the mark `index.json` beside it says what they were at the last start: it is written before that start
 * takes any write. A clean stop leaves a later generation in the main file, which then is complete; after any other
 * end it needs its write-ahead log. A power cut cannot contradict that: the log is durable before the mark is.
 *
 * Without a mark nothing of that can be told: the folder is of an earlier version, or of a part of a copy. The index
 * is taken as it is, and files that it does not know are never collected.
 */
import {
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  writeSync,
} from 'node:fs'
import path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { pathToFileURL } from 'node:url'
import { systemCode } from '../../files/files.ts'
import { permissionError } from '../../files/permission.ts'
import { TABLES } from '../sql/schema.ts'
import type { Statements } from './connection.ts'
import { StorageError } from '../../storage-error.ts'
import { stateOfLog } from './write-ahead-log.ts'

interface IndexIdentity {
  readonly identity: string
  readonly generation: number
}

interface IndexMark extends IndexIdentity {
  /** The index replaces a lost one, and its rebuild is not finished. */
  readonly unfinished: boolean
}

const MARK = 'index.json'

/** The mark is overwritten in place, which needs no space on a full disk; it is smaller than a sector. */
const MARK_SIZE = 128

const NEXT_GENERATION = 'update index_identity set generation = generation + 1'

/** The last write of a clean stop. */
export const CLEAN_STOP = [{ sql: NEXT_GENERATION, parameters: [] }]

/** Primary result codes of SQLite. https://www.sqlite.org/rescode.html */
const [SQLITE_ERROR, SQLITE_PERM, SQLITE_READONLY, SQLITE_CORRUPT] = [1, 3, 8, 11]
const [SQLITE_FULL, SQLITE_CANTOPEN, SQLITE_NOTADB] = [13, 14, 26]

/** The mark, if the folder has blobs to lose. */
export function markOf(database: string): IndexMark | undefined {
  const root = path.dirname(database)
  const mark = readMark(root)
  return mark !== undefined && hasBlobs(root) ? mark : undefined
}

/**
 * Called before SQLite opens the database, for SQLite deletes a log beside an empty one.
 *
 * @throws StorageError LOST_INDEX, NOT_PERMITTED
 */
export function assertFilesAreThere(database: string, mark: IndexMark | undefined): void {
  if (mark?.unfinished === true)
    throw lost(database, 'was lost, and the one that takes its place is not finished')
  const { size } = statSync(database, { throwIfNoEntry: false }) ?? {}
  const log = lookAtLog(database)
  if (size === undefined || size === 0) {
    // A log with content once had a database.
    if (mark === undefined && (log === 'absent' || !hasBlobs(path.dirname(database)))) return
    throw lost(database, size === undefined ? 'is gone' : 'is empty')
  }
  if (mark === undefined) return
  const there = identityIn(database)
  if (there !== undefined && there.identity !== mark.identity) throw foreign(database)
  if (there !== undefined && there.generation > mark.generation) return
  if (log === 'damaged') throw lost(database, 'has lost writes: its write-ahead log (-wal) is damaged')
  if (log === 'absent')
    throw lost(database, 'is older than the files here: an older copy, or without its write-ahead log (-wal)')
}

/** @throws StorageError LOST_INDEX */
export function assertIsMarked(database: string, opened: Statements, mark: IndexIdentity): void {
  const there = readIdentity(opened)
  if (there?.identity !== undefined && there.identity !== mark.identity) throw foreign(database)
  if (there === undefined || there.generation < mark.generation)
    throw lost(database, 'is older than the files here')
}

/** An index that no mark ties to the files here counts as younger than they are: it cannot know them. */
export function doubt(database: string, opened: Statements): void {
  const root = path.dirname(database)
  if (readMark(root) !== undefined || !hasBlobs(root)) return
  opened.run('update index_identity set created_at = ?', [Date.now()])
}

/** @throws StorageError LOST_INDEX */
export function assertHasTables(database: string, opened: Statements): void {
  const there = new Set(tablesOf(opened))
  const missing = TABLES.filter((it) => !there.has(it))
  if (missing.length > 0) throw lost(database, `has no table ${missing.join(', ')}`)
}

/**
 * Begins the generation of this start, to which all later writes belong.
 *
 * @param unfinished until {@link finishIndex} no other start may begin one
 * @throws the system's error
 */
export function beginGeneration(database: string, opened: Statements, unfinished: boolean): void {
  try {
    opened.run(NEXT_GENERATION)
  } catch (error) {
    // A cache on a full disk starts nevertheless; it writes nothing, so no two generations have to be told apart.
    if (codeOf(error) === SQLITE_FULL) return
    throw error
  }
  const identity = readIdentity(opened)
  if (identity !== undefined) writeMark(path.dirname(database), { ...identity, unfinished })
}

/** Marks the rebuild as finished. */
export function finishIndex(database: string): void {
  const root = path.dirname(database)
  const mark = readMark(root)
  if (mark !== undefined) writeMark(root, { ...mark, unfinished: false })
}

/** Turns SQLite's error into a sentence for the operator who has to act. */
export function openingError(database: string, error: unknown): unknown {
  const code = codeOf(error)
  if (code === undefined) return error
  const message = error instanceof Error ? error.message : ''
  if ([SQLITE_PERM, SQLITE_READONLY, SQLITE_CANTOPEN].includes(code))
    return notPermitted(database, error) ?? error
  if ([SQLITE_NOTADB, SQLITE_CORRUPT, SQLITE_ERROR].includes(code))
    return lost(database, `cannot be used (${message})`, error)
  return error
}

function lost(database: string, what: string, cause?: unknown): StorageError {
  const root = path.dirname(database)
  const sentence =
    `the index ${database} ${what}; put back the one that belongs to ${path.join(root, 'blobs')}, or make another ` +
    'with `restore FILE`, from a backup, or `verify --rebuild`, from the files that are there: until then nothing ' +
    'is served and nothing is collected'
  return new StorageError('LOST_INDEX', sentence, cause)
}

function foreign(database: string): StorageError {
  return lost(database, 'is the index of another folder')
}

function codeOf(error: unknown): number | undefined {
  const code = error instanceof Error && 'errcode' in error ? error.errcode : undefined
  return typeof code === 'number' ? code & 0xff : undefined
}

function notPermitted(database: string, cause: unknown): StorageError | undefined {
  return permissionError([database, `${database}-wal`, `${database}-shm`], cause)
}

function lookAtLog(database: string): ReturnType<typeof stateOfLog> {
  try {
    return stateOfLog(`${database}-wal`)
  } catch (error) {
    throw notPermitted(database, error) ?? error
  }
}

/** The identity in the main file alone; undefined also where that cannot be read without its log. */
function identityIn(database: string): IndexIdentity | undefined {
  const url = pathToFileURL(database)
  url.searchParams.set('immutable', '1')
  let opened: DatabaseSync | undefined
  try {
    opened = new DatabaseSync(url, { readOnly: true })
    return identityOf(opened.prepare('select identity, generation from index_identity').get())
  } catch (error) {
    if (codeOf(error) === SQLITE_CANTOPEN) throw notPermitted(database, error) ?? error
    return undefined
  } finally {
    opened?.close()
  }
}

export function readIdentity(opened: Statements): IndexIdentity | undefined {
  if (!tablesOf(opened).includes('index_identity')) return undefined
  return identityOf(opened.prepare('select identity, generation from index_identity').all([])[0])
}

function identityOf(row: unknown): IndexIdentity | undefined {
  const { identity, generation } = (row ?? {}) as Record<string, unknown>
  return typeof identity === 'string' && typeof generation === 'number' ? { identity, generation } : undefined
}

function tablesOf(opened: Statements): string[] {
  const rows = opened.prepare("select name from sqlite_schema where type = 'table'").all([])
  return (rows as { name: string }[]).map(({ name }) => name)
}

/** The mark of the last start; undefined where there is none, or it cannot be read. */
export function readMark(root: string): IndexMark | undefined {
  let text: string
  try {
    text = readFileSync(path.join(root, MARK), 'utf8')
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined
    throw permissionError([path.join(root, MARK)], error) ?? error
  }
  try {
    const mark = JSON.parse(text) as Record<string, unknown> | null
    const identity = identityOf(mark)
    return identity && { ...identity, unfinished: mark?.['unfinished'] === true }
  } catch {
    return undefined
  }
}

/** Durable when it returns. */
export function writeMark(root: string, { identity, generation, unfinished }: IndexMark): void {
  const file = path.join(root, MARK)
  const mark = { identity, generation, ...(unfinished ? { unfinished } : {}) }
  const text = `${JSON.stringify(mark).padEnd(MARK_SIZE - 1)}\n`
  if (existsSync(file)) {
    writeDurably(file, 'r+', text)
    return
  }
  // A rename, so that the mark is never there without its content.
  writeDurably(`${file}.new`, 'w', text)
  renameSync(`${file}.new`, file)
  syncFolder(root)
}

function writeDurably(file: string, flags: 'r+' | 'w', text: string): void {
  const descriptor = openSync(file, flags, 0o600)
  try {
    writeSync(descriptor, text, 0)
    fsyncSync(descriptor)
  } finally {
    closeSync(descriptor)
  }
}

export function syncFolder(folder: string): void {
  const descriptor = openSync(folder, 'r')
  try {
    fsyncSync(descriptor)
  } finally {
    closeSync(descriptor)
  }
}

/** Whether there is at least one file in the place of a blob. */
function hasBlobs(root: string): boolean {
  for (const algorithm of ['sha256', 'sha512']) {
    for (const prefix of namesIn(path.join(root, 'blobs', algorithm))) {
      if (namesIn(path.join(root, 'blobs', algorithm, prefix)).length > 0) return true
    }
  }
  return false
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(systemCode(error) ?? '')) return []
    throw error
  }
}
