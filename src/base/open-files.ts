/**
 * Recognises that the process (EMFILE) or the machine (ENFILE) may open no more files: the fault is this machine's,
 * whichever file or host was to be opened.
 */
import { OciError } from '../oci/errors.ts'

const CODES: unknown[] = ['EMFILE', 'ENFILE']

/** By then connections and files that are open now may have been closed. */
const RETRY_AFTER_SECONDS = 10

/** Limit of nested causes. */
const DEEPEST = 8

/** The text for the client, `/readyz` and the log. */
export const OUT_OF_FILES =
  'this process may open no more files or connections: raise its limit (ulimit -n, LimitNOFILE)'

/** Whether the error, one of its causes, or an error that it aggregates is of that kind. */
export function isOutOfFiles(error: unknown, depth = 0): boolean {
  if (!(error instanceof Error) || depth > DEEPEST) return false
  if ('code' in error && CODES.includes(error.code)) return true
  // A thread that could not be started says so in its message only.
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
