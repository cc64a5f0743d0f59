/**
 * Blob files that an external reader (nginx, by X-Accel-Redirect) opens by the path that it was told.
 *
 * nginx does not say when it has the file open, so a blob whose path was told is held for a while, as by our own
 * readers. No path is told of a blob that may just be deleted.
 */
import type { Bytes } from '../../base/units.ts'
import type { Digest } from '../../oci/digest.ts'
import type { BlobStore } from './blob-store.ts'
import type { BlobHolds } from '../locks/blob-holds.ts'
import { lockOfBlob, type KeyedLocks } from '../locks/keyed-locks.ts'

interface ExternalReadersOptions {
  readonly store: Pick<BlobStore, 'stat' | 'localName'>
  readonly locks: Pick<KeyedLocks, 'isFree'>
  readonly holds: Pick<BlobHolds, 'tell'>
}

export class ExternalReaders {
  readonly #options: ExternalReadersOptions

  constructor(options: ExternalReadersOptions) {
    this.#options = options
  }

  /**
   * @returns the file's name below the folder of the blobs; undefined when there is no such file, or it may be deleted
   *   at this moment
   */
  async tell(digest: Digest, size: Bytes): Promise<string | undefined> {
    const { store, locks, holds } = this.#options
    const name = store.localName?.(digest)
    if (name === undefined) return undefined
    // First the hold, then the lock: a deletion that takes the lock later sees the hold, an earlier one is over.
    holds.tell(digest)
    if (!(await locks.isFree(lockOfBlob(digest)))) return undefined
    const file = await store.stat(digest).catch(() => undefined)
    return file?.size === size ? name : undefined
  }
}
