/**
 * Blob store on a directory: `<root>/blobs/<algorithm>/<first two of hex>/<hex>`.
 *
 * A name appears only by renaming a file whose bytes were verified and synced, so every visible blob is whole.
 */
import { NEVER } from '../../base/condition.ts'
import type { Bytes } from '../../base/units.ts'
import path from 'node:path'
import { isDigest, type Digest } from '../../oci/digest.ts'
import { blobName, blobPath } from './blob-path.ts'
import { nodeFiles, systemCode, type Files } from '../files/files.ts'
import { InProcessKeyedLocks, type KeyedLocks } from '../locks/keyed-locks.ts'
import { OpenFile } from '../files/open-file.ts'
import { putAside } from './quarantine.ts'
import { isDiskFull } from '../storage-error.ts'
import type { BlobInfo, BlobReader, BlobStore, ListedBlob } from './blob-store.ts'
import type { VerifiedFile } from '../ingest/ingest.ts'

/** Codes of `open` for something that is no file: a link, or a file in the place of a folder. */
export const NO_FILE: readonly string[] = ['ENOTDIR', 'ELOOP', 'ENXIO']

/** Codes of `rename` onto a folder, and of `unlink` of one. */
const IS_FOLDER: readonly string[] = ['EISDIR', 'EPERM', 'ENOTEMPTY', 'EEXIST']

export class DiskBlobStore implements BlobStore {
  readonly localName = blobName
  readonly #root: string
  readonly #files: Files
  /** Serializes adopt and delete of one digest. */
  readonly #locks: KeyedLocks = new InProcessKeyedLocks()
  /** Folders whose own entry is known to be on the disk; at a start, none. */
  readonly #durableFolders = new Set<string>()

  constructor(root: string, files: Files = nodeFiles) {
    this.#root = path.resolve(root)
    this.#files = files
  }

  async stat(digest: Digest): Promise<BlobInfo | undefined> {
    const info = await this.#files.stat(this.#path(digest))
    return info?.kind === 'file' ? { digest, size: info.size } : undefined
  }

  async open(digest: Digest): Promise<BlobReader | undefined> {
    let file: OpenFile
    try {
      file = await OpenFile.open(this.#files, this.#path(digest), 'r')
    } catch (error) {
      const code = systemCode(error) ?? ''
      if (code === 'ENOENT' || NO_FILE.includes(code)) return undefined
      throw error
    }
    try {
      const { kind, size } = await file.describe()
      if (kind === 'file') return new DiskBlobReader(file, size)
    } catch (error) {
      file[Symbol.dispose]()
      throw error
    }
    file[Symbol.dispose]()
    return undefined
  }

  adopt(file: VerifiedFile, commit?: () => Promise<void>): Promise<BlobInfo> {
    const { digest, size } = file
    return this.#alone(digest, async () => {
      const target = this.#path(digest)
      const folder = path.dirname(target)
      // A blob that is there needs it, too: the process that put it there may have died before this sync.
      await this.#makeDurableFolder(folder)
      await file.sync()
      const before = commit && (await this.stat(digest))
      // The rename replaces a blob that is there: these bytes have just been verified, those may have rotted. Readers
      // of the old file keep it.
      await this.#orPutAside(digest, () => this.#files.rename(file.path, target))
      await this.#files.syncFolder(folder)
      try {
        await commit?.()
      } catch (error) {
        // A full disk commits nothing, and the file would be an orphan; after another error the commit may be there.
        if (before === undefined && isDiskFull(error)) await this.#files.rename(target, file.path)
        else await file.adopted(false)
        throw error
      }
      await file.adopted(true)
      return { digest, size }
    })
  }

  delete(digest: Digest): Promise<void> {
    return this.#alone(digest, () => this.#orPutAside(digest, () => this.#files.remove(this.#path(digest))))
  }

  /** Puts aside a folder in a blob's place: it is no blob, and blocks the right one. */
  async #orPutAside(digest: Digest, action: () => Promise<void>): Promise<void> {
    try {
      await action()
    } catch (error) {
      if (!IS_FOLDER.includes(systemCode(error) ?? '')) throw error
      if ((await this.#files.stat(this.#path(digest)))?.kind !== 'folder') throw error
      await putAside(this.#files, this.#root, digest)
      await action()
    }
  }

  async *list(): AsyncIterable<ListedBlob> {
    for (const algorithm of ['sha256', 'sha512']) {
      const top = path.join(this.#root, 'blobs', algorithm)
      for (const prefix of await this.#names(top)) {
        // This process may not be permitted to read a foreign folder (`lost+found`, `.snapshot`).
        if (!/^[0-9a-f]{2}$/.test(prefix)) continue
        for (const hex of await this.#names(path.join(top, prefix))) {
          const digest = `${algorithm}:${hex}`
          if (!isDigest(digest) || !hex.startsWith(prefix)) continue
          const info = await this.#files.stat(this.#path(digest))
          if (info?.kind === 'file') yield { digest, size: info.size, writtenAt: info.modifiedAt }
        }
      }
    }
  }

  async #names(folder: string): Promise<string[]> {
    const info = await this.#files.stat(folder)
    return info?.kind === 'folder' ? ((await this.#files.list(folder)) ?? []) : []
  }

  #path(digest: Digest): string {
    return blobPath(this.#root, digest)
  }

  async #alone<T>(digest: Digest, action: () => Promise<T>): Promise<T> {
    const lock = await this.#locks.exclusive(digest, NEVER)
    try {
      return await action()
    } finally {
      lock[Symbol.dispose]()
    }
  }

  /** Makes the folder and its parents below the root durable, by a sync of the folder above each. */
  async #makeDurableFolder(folder: string): Promise<void> {
    if (folder === this.#root || this.#durableFolders.has(folder)) return
    const parent = path.dirname(folder)
    await this.#makeDurableFolder(parent)
    await this.#files.makeFolder(folder)
    await this.#files.syncFolder(parent)
    this.#durableFolders.add(folder)
  }
}

class DiskBlobReader implements BlobReader {
  readonly size: Bytes
  readonly #file: OpenFile

  constructor(file: OpenFile, size: Bytes) {
    this.#file = file
    this.size = size
  }

  get descriptor(): number {
    return this.#file.descriptor
  }

  read(buffer: Buffer, position: Bytes): Promise<Bytes> {
    return this.#file.read(buffer, position)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#file[Symbol.dispose]()
    await this.#file.closed
  }
}
