/**
 * Memory-backed fill for one client, past the disk: hashed, held back and continued like any other, and not cached.
 *
 * It is used while storage refuses writes, and for the rest of a blob when storage refused half-way. It costs
 * upstream one transfer per client; that is the price of never failing a pull because of the cache.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { createHash } from 'node:crypto'
import { algorithmOf, type Digest } from '../../oci/digest.ts'
import type { ByteSource } from '../../storage/blobs/blob-store.ts'
import type { GrowingSource } from '../../storage/ingest/ingest.ts'
import type { DiskSpace } from '../eviction/disk-space.ts'
import type { MirrorRef } from '../origin.ts'
import { refusal } from '../resilience/client-errors.ts'
import { HEADER_BUDGET_IS_OVER, withTimeLimit } from '../time-limit.ts'
import { Fill, type FillContext } from './fill.ts'
import { Follower, type Place } from './follower.ts'
import { HOLD_BACK, holdsBack } from './hold-back.ts'
import { MemoryIngest, type Given } from './memory-ingest.ts'

const STEP: Bytes = 256 * 1024

interface MemoryFillOptions {
  readonly repository: MirrorRef
  readonly digest: Digest
  /** The size that the client is, or has been, told. */
  readonly size: Bytes | undefined
  /** Where the client's range ends; undefined: it wants the whole blob. */
  readonly end: Bytes | undefined
  readonly place: Place
  readonly headerBudgetMs: Milliseconds
}

/** A fill in memory reserves no disk space, and never stays. */
const NO_DISK: Pick<DiskSpace, 'reserve' | 'changed'> = {
  reserve: () => Promise.resolve({ as: 'transient', [Symbol.dispose]: () => undefined }),
  changed: () => undefined,
}

/**
 * Resolves when the first bytes may be sent; a body of at most 64 KiB is verified by then. A larger one may still be
 * waiting for its transfer slot when the header budget is over.
 *
 * @throws OciError when upstream cannot, or has not in time; the signal's reason
 */
export async function openMemoryFill(
  context: FillContext,
  { repository, digest, size, end, place, headerBudgetMs }: MemoryFillOptions,
  signal: AbortSignal,
): Promise<ByteSource> {
  const { origin, name } = repository
  const { position: from, sent } = place
  const verifies = holdsBack(size, { start: from, end })
  // A range may have begun beyond a gap of the file: then everything is read from upstream.
  const isThere = verifies && sent !== undefined && sent.download.ingest.readableTo(0) >= from
  const had = isThere ? await readAgain(sent.download.ingest, from, digest, signal) : undefined
  let ingest: MemoryIngest | undefined
  const client = { promised: place.promised }
  const fill = new Fill(
    {
      ...{ ...context, diskSpace: NO_DISK, client },
      ingests: {
        open: (identity) => {
          ingest =
            ingest?.again() ?? new MemoryIngest({ identity, from, end: verifies ? undefined : end, had })
          return Promise.resolve(ingest)
        },
      },
    },
    { origin, name, digest, size },
  )
  const follower = new Follower(fill, size, { start: from, end }, () =>
    Promise.reject(new Error('a fill in memory is not in need of a disk')),
  )
  try {
    const begins = (it: AbortSignal): Promise<unknown> => follower.there(it)
    if (client.promised) await begins(signal)
    else {
      await withTimeLimit(origin.upstream, headerBudgetMs, HEADER_BUDGET_IS_OVER, signal, begins, (late) => {
        if (fill.queued && (size ?? 0) > HOLD_BACK) return
        if (!fill.queued) origin.state.failed(name, late)
        throw refusal(late)
      })
    }
  } catch (error) {
    await follower[Symbol.asyncDispose]()
    throw error
  }
  client.promised = true
  return follower
}

/** Hashes what the client got before the disk gave up. */
async function readAgain(
  from: GrowingSource,
  to: Bytes,
  digest: Digest,
  signal: AbortSignal,
): Promise<Given> {
  const hash = createHash(algorithmOf(digest))
  const buffer = Buffer.allocUnsafe(STEP)
  for (let position = 0; position < to;) {
    signal.throwIfAborted()
    const length = await from.read(buffer.subarray(0, Math.min(STEP, to - position)), position)
    hash.update(buffer.subarray(0, length))
    position += length
  }
  return { hash, length: to }
}
