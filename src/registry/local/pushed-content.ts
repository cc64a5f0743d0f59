/**
 * Reader of pushed blobs and manifests: returns them exactly as they were pushed, or not at all.
 *
 * A file that is gone, or of another size than in the index, counts as absent; so does a manifest whose digest does not
 * match. Each is reported to the examiner. A client that pushes finds such a blob absent, in a HEAD, a mount or a
 * manifest's check, uploads it again, and so repairs it.
 */
import type { Bytes } from '../../base/units.ts'
import { LRUCache } from 'lru-cache'
import { MAX_MANIFEST_BYTES } from '../../oci/descriptor.ts'
import { algorithmOf, digestOf, type Digest } from '../../oci/digest.ts'
import { OciError } from '../../oci/errors.ts'
import { turnFor } from '../../base/turns.ts'
import type { BlobInfo, BlobReader, BlobStore } from '../../storage/blobs/blob-store.ts'
import { readAll } from '../../storage/files/read-all.ts'
import type { MetadataStore } from '../../storage/metadata/metadata.ts'

const HOT_BYTES: Bytes = 16 * 1024 * 1024

interface PushedContentOptions {
  readonly store: Pick<BlobStore, 'stat' | 'open'>
  readonly metadata: Pick<MetadataStore, 'blobs'>
  /** Queues an examination of the blob. */
  readonly suspect: (digest: Digest) => void
}

export class PushedContent {
  readonly #options: PushedContentOptions
  readonly #hot = new LRUCache<Digest, Buffer>({
    maxSize: HOT_BYTES,
    sizeCalculation: ({ length }) => length + 1,
  })

  constructor(options: PushedContentOptions) {
    this.#options = options
  }

  async stat(digest: Digest): Promise<BlobInfo | undefined> {
    const { store, suspect } = this.#options
    const blob = await store.stat(digest)
    if (blob !== undefined && (await this.#hasSize(digest, blob.size))) return blob
    suspect(digest)
    return undefined
  }

  async open(digest: Digest): Promise<BlobReader | undefined> {
    const { store, suspect } = this.#options
    const reader = await store.open(digest)
    if (reader !== undefined && (await this.#hasSize(digest, reader.size))) return reader
    await reader?.[Symbol.asyncDispose]()
    suspect(digest)
    return undefined
  }

  async manifest(digest: Digest): Promise<Buffer | undefined> {
    const hot = this.#hot.get(digest)
    if (hot !== undefined) return hot
    await using reader = await this.open(digest)
    if (reader === undefined) return undefined
    const bytes = reader.size > MAX_MANIFEST_BYTES ? undefined : await readAll(reader, reader.size)
    await turnFor(bytes?.length ?? 0)
    if (bytes === undefined || digestOf(bytes, algorithmOf(digest)) !== digest) {
      this.#options.suspect(digest)
      return undefined
    }
    this.#hot.set(digest, bytes)
    return bytes
  }

  async #hasSize(digest: Digest, size: Bytes): Promise<boolean> {
    const expected = await this.#options.metadata.blobs.size(digest)
    return expected === undefined || expected === size
  }
}

/** The error of a pull of content that the index lists: "not found" would blame the client. */
export function damaged(digest: Digest): OciError {
  return new OciError('CONTENT_DAMAGED', { digest })
}
