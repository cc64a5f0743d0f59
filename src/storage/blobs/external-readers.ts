/**
 * Blob files that an external reader (nginx, by X-Accel-Redirect) opens by the path that it was told.
 *
 * It says nothing when it has one open, so what is told stays for a while: held as by a reader of our own, and nothing
 * is told that somebody may just be taking away.
 */
import type { Bytes } from '../../base/units.ts'
import type { Digest } from '../../oci/digest.ts'
import { blobName } from './blob-path.ts'
import type { BlobStore } from './blob-store.ts'
import type { BlobHolds } from '../locks/blob-holds.ts'
import { lockOfBlob, type KeyedLocks } from '../locks/keyed-locks.ts'

interface ToldFilesOptions {
  readonly store: Pick<BlobStore, 'stat'>
  readonly locks: Pick<KeyedLocks, 'isFree'>
  readonly holds: Pick<BlobHolds, 'tell'>
}

export class ExternalReaders {
  readonly #options: ToldFilesOptions

  constructor(options: ToldFilesOptions) {
    this.#options = options
  }

  /**
   * @returns its name below the folder of the blobs; undefined when it is not to be had by that, or is on its way out
   */
  async tell(digest: Digest, size: Bytes): Promise<string | undefined> {
    const { store, locks, holds } = this.#options
    // In this order: who takes the lock after us finds it held, and who had it before has gone, with the file or not.
    holds.tell(digest)
    if (!(await locks.isFree(lockOfBlob(digest)))) return undefined
    const file = await store.stat(digest).catch(() => undefined)
    return file?.size === size ? blobName(digest) : undefined
  }
}
