/**
 * Errors of a process that may open no more files (EMFILE), or of a machine that may not (ENFILE): ours, whoever
 * was to be read, written or connected to when it happened.
 */
import { OciError } from '../oci/errors.ts'

const CODES: unknown[] = ['EMFILE', 'ENFILE']

/** Until connections and files that are open now have been closed. */
const RETRY_AFTER_SECONDS = 10

/** Causes of causes. */
const DEEPEST = 8

/** What the client is told, and `/readyz` and the log as well. */
export const OUT_OF_FILES =
  'this process may open no more files or connections: raise its limit (ulimit -n, LimitNOFILE)'

/** It, one of its causes, or one of the errors that it is made of. */
export function isOutOfFiles(error: unknown, depth = 0): boolean {
  if (!(error instanceof Error) || depth > DEEPEST) return false
  if ('code' in error && CODES.includes(error.code)) return true
  // Of a thread that could not be started.
  if ('code' in error && error.code === 'ERR_WORKER_INIT_FAILED' && /\bE[MN]FILE\b/.test(error.message))
    return true
  if (error instanceof AggregateError && error.errors.some((it) => isOutOfFiles(it, depth + 1))) return true
  return isOutOfFiles(error.cause, depth + 1)
}

export function outOfFiles(cause?: unknown): OciError {
  return new OciError('UNAVAILABLE', undefined, {
    message: OUT_OF_FILES,
    retryAfterSeconds: RETRY_AFTER_SECONDS,
    cause,
  })
}
