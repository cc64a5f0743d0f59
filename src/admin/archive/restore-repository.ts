/**
 * Merge of one repository of a backup into the one here: compares both, and writes the difference under the
 * repository's lock, as every push to it does.
 */
import type { Bytes } from '../../base/units.ts'
import { isNonDistributable, MAX_MANIFEST_BYTES } from '../../oci/descriptor.ts'
import type { Digest } from '../../oci/digest.ts'
import { OciError } from '../../oci/errors.ts'
import { Turns, turnFor } from '../../base/turns.ts'
import { parseManifest, type ManifestContent } from '../../oci/manifest.ts'
import type { RepositoryName, Tag } from '../../oci/reference.ts'
import type { LocalNames } from '../../registry/naming/local-names.ts'
import { assertMayMove, type PushSettings } from '../../registry/naming/push-policy.ts'
import type { BlobStore } from '../../storage/blobs/blob-store.ts'
import { readAll } from '../../storage/files/read-all.ts'
import { lockOfRepository, type KeyedLocks } from '../../storage/locks/keyed-locks.ts'
import {
  LOCAL,
  type EpochMs,
  type MetadataStore,
  type MetadataTransaction,
  type RepositoryKey,
} from '../../storage/metadata/metadata.ts'
import type { SavedManifest, SavedRepository } from './format.ts'
import type { Received } from './read-archive.ts'

export interface RestoreTools {
  readonly store: BlobStore
  readonly metadata: MetadataStore
  readonly locks: KeyedLocks
  readonly localNames: Pick<LocalNames, 'add'>
  readonly settings: Pick<PushSettings, 'immutable'>
  readonly now: () => EpochMs
}

export type RestoreEvent =
  /** Counts bytes of the archive. */
  | { readonly progress: { readonly bytes: Bytes; readonly totalBytes: Bytes } }
  /** How much of a repository is new. */
  | {
      readonly restored: {
        readonly name: string
        readonly created: boolean
        readonly tags: number
        readonly manifests: number
        readonly blobs: number
      }
    }
  /** A tag that points to another manifest here and stays so; `why` is set where it could not be moved. */
  | {
      readonly kept: {
        readonly name: string
        readonly tag: string
        readonly here: Digest
        readonly saved: Digest
        readonly why?: string
      }
    }
  /** A manifest that is not restored, since it or a part of it was lost before the backup. */
  | {
      readonly left: {
        readonly name: string
        readonly manifest: Digest
        readonly tags: readonly string[]
        readonly why: string
      }
    }

/** Manifests per write; a blob is one row, so ten times as many are written at once. */
const BATCH = 100

/** The most writes of one transaction. */
const MOST_TOGETHER = 10

interface Missing {
  readonly blobs: readonly SavedRepository['blobs'][number][]
  readonly manifests: readonly SavedManifest[]
  readonly tags: SavedRepository['tags']
  readonly contents: ReadonlyMap<Digest, ManifestContent>
}

export async function restoreRepository(
  tools: RestoreTools,
  received: Pick<Received, 'has'>,
  saved: SavedRepository,
  { overwrite, signal }: { readonly overwrite: boolean; readonly signal: AbortSignal },
): Promise<RestoreEvent[]> {
  const { metadata, locks } = tools
  const { name } = saved
  using _held = await locks.exclusive(lockOfRepository(name), signal)
  const created = (await metadata.repositories.get({ registry: LOCAL, name })) === undefined
  const events: RestoreEvent[] = []
  const missing = await compare(tools, received, saved, overwrite, (event) => events.push(event))
  const blobs = missing.blobs.length
  const manifests = missing.manifests.length
  const tags = missing.tags.length
  if (created || blobs + manifests + tags > 0) await write(tools, saved, missing, created)
  events.push({ restored: { name, created, tags, manifests, blobs } })
  return events
}

