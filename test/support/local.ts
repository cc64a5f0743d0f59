/**
 * Local repositories as a push would leave them, put into a `storage.root` that nobody uses at the moment.
 */
import path from 'node:path'
import { parseManifest } from '../../src/oci/manifest.ts'
import { parseRepositoryName, parseTag } from '../../src/oci/reference.ts'
import { DiskBlobStore } from '../../src/storage/blobs/disk-blob-store.ts'
import { openIngests } from '../../src/storage/ingest/disk-ingest.ts'
import { Hashers } from '../../src/storage/ingest/hasher.ts'
import { LOCAL } from '../../src/storage/metadata/metadata.ts'
import { openMetadata } from '../../src/storage/metadata/sqlite/open.ts'
import type { Content, Image } from './images.ts'

export interface LocalRepositoryContent {
  readonly name: string
  readonly tags?: Readonly<Record<string, Image>>
  /** Without a tag. */
  readonly images?: readonly Image[]
  /** Pushed here without the blobs they name. */
  readonly manifests?: readonly Content[]
  /** Uploaded here, named by no manifest. */
  readonly blobs?: readonly Content[]
  /** Tags that were deleted again. */
  readonly buried?: Readonly<Record<string, Image>>
}

export async function seedLocal(
  root: string,
  repositories: readonly LocalRepositoryContent[],
  at = 1_700_000_000_000,
): Promise<void> {
  await using closing = new AsyncDisposableStack()
  const hashers = closing.adopt(new Hashers({ threads: 1 }), (it) => it.close())
  const ingests = closing.adopt(await openIngests({ root, hashers }), (it) => it.close())
  const metadata = closing.adopt(await openMetadata(path.join(root, 'metadata.sqlite')), (it) => it.close())
  const store = new DiskBlobStore(root)

  for (const repository of repositories) {
    const { name, tags = {}, images = [], blobs = [], buried = {} } = repository
    const key = { registry: LOCAL, name: parseRepositoryName(name) }
    const all = [...Object.values(tags), ...images, ...Object.values(buried)]
    const uploaded = [...blobs, ...all.flatMap((it) => it.blobs)]
    const manifests = [...(repository.manifests ?? []), ...all.flatMap((it) => it.manifests)]
    for (const { digest, bytes } of [...uploaded, ...manifests]) {
      const ingest = await ingests.open({ source: LOCAL, digest })
      await ingest.write([Buffer.from(bytes)], 0)
      const file = await ingest.verify(bytes.length)
      if (file === undefined) throw new Error('the bytes are not their digest')
      await store.adopt(file)
    }
    await metadata.transaction((tx) => {
      tx.putRepository(key, at)
      for (const { digest, bytes } of uploaded) tx.linkBlob(key, digest, bytes.length, at)
      for (const { digest, bytes, mediaType } of manifests) {
        tx.putManifest(key, digest, bytes.length, parseManifest(bytes, mediaType), at)
      }
      for (const [tag, { manifest }] of [...Object.entries(tags), ...Object.entries(buried)]) {
        tx.putTag(key, {
          tag: parseTag(tag),
          digest: manifest.digest,
          size: manifest.bytes.length,
          mediaType: manifest.mediaType,
          checkedAt: at,
          deletedAt: undefined,
        })
      }
      for (const tag of Object.keys(buried)) tx.buryTag(key, parseTag(tag), at)
    })
  }
}
