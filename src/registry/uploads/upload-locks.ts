/** Locks of upload sessions and their blobs, with a timeout. */
import { OciError } from '../../oci/errors.ts'
import type { KeyedLocks } from '../../storage/locks/keyed-locks.ts'

/** Time that a request waits for another one of the same session or blob. */
const LOCK_MS = 30_000

/** @throws OciError UNAVAILABLE */
export async function acquire(locks: KeyedLocks, key: string): Promise<Disposable> {
  try {
    return await locks.exclusive(key, AbortSignal.timeout(LOCK_MS))
  } catch (cause) {
    const message = 'another request for the same upload or blob is still under way'
    throw new OciError('UNAVAILABLE', undefined, { message, retryAfterSeconds: 5, cause })
  }
}
