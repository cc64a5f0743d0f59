/**
 * The locks of upload sessions, and of the blobs that they become: nobody waits for one for ever.
 */
import { OciError } from '../../oci/errors.ts'
import type { KeyedLocks } from '../../storage/locks/keyed-locks.ts'

/** For whoever finds a session, or a blob, in use. */
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
