/**
 * Why what survives a restart cannot be used. The message is a sentence for whoever runs us.
 *
 * - `LOCKED`: another process owns the folder
 * - `NEWER_SCHEMA`: written by a later version of us
 * - `LOST_INDEX`: the index is not the one that knows the files that are here
 * - `NOT_PERMITTED`: a file may not be read, or not be written
 * - `BUSY`: a write waited too long; it may still happen
 * - `FULL`: a write did not happen, for the disk is full
 * - `WRITE_FAILED`: a write did not happen; `cause` says why
 * - `CLOSED`: too late
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

/** The disk, or what we may have of it, is full: said by the file system or by the index. */
export function isDiskFull(error: unknown): boolean {
  if (error instanceof StorageError) return error.code === 'FULL'
  if (!(error instanceof Error)) return false
  return (
    ('code' in error && FULL.includes(error.code)) ||
    ('errcode' in error && SQLITE_FULL.includes(error.errcode))
  )
}

/** What was asked of the disk has not ended in time; it may still happen. */
export class DiskHangs extends Error {
  override readonly name = 'DiskHangs'
  readonly code = 'ETIMEDOUT'

  /** @param operation what it was */
  constructor(operation: string) {
    super(`ETIMEDOUT: the disk does not answer, ${operation}`)
  }
}

/** It, or one of its causes. */
export function isHangingDisk(error: unknown): boolean {
  for (let it = error; it instanceof Error; it = it.cause) if (it instanceof DiskHangs) return true
  return false
}
