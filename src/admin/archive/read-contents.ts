/** Contents of a backup, in pieces from the worker thread that parses them; a semaphore gives backpressure. */
import { on } from 'node:events'
import { Worker } from 'node:worker_threads'
import type { Digest } from '../../oci/digest.ts'
import type { RepositoryName } from '../../oci/reference.ts'
import {
  CONTENTS_FILE,
  type Contents,
  type SavedBlob,
  type SavedManifest,
  type SavedRepository,
} from './format.ts'
import { TarError } from './read-tar.ts'

/** The content of a repository precedes its name. */
export type ContentsPiece =
  | { readonly tag: SavedRepository['tags'][number] }
  | { readonly manifest: SavedManifest }
  | { readonly blob: SavedBlob }
  | { readonly repository: RepositoryName; readonly deletedAt?: number }
  | { readonly lost: Digest }
  /** The last piece: whether entrepot wrote the document. */
  | { readonly ours: boolean }

export interface ContentsWork {
  readonly bytes: Uint8Array
  /** A semaphore: how many messages the worker may still send. */
  readonly credits: Int32Array
}

/** The most messages in flight. */
const AHEAD = 4

/** The worker's heap holds only the messages in flight; the document itself is outside of it. */
const HEAP_MB = 128

/**
 * @param bytes the only user of its memory, which moves to the worker thread
 * @throws TarError when entrepot did not write the document
 */
export async function readContents(bytes: Buffer<ArrayBuffer>, signal: AbortSignal): Promise<Contents> {
  const repositories: SavedRepository[] = []
  const lost: Digest[] = []
  let current = nothing()
  for await (const piece of piecesOf(bytes, signal)) {
    if ('ours' in piece) {
      if (!piece.ours) break
      return { repositories, lost }
    }
    if ('lost' in piece) lost.push(piece.lost)
    else if ('tag' in piece) current.tags.push(piece.tag)
    else if ('manifest' in piece) current.manifests.push(piece.manifest)
    else if ('blob' in piece) current.blobs.push(piece.blob)
    else {
      const { repository: name, ...deleted } = piece
      repositories.push({ name, ...deleted, ...orNone(current) })
      current = nothing()
    }
  }
  throw new TarError(`there is no valid ${CONTENTS_FILE} in it`)
}

function nothing(): { [kind in 'tags' | 'manifests' | 'blobs']: SavedRepository[kind][number][] } {
  return { tags: [], manifests: [], blobs: [] }
}

const NONE: readonly never[] = []

/** Empty repositories share one list, which saves memory where there are many. */
function orNone({ tags, manifests, blobs }: ReturnType<typeof nothing>): Omit<SavedRepository, 'name'> {
  return {
    tags: tags.length > 0 ? tags : NONE,
    manifests: manifests.length > 0 ? manifests : NONE,
    blobs: blobs.length > 0 ? blobs : NONE,
  }
}

async function* piecesOf(
  bytes: Buffer<ArrayBuffer>,
  signal: AbortSignal,
): AsyncGenerator<ContentsPiece, void, undefined> {
  const room = new Int32Array(new SharedArrayBuffer(4))
  room[0] = AHEAD
  const worker = new Worker(new URL('./contents-worker.ts', import.meta.url), {
    workerData: { bytes, credits: room } satisfies ContentsWork,
    transferList: [bytes.buffer],
    execArgv: [],
    resourceLimits: { maxOldGenerationSizeMb: HEAP_MB, maxYoungGenerationSizeMb: HEAP_MB / 4 },
  })
  try {
    for await (const [message] of on(worker, 'message', { signal, close: ['exit'] })) {
      yield* message as ContentsPiece[]
      Atomics.add(room, 0, 1)
      Atomics.notify(room, 0)
    }
  } catch (error) {
    signal.throwIfAborted()
    if (!(error instanceof Error && 'code' in error && error.code === 'ERR_WORKER_OUT_OF_MEMORY')) throw error
    throw new TarError(`there is no valid ${CONTENTS_FILE} in it`, { cause: error })
  } finally {
    await worker.terminate()
  }
}