/** @param tell receives an event for everything that is not restored */
async function compare(
  tools: RestoreTools,
  received: Pick<Received, 'has'>,
  saved: SavedRepository,
  overwrite: boolean,
  tell: (event: RestoreEvent) => void,
): Promise<Missing> {
  const { metadata, settings } = tools
  const { name } = saved
  const key: RepositoryKey = { registry: LOCAL, name }

  const contents = new Map<Digest, ManifestContent>()
  const manifests: SavedManifest[] = []
  const readable = new Set(saved.blobs.flatMap(({ digest }) => (received.has(digest) ? [digest] : [])))
  const turns = new Turns()
  for (const manifest of saved.manifests) {
    await turns.next()
    const problem = await readInto(contents, tools, received, readable, manifest)
    if (problem !== undefined) {
      const tags = saved.tags.filter(({ digest }) => digest === manifest.digest).map(({ tag }) => tag)
      tell({ left: { name, manifest: manifest.digest, tags, why: problem } })
      continue
    }
    const held = await metadata.manifests.get(key, manifest.digest)
    // The collector would take a released manifest: the restore makes it referenced again.
    if (held === undefined || held.releasedAt !== undefined) manifests.push(manifest)
  }

  const tags: { tag: Tag; digest: Digest }[] = []
  for (const { tag, digest } of saved.tags) {
    await turns.next()
    if (!contents.has(digest)) continue
    const record = await metadata.tags.get(key, tag)
    const here = record?.deletedAt === undefined ? record?.digest : undefined
    if (here === digest) continue
    const why = here === undefined || !overwrite ? undefined : immovable(name, tag, settings)
    if (here === undefined || (overwrite && why === undefined)) tags.push({ tag, digest })
    else tell({ kept: { name, tag, here, saved: digest, ...(why === undefined ? {} : { why }) } })
  }

  const blobs: Missing['blobs'][number][] = []
  for (const blob of saved.blobs) {
    await turns.next()
    if (received.has(blob.digest) && !(await metadata.blobs.linked(key, blob.digest))) blobs.push(blob)
  }
  return { blobs, manifests, tags, contents }
}

/** Writes in one transaction, unless that would delay pushes for long; the tags come at the very end. */
async function write(
  { metadata, localNames, now }: RestoreTools,
  saved: SavedRepository,
  { blobs, manifests, tags, contents }: Missing,
  created: boolean,
): Promise<void> {
  const { name, deletedAt } = saved
  const key: RepositoryKey = { registry: LOCAL, name }
  const sizes = new Map<Digest, Bytes>(saved.manifests.map(({ digest, size }) => [digest, size]))
  const writes: ((tx: MetadataTransaction) => void)[] = []
  for (const some of inBatches(blobs, 10 * BATCH)) {
    writes.push((tx) => {
      for (const { digest, size } of some) tx.linkBlob(key, digest, size, now())
    })
  }
  for (const some of inBatches(manifests, BATCH)) {
    writes.push((tx) => {
      for (const { digest, size } of some) {
        const content = contents.get(digest)
        if (content !== undefined) tx.putManifest(key, digest, size, content, now())
      }
    })
  }
  writes.push((tx) => {
    for (const { tag, digest } of tags) {
      const mediaType = contents.get(digest)?.mediaType ?? ''
      const size = sizes.get(digest) ?? 0
      tx.putTag(key, { tag, digest, size, mediaType, checkedAt: now(), deletedAt: undefined })
    }
    if (deletedAt !== undefined && created) tx.buryRepository(key, deletedAt)
  })
  localNames.add(name)
  const together = writes.length <= MOST_TOGETHER ? [writes] : writes.map((write) => [write])
  for (const some of together) {
    await metadata.transaction((tx) => {
      tx.putRepository(key, now())
      for (const write of some) write(tx)
    })
  }
}

/**
 * @param readable the blobs that the manifest's repository will have
 * @returns why the manifest cannot be restored
 */
async function readInto(
  contents: Map<Digest, ManifestContent>,
  { store }: RestoreTools,
  received: Pick<Received, 'has'>,
  readable: ReadonlySet<Digest>,
  { digest, mediaType }: SavedManifest,
): Promise<string | undefined> {
  if (!received.has(digest)) return 'its bytes are not in the backup'
  await using reader = await store.open(digest)
  if (reader === undefined) return 'its bytes are gone again'
  if (reader.size > MAX_MANIFEST_BYTES) return 'it is no manifest'
  const bytes = await readAll(reader, reader.size)
  if (bytes === undefined) return 'its bytes are gone again'
  await turnFor(bytes.length)
  let content: ManifestContent
  try {
    content = parseManifest(bytes, mediaType)
  } catch (error) {
    if (!(error instanceof OciError)) throw error
    return 'it is no manifest'
  }
  const lacks = [content.config, ...content.layers].find(
    (it) => it !== undefined && !isNonDistributable(it) && !readable.has(it.digest),
  )
  if (lacks !== undefined) return `its ${lacks.digest} is not in the backup`
  contents.set(digest, content)
  return undefined
}

function immovable(name: RepositoryName, tag: Tag, settings: RestoreTools['settings']): string | undefined {
  try {
    assertMayMove(name, tag, settings)
    return undefined
  } catch (error) {
    if (!(error instanceof OciError)) throw error
    return error.message
  }
}

function inBatches<T>(all: readonly T[], most: number): T[][] {
  return Array.from({ length: Math.ceil(all.length / most) }, (_, i) => all.slice(i * most, (i + 1) * most))
}
