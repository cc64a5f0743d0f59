/**
 * What a client is told when the storage did not take what it pushed.
 */
import { OciError } from '../oci/errors.ts'
import { StorageError } from '../store/storage-error.ts'

/** Somebody has to make room, or remount it; a client may well come back. */
const FULL = new Set(['ENOSPC', 'EDQUOT', 'EROFS'])

/** The error to throw instead: itself when it says nothing that a client could use. */
export function refusal(error: unknown): unknown {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  const full = typeof code === 'string' && FULL.has(code)
  if (!full && !(error instanceof StorageError)) return error
  return new OciError('UNAVAILABLE', undefined, {
    message: full
      ? 'the storage of this registry takes nothing more at the moment'
      : 'this registry cannot write down what was pushed at the moment',
    retryAfterSeconds: 30,
    cause: error,
  })
}
