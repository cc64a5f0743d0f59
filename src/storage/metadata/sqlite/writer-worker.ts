/**
 * Writer thread: holds the one writing connection.
 *
 * Group commit: all queued units are committed together, with one sync. Each unit has its own savepoint, so one that
 * fails takes no other with it. The answer is sent after the commit, never before.
 */
import { existsSync } from 'node:fs'
import { parentPort, workerData } from 'node:worker_threads'
import { vacuumOneStep } from './vacuum.ts'
import { SQLITE_FULL } from '../../storage-error.ts'
import { openWriter, type Statements } from './connection.ts'

export interface WriteQuery {
  readonly sql: string
  readonly parameters: readonly unknown[]
}

export type WriterRequest =
  | { readonly type: 'write'; readonly unit: number; readonly queries: readonly WriteQuery[] }
  | { readonly type: 'close'; readonly last: readonly WriteQuery[] }

export interface WriterReply {
  readonly unit: number
  /** undefined: the unit is durable. */
  readonly error: WriteFailure | undefined
}

interface WriteFailure {
  readonly message: string
  /** The disk is full: with more space the write may be retried. */
  readonly full: boolean
}

interface Unit {
  readonly unit: number
  readonly queries: readonly WriteQuery[]
}

/** A clean stop waits no longer for the lock than that: the next start writes down what this one could not. */
const PATIENCE_MS = 250

/** A client that deletes a lot does so in many writes: the vacuum waits until they are over. */
const IDLE_MS = 1_000

const path = workerData as string
let database: Statements | undefined
let queue: Unit[] = []
let idle: NodeJS.Timeout | undefined

parentPort?.on('message', (request: WriterRequest) => {
  if (request.type === 'close') {
    commitQueue()
    end(request.last)
    parentPort?.close()
    return
  }
  // Group commit: it runs in the next tick, so that all messages that have already arrived share one transaction.
  if (queue.length === 0) setImmediate(commitQueue)
  queue.push(request)
})

function commitQueue(): void {
  const units = queue
  queue = []
  if (units.length === 0) return
  const failed = new Map<number, WriteFailure>()
  let error: WriteFailure | undefined
  try {
    database ??= openWriter(path)
    commit(database, units, failed)
    markRead(database)
  } catch (cause) {
    error = failureOf(cause)
    // This connection is given up, whatever its state; the next group opens another.
    const broken = database
    database = undefined
    try {
      broken?.close()
    } catch {
      // The connection was closed, or never open.
    }
  }
  clearTimeout(idle)
  idle = setTimeout(shrink, IDLE_MS).unref()
  for (const { unit } of units) {
    parentPort?.postMessage({ unit, error: error ?? failed.get(unit) } satisfies WriterReply)
  }
}

/** Writes the log to the main file, which is complete then. */
function end(last: readonly WriteQuery[]): void {
  clearTimeout(idle)
  try {
    // A database that was removed meanwhile is not made anew.
    if (last.length > 0 && existsSync(path)) database ??= openWriter(path)
    database?.run(`pragma busy_timeout = ${String(PATIENCE_MS)}`)
    if (last.length > 0) database?.run('begin immediate')
    for (const { sql, parameters } of last) database?.run(sql, parameters)
    if (last.length > 0) database?.run('commit')
    database?.run('pragma wal_checkpoint(truncate)')
  } catch {
    // The commits stay in the log.
  }
  try {
    database?.close()
  } catch {
    // The thread ends anyway.
  }
}

function shrink(): void {
  if (queue.length > 0 || database === undefined) return
  try {
    // Writes that have arrived meanwhile come first.
    if (vacuumOneStep(database)) idle = setTimeout(shrink).unref()
  } catch {
    // A failed step does no harm, and is retried after the next write.
  }
}

function commit(connection: Statements, units: readonly Unit[], failed: Map<number, WriteFailure>): void {
  connection.run('begin immediate')
  for (const { unit, queries } of units) {
    connection.run('savepoint unit')
    try {
      for (const { sql, parameters } of queries) connection.run(sql, parameters)
    } catch (error) {
      // Out of space or memory, SQLite ends the whole transaction itself.
      if (!connection.inTransaction) throw error
      connection.run('rollback to unit')
      failed.set(unit, failureOf(error))
    }
    connection.run('release unit')
  }
  connection.run('commit')
}

/**
 * The first reader after a commit writes its read mark to the memory that connections share. That is a file: on a
 * frozen file system the write waits inside the kernel. In this thread it stops no request; in the thread that reads
 * for all requests it stops them all. https://www.sqlite.org/walformat.html § 2.3.1, read marks.
 */
function markRead(connection: Statements): void {
  try {
    connection.prepare('select version from schema_version').all([])
  } catch {
    // The commit itself is durable already.
  }
}

function failureOf(error: unknown): WriteFailure {
  const code = error instanceof Error && 'errcode' in error ? error.errcode : undefined
  return { message: String(error), full: SQLITE_FULL.includes(code) }
}
