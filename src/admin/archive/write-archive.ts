/**
 * Backup of everything that was pushed, as of one moment: an OCI image layout that other tools read as well.
 *
 * Pushes, deletes and collections go on meanwhile: one snapshot of the index says what to save, and those blobs are
 * pinned until they are copied. Every blob is verified by its digest before it is copied.
 */
import type { Bytes } from '../../base/units.ts'
import type { Digest } from '../../oci/digest.ts'
import { OperatorError } from '../../base/operator-error.ts'
import type { BlobAudit } from '../../storage/metadata/audit-index.ts'
import type { BlobReader, BlobStore } from '../../storage/blobs/blob-store.ts'
import type { EpochMs, MetadataStore } from '../../storage/metadata/metadata.ts'
import { contentsOf } from './backup-contents.ts'
import { usesOf } from '../../storage/integrity/findings.ts'
import {
  blobName,
  CONTENTS_FILE,
  contentsBytes,
  INDEX_FILE,
  indexBytes,
  LAYOUT,
  LAYOUT_FILE,
  type SavedRepository,
} from './format.ts'
import type { BlobHolds } from '../../storage/locks/blob-holds.ts'
import { END_OF_ARCHIVE, tarHeader, tarPadding } from './write-tar.ts'

/** An atomic file: it appears complete, or not at all. */
interface Target extends AsyncDisposable {
  write(bytes: Uint8Array): Promise<void>
  finish(): Promise<void>
}

interface BackupOptions {
  readonly metadata: Pick<MetadataStore, 'snapshot' | 'audit'>
  readonly create: (path: string) => Promise<Target>
  readonly disk: BlobAudit
  readonly store: BlobStore
  readonly holds: BlobHolds
  readonly now: () => EpochMs
  readonly serving: boolean
}

interface SavedTotals {
  readonly repositories: number
  readonly tags: number
  readonly manifests: number
  readonly blobs: number
  readonly bytes: Bytes
}

export type BackupEvent =
  /** Counts bytes of manifests and blobs. */
  | { readonly progress: { readonly bytes: Bytes; readonly totalBytes: Bytes } }
  /** A piece of the archive in base64, when the archive goes through the socket. */
  | { readonly piece: string }
  /** Content that was pushed once and cannot be saved. */
  | { readonly lost: { readonly digest: Digest; readonly why: string; readonly uses: readonly string[] } }
  | { readonly saved: SavedTotals }

/** Bytes per read. A piece that goes through the socket is one line of text there. */
const PIECE: Bytes = 1024 * 1024
const PIECE_OF_TEXT: Bytes = 48 * 1024

/** @param args.to an absolute path; undefined: the archive is yielded in pieces */
export async function* backup(
  options: BackupOptions,
  { to }: { readonly to?: string | undefined },
  signal: AbortSignal,
): AsyncGenerator<BackupEvent, void, undefined> {
  await using file = to === undefined ? undefined : await told(to, options.create(to))
  const piece = file === undefined ? PIECE_OF_TEXT : PIECE
  for await (const part of archive(options, piece, signal)) {
    signal.throwIfAborted()
    if (!(part instanceof Uint8Array)) yield part
    else if (part.length === 0) continue
    else if (file === undefined) yield { piece: Buffer.from(part).toString('base64') }
    else await told(to, file.write(part))
  }
  if (file !== undefined) await told(to, file.finish())
}

/** Turns the system's error about a file that cannot be written into an OperatorError. */
async function told<T>(path: string | undefined, work: Promise<T>): Promise<T> {
  try {
    return await work
  } catch (cause) {
    if (!(cause instanceof Error && 'code' in cause)) throw cause
    throw new OperatorError(`${String(path)} cannot be written: ${cause.message}`, { cause })
  }
}

/** Yields pieces whose buffer is overwritten when the next is asked for. */
async function* archive(
  options: BackupOptions,
  piece: Bytes,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array | BackupEvent, void, undefined> {
  const { metadata, holds, now } = options
  using pinned = new DisposableStack()
  const { repositories, named, sizes, lacking } = await (async () => {
    using _everything = holds.everything()
    await using snapshot = await metadata.snapshot()
    const contents = await contentsOf(snapshot)
    for (const digest of contents.sizes.keys()) pinned.use(holds.hold(digest))
    return contents
  })()
  const at = new Date(now())
  const totalBytes = [...sizes.values()].reduce((sum, size) => sum + size, 0)
  const lost: Digest[] = []
  const found = new Map<Digest, Bytes>()
  const buffer = Buffer.allocUnsafeSlow(piece)
  let bytes = 0
  yield* small(LAYOUT_FILE, LAYOUT, at)
  for (const [digest, size] of sizes) {
    signal.throwIfAborted()
    const why = await problemOf(options, digest, signal)
    await using reader = why === undefined ? await options.store.open(digest) : undefined
    if (reader === undefined) {
      lost.push(digest)
      yield { lost: { digest, why: why ?? 'its file is gone', uses: await usesNow(options, digest) } }
    } else {
      found.set(digest, reader.size)
      yield tarHeader(blobName(digest), reader.size, at)
      yield* bytesOf(reader, buffer)
      yield tarPadding(reader.size)
    }
    bytes += size
    yield { progress: { bytes, totalBytes } }
  }
  for (const { name, digest } of lacking) {
    yield { lost: { digest, why: `it is not in ${name}`, uses: await usesNow(options, digest) } }
  }
  const contents = { repositories: repositories.map((it) => withSizes(it, found)), lost }
  yield* small(INDEX_FILE, indexBytes(contents, named), at)
  yield* small(CONTENTS_FILE, contentsBytes(contents, at), at)
  yield END_OF_ARCHIVE
  const count = (of: (it: (typeof repositories)[number]) => number): number =>
    repositories.reduce((sum, it) => sum + of(it), 0)
  const totals = { tags: count((it) => it.tags.length), manifests: count((it) => it.manifests.length) }
  yield { saved: { repositories: repositories.length, ...totals, blobs: sizes.size - lost.length, bytes } }
}

/** Takes the sizes of verified blobs, since those in the index or in a manifest may be wrong. */
function withSizes(saved: SavedRepository, found: ReadonlyMap<Digest, Bytes>): SavedRepository {
  const sized = <T extends { readonly digest: Digest; readonly size: Bytes }>(it: T): T => ({
    ...it,
    size: found.get(it.digest) ?? it.size,
  })
  return { ...saved, manifests: saved.manifests.map(sized), blobs: saved.blobs.map(sized) }
}

async function usesNow({ metadata }: BackupOptions, digest: Digest): Promise<readonly string[]> {
  return (await usesOf(metadata.audit, digest)).uses
}

async function problemOf(
  { disk, serving }: BackupOptions,
  digest: Digest,
  signal: AbortSignal,
): Promise<string | undefined> {
  const checked = await disk.check(digest, { signal, resting: serving })
  if ('why' in checked) return checked.why
  if (checked.is === 'absent') return 'its file is gone'
  return checked.is === 'corrupt' ? 'its bytes are not those of its digest' : undefined
}

async function* bytesOf(reader: BlobReader, buffer: Buffer): AsyncGenerator<Uint8Array, void, undefined> {
  for (let at = 0; at < reader.size;) {
    const count = await reader.read(buffer, at)
    if (count === 0) throw new Error('a file became shorter while it was saved')
    yield buffer.subarray(0, count)
    at += count
  }
}

function* small(name: string, bytes: Buffer, at: Date): Generator<Uint8Array, void, undefined> {
  yield tarHeader(name, bytes.length, at)
  yield bytes
  yield tarPadding(bytes.length)
}
