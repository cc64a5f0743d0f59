/**
 * A backup back into the local repositories of a folder, empty or in use.
 *
 * First all of the archive is read and verified; then each repository comes back at once, in the same index and
 * under the same locks as a push. What is there already stays: a second time changes nothing.
 */
import { isNonDistributable } from '../oci/descriptor.ts'
import type { Digest } from '../oci/digest.ts'
import { OciError } from '../oci/errors.ts'
import { parseManifest, type ManifestContent } from '../oci/manifest.ts'
import type { RepositoryName, Tag } from '../oci/reference.ts'
import type { LocalNames } from '../registry/local-names.ts'
import { assertMayMove, type PushSettings } from '../registry/push-rules.ts'
import { Refused } from '../registry/refused.ts'
import type { Bytes } from '../store/blob-store.ts'
import { LOCAL, type EpochMs, type MetadataTransaction, type RepositoryKey } from '../store/metadata.ts'
import type { SavedManifest, SavedRepository } from './layout.ts'
import { Received, type ReceiveTools } from './receive-archive.ts'

interface RestoreOptions extends Omit<ReceiveTools, 'signal'> {
  readonly localNames: Pick<LocalNames, 'add'>
  readonly settings: Pick<PushSettings, 'immutable'>
  /** Names that nobody could pull from here. */
  readonly hidden: (names: readonly RepositoryName[]) => readonly string[]
  /** @throws the system's error */
  readonly open: (path: string) => Promise<{ readonly size: Bytes; readonly chunks: AsyncIterable<Buffer> }>
  readonly now: () => EpochMs
}

export type RestoreEvent =
  /** Of the archive. */
  | { readonly progress: { readonly bytes: Bytes; readonly totalBytes: Bytes } }
  /** What is new of a repository. */
  | {
      readonly restored: {
        readonly name: string
        /** There was none of that name. */
        readonly created: boolean
        readonly tags: number
        readonly manifests: number
        readonly blobs: number
      }
    }
  /** A tag that names something else here, and was left alone; `why` where it could not be moved. */
  | {
      readonly kept: {
        readonly name: string
        readonly tag: string
        readonly here: Digest
        readonly saved: Digest
        readonly why?: string
      }
    }
  /** Was lost before the backup was made. */
  | {
      readonly left: {
        readonly name: string
        readonly manifest: Digest
        readonly tags: readonly string[]
        readonly why: string
      }
    }

/** Manifests that are written at once; of blobs, which are a row each, ten times as many. */
const BATCH = 100

/** Writes of one transaction. */
const MOST_TOGETHER = 10

const TICK_MS = 200

