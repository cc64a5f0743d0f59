/**
 * Why what survives a restart cannot be used. The message is a sentence for whoever runs us.
 *
 * - `LOCKED`: another process owns the folder
 * - `NEWER_SCHEMA`: written by a later version of us
 * - `BUSY`: a write waited too long; it may still happen
 * - `WRITE_FAILED`: a write did not happen; `cause` says why
 * - `CLOSED`: too late
 */
export class StorageError extends Error {
  override readonly name = 'StorageError'
  readonly code: 'LOCKED' | 'NEWER_SCHEMA' | 'BUSY' | 'WRITE_FAILED' | 'CLOSED'

  constructor(code: StorageError['code'], message: string, cause?: unknown) {
    super(message, { cause })
    this.code = code
  }
}
