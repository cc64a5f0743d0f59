/** Stores bytes that are whole in memory as a blob: open, write, verify, adopt. */
import type { BlobStore } from '../blobs/blob-store.ts'
import type { IngestIdentity, IngestStore } from './ingest.ts'

/**
 * Durable when it resolves; nothing is left of it when it rejects.
 *
 * @param identity names the digest that the bytes were found to have
 * @throws the system's error when the disk does not take it
 */
export async function storeWhole(
  { ingests, store }: { ingests: Pick<IngestStore, 'open'>; store: Pick<BlobStore, 'adopt'> },
  identity: IngestIdentity,
  bytes: Buffer,
): Promise<void> {
  const ingest = await ingests.open(identity, { fresh: true })
  try {
    if (bytes.length > 0) await ingest.write([bytes], 0)
    const file = await ingest.verify(bytes.length)
    if (file === undefined)
      throw new Error(`the bytes of ${identity.digest} changed on their way to the disk`)
    await store.adopt(file)
  } catch (error) {
    await ingest.discard()
    throw error
  }
}
