/** Maps storage errors to the errors that a pushing client gets. */
import { OciError } from '../../oci/errors.ts'
import { isOutOfFiles, outOfFiles } from '../../base/open-files.ts'
import { isDiskFull, isHangingDisk, StorageError } from '../../storage/storage-error.ts'

/** @returns the error to throw instead; the same one when it contains nothing useful to a client */
export function refusal(error: unknown): unknown {
  // No Retry-After: nothing evictable is left, so a retry would fail as well.
  if (isDiskFull(error)) return new OciError('INSUFFICIENT_STORAGE', undefined, { cause: error })
  if (isOutOfFiles(error)) return outOfFiles(error)
  const readOnly = error instanceof Error && 'code' in error && error.code === 'EROFS'
  const hangs = isHangingDisk(error)
  if (!readOnly && !hangs && !(error instanceof StorageError)) return error
  return new OciError('UNAVAILABLE', undefined, {
    message: hangs
      ? 'the storage of this registry does not answer at the moment'
      : readOnly
        ? 'the storage of this registry takes nothing at the moment'
        : 'this registry cannot write down what was pushed at the moment',
    retryAfterSeconds: 30,
    cause: error,
  })
}