/** @param args.from an absolute path */
export async function* restore(
  options: RestoreOptions,
  { from, overwrite }: { readonly from: string; readonly overwrite: boolean },
  signal: AbortSignal,
): AsyncGenerator<RestoreEvent, void, undefined> {
  const { size: totalBytes, chunks } = await options.open(from).catch((cause: unknown) => {
    throw new Refused(`${from} cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
    })
  })
  await using received = new Received({ ...options, signal })
  const counter = { bytes: 0 }
  const reading = received.read(from, counted(chunks, counter))
  try {
    for (let done = false; !done;) {
      done = await Promise.race([reading.then(() => true), tick()])
      yield { progress: { bytes: counter.bytes, totalBytes } }
    }
  } finally {
    // What it has taken is taken back only when it takes no more.
    await reading.catch(() => undefined)
  }
  const { repositories } = await reading
  const hidden = options.hidden(repositories.map(({ name }) => name))
  if (hidden.length > 0) {
    throw new Refused(
      `the configured upstreams would hide ${hidden.slice(0, 10).join(', ')}; nothing was restored`,
    )
  }
  for (const saved of repositories) {
    signal.throwIfAborted()
    yield* await restoreRepository(options, received, saved, overwrite, signal)
  }
  received.commit()
}

async function restoreRepository(
  options: RestoreOptions,
  received: Received,
  saved: SavedRepository,
  overwrite: boolean,
  signal: AbortSignal,
): Promise<RestoreEvent[]> {
  const { metadata, locks, localNames, settings, now } = options
  const { name } = saved
  const key: RepositoryKey = { registry: LOCAL, name }
  const events: RestoreEvent[] = []
  using _held = await locks.exclusive(`repository ${name}`, signal)
  const known = await metadata.repositories.get(key)

  const parsed = new Map<Digest, ManifestContent>()
  const fresh: SavedManifest[] = []
  for (const manifest of saved.manifests) {
    const problem = await readInto(parsed, options, received, saved, manifest)
    if (problem !== undefined) {
      const tags = saved.tags.filter(({ digest }) => digest === manifest.digest).map(({ tag }) => tag)
      events.push({ left: { name, manifest: manifest.digest, tags, why: problem } })
    } else if ((await metadata.manifests.get(key, manifest.digest)) === undefined) fresh.push(manifest)
  }

  const tags: { tag: Tag; digest: Digest }[] = []
  for (const { tag, digest } of saved.tags) {
    if (!parsed.has(digest)) continue
    const record = await metadata.tags.get(key, tag)
    const here = record?.deletedAt === undefined ? record?.digest : undefined
    if (here === digest) continue
    const why = here === undefined || !overwrite ? undefined : immovable(name, tag, settings)
    if (here === undefined || (overwrite && why === undefined)) tags.push({ tag, digest })
    else events.push({ kept: { name, tag, here, saved: digest, ...(why === undefined ? {} : { why }) } })
  }

  const blobs: SavedRepository['blobs'][number][] = []
  for (const blob of saved.blobs) {
    if (received.has(blob.digest) && !(await metadata.blobs.linked(key, blob.digest))) blobs.push(blob)
  }

  const isNew = fresh.length + tags.length + blobs.length > 0 || known === undefined
  if (isNew) {
    localNames.add(name)
    const writes: ((tx: MetadataTransaction) => void)[] = []
    for (const some of inBatches(blobs, 10 * BATCH)) {
      writes.push((tx) => {
        for (const { digest, size } of some) tx.linkBlob(key, digest, size, now())
      })
    }
    for (const some of inBatches(fresh, BATCH)) {
      writes.push((tx) => {
        for (const { digest, size } of some) {
          const content = parsed.get(digest)
          if (content !== undefined) tx.putManifest(key, digest, size, content, now())
        }
      })
    }
    writes.push((tx) => {
      for (const { tag, digest } of tags) {
        const mediaType = parsed.get(digest)?.mediaType ?? ''
        const size = saved.manifests.find((it) => it.digest === digest)?.size ?? 0
        tx.putTag(key, { tag, digest, size, mediaType, checkedAt: now(), deletedAt: undefined })
      }
      if (saved.deletedAt !== undefined && known === undefined) tx.buryRepository(key, saved.deletedAt)
    })
    // All at once, unless that would keep everybody else from writing for long; tags at the very end.
    const together = writes.length <= MOST_TOGETHER ? [writes] : writes.map((write) => [write])
    for (const some of together) {
      await metadata.transaction((tx) => {
        tx.putRepository(key, now())
        for (const write of some) write(tx)
      })
    }
  }
  const created = known === undefined
  events.push({
    restored: { name, created, tags: tags.length, manifests: fresh.length, blobs: blobs.length },
  })
  return events
}

/** @returns why it cannot be restored */
async function readInto(
  parsed: Map<Digest, ManifestContent>,
  { store }: RestoreOptions,
  received: Received,
  saved: SavedRepository,
  { digest, mediaType }: SavedManifest,
): Promise<string | undefined> {
  if (!received.has(digest)) return 'its bytes are not in the backup'
  await using reader = await store.open(digest)
  if (reader === undefined) return 'its bytes are gone again'
  const bytes = Buffer.alloc(reader.size)
  for (let at = 0; at < bytes.length;) {
    const count = await reader.read(bytes.subarray(at), at)
    if (count === 0) return 'its bytes are gone again'
    at += count
  }
  let content: ManifestContent
  try {
    content = parseManifest(bytes, mediaType)
  } catch (error) {
    if (!(error instanceof OciError)) throw error
    return 'it is no manifest'
  }
  const held = new Set(saved.blobs.map((it) => it.digest))
  const lacks = [content.config, ...content.layers].find(
    (it) => it !== undefined && !isNonDistributable(it) && !(held.has(it.digest) && received.has(it.digest)),
  )
  if (lacks !== undefined) return `its ${lacks.digest} is not in the backup`
  parsed.set(digest, content)
  return undefined
}

function immovable(name: RepositoryName, tag: Tag, settings: RestoreOptions['settings']): string | undefined {
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

async function* counted(
  chunks: AsyncIterable<Buffer>,
  counter: { bytes: Bytes },
): AsyncGenerator<Buffer, void, undefined> {
  for await (const chunk of chunks) {
    counter.bytes += chunk.length
    yield chunk
  }
}

function tick(): Promise<false> {
  return new Promise((resolve) => setTimeout(() => resolve(false), TICK_MS))
}
