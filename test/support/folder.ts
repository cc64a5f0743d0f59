/**
 * A `storage.root` that nobody uses at the moment: filled, damaged, looked at.
 */
import { readdirSync } from 'node:fs'
import path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { loadConfig } from '../../src/config/schema.ts'
import type { Operations } from '../../src/admin/operations.ts'
import { openAlone } from '../../src/app/parts/alone.ts'
import type { Digest } from '../../src/oci/digest.ts'
import { parseManifest } from '../../src/oci/manifest.ts'
import { parseRepositoryName, parseTag } from '../../src/oci/reference.ts'
import { DiskBlobStore } from '../../src/storage/blobs/disk-blob-store.ts'
import { openIngests } from '../../src/storage/ingest/disk-ingest.ts'
import { Hashers } from '../../src/storage/ingest/hasher.ts'
import { openMetadata } from '../../src/storage/metadata/sqlite/open.ts'
import { createLog } from '../../src/telemetry/log.ts'
import type { Image } from './images.ts'

export function blobFile(root: string, digest: Digest): string {
  const [algorithm = '', hex = ''] = digest.split(':')
  return path.join(root, 'blobs', algorithm, hex.slice(0, 2), hex)
}

/** An image as a pull of `<registry>/<name>:<tag>` would leave it. */
export async function seedMirrored(
  root: string,
  { registry, name, tag, image }: { registry: string; name: string; tag: string; image: Image },
  at = 1_700_000_000_000,
): Promise<void> {
  await using closing = new AsyncDisposableStack()
  const hashers = closing.adopt(new Hashers({ threads: 1 }), (it) => it.close())
  const ingests = closing.adopt(await openIngests({ root, hashers }), (it) => it.close())
  const metadata = closing.adopt(await openMetadata(path.join(root, 'metadata.sqlite')), (it) => it.close())
  const store = new DiskBlobStore(root)
  const key = { registry, name: parseRepositoryName(name) }
  for (const { digest, bytes } of [...image.blobs, ...image.manifests]) {
    const ingest = await ingests.open({ source: registry, digest })
    await ingest.write([Buffer.from(bytes)], 0)
    await store.adopt((await ingest.verify(bytes.length))!)
  }
  await metadata.transaction((tx) => {
    tx.putRepository(key, at)
    for (const { digest, bytes } of image.blobs) {
      tx.recordDelivery(registry, digest, bytes.length, at)
      tx.linkBlob(key, digest, bytes.length, at)
    }
    for (const { digest, bytes, mediaType } of image.manifests) {
      tx.recordDelivery(registry, digest, bytes.length, at)
      tx.putManifest(key, digest, bytes.length, parseManifest(bytes, mediaType), at)
    }
    const { digest, bytes, mediaType } = image.manifest
    tx.putTag(key, {
      ...{ tag: parseTag(tag), digest, size: bytes.length, mediaType, checkedAt: at, deletedAt: undefined },
    })
  })
}

/** What the commands do where no server runs. */
export async function alone<T>(
  root: string,
  work: (operations: Operations, signal: AbortSignal) => Promise<T>,
  more: Record<string, unknown> = {},
): Promise<T> {
  const { config } = loadConfig({ text: JSON.stringify({ storage: { root }, ...more }), env: {} })
  await using operations = await openAlone(config, createLog({ level: 'silent' }))
  return await work(operations, new AbortController().signal)
}

/** Statements that no program of ours would run. */
export function inDatabase(root: string, ...statements: string[]): void {
  const database = new DatabaseSync(path.join(root, 'metadata.sqlite'))
  try {
    for (const statement of statements) database.exec(statement)
  } finally {
    database.close()
  }
}

/** The paths of all files below a folder, relative to it. */
export function filesBelow(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(folder, path.join(entry.parentPath, entry.name)))
    .sort()
}
