/**
 * Says why the storage cannot be used or written. The message is a sentence for the operator.
 *
 * - `LOCKED`: another process owns the folder
 * - `NEWER_SCHEMA`: a later version of us has written it
 * - `LOST_INDEX`: the index is not the one that knows the files in the folder
 * - `NOT_PERMITTED`: this process may not read or write a file
 * - `BUSY`: a write waited too long; it may still happen
 * - `FULL`: a write did not happen, for the disk is full
 * - `WRITE_FAILED`: a write did not happen; `cause` says why
 * - `CLOSED`: the index is closed already
 */
export class StorageError extends Error {
  override readonly name = 'StorageError'
  readonly code:
    'LOCKED' | 'NEWER_SCHEMA' | 'LOST_INDEX' | 'NOT_PERMITTED' | 'BUSY' | 'FULL' | 'WRITE_FAILED' | 'CLOSED'

  constructor(code: StorageError['code'], message: string, cause?: unknown) {
    super(message, { cause })
    this.code = code
  }
}

const FULL: unknown[] = ['ENOSPC', 'EDQUOT']

/** SQLITE_FULL, and SQLITE_IOERR_SHMSIZE where the memory that connections share cannot grow. */
export const SQLITE_FULL: unknown[] = [13, 4874]

/** Whether the file system or the index says that the disk, or our quota of it, is full. */
export function isDiskFull(error: unknown): boolean {
  if (error instanceof StorageError) return error.code === 'FULL'
  if (!(error instanceof Error)) return false
  return (
    ('code' in error && FULL.includes(error.code)) ||
    ('errcode' in error && SQLITE_FULL.includes(error.errcode))
  )
}

/** An operation of the disk has not ended in time; it may still happen. */
export class DiskHangs extends Error {
  override readonly name = 'DiskHangs'
  readonly code = 'ETIMEDOUT'

  constructor(operation: string) {
    super(`ETIMEDOUT: the disk does not answer, ${operation}`)
  }
}

/** Whether the error or one of its causes is {@link DiskHangs}. */
export function isHangingDisk(error: unknown): boolean {
  for (let it = error; it instanceof Error; it = it.cause) if (it instanceof DiskHangs) return true
  return false
}
