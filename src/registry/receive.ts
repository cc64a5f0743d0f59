/**
 * A request's body into an upload: the next piece is read while the last one is written.
 *
 * What is not written yet is little, however fast the client and slow the disk: beyond that nothing is read.
 */
import type { UploadIngest } from '../store/ingest.ts'
import { giveBack } from '../store/young-garbage.ts'

type Bytes = number

/** Of one body, not yet given to the disk. One write of what has gathered meanwhile costs less than many. */
const MOST_HELD: Bytes = 512 * 1024

/** The disk did not take it, whatever the body would still have brought. */
export class WriteError extends Error {
  override readonly name = 'WriteError'
}

/**
 * Appends the body, or its first `limit` bytes.
 *
 * @returns the bytes of the body; more than `limit` when it went on beyond
 * @throws WriteError, or what the body throws: what came before that is written
 */
export async function receive(
  body: AsyncIterable<Buffer>,
  ingest: Pick<UploadIngest, 'prefix' | 'write'>,
  limit: Bytes,
): Promise<Bytes> {
  let received = 0
  let held = 0
  let waiting: Buffer[] = []
  let writing: Promise<void> | undefined
  let failure: WriteError | undefined

  const writeAll = async (): Promise<void> => {
    try {
      while (waiting.length > 0) {
        const chunks = waiting
        waiting = []
        await ingest.write(chunks, ingest.prefix)
        held -= lengthOf(chunks)
        giveBack(chunks)
      }
    } catch (cause) {
      failure = new WriteError('an upload could not be written', { cause })
    } finally {
      writing = undefined
    }
  }

  try {
    for await (const chunk of body) {
      const wanted = chunk.subarray(0, Math.max(0, limit - received))
      received += chunk.length
      if (wanted.length > 0) {
        waiting.push(wanted)
        held += wanted.length
        writing ??= writeAll()
      }
      if (held >= MOST_HELD) await writing
      if (failure !== undefined || received > limit) break
    }
  } finally {
    await writing
  }
  if (failure !== undefined) throw failure
  return received
}

function lengthOf(chunks: readonly Buffer[]): Bytes {
  return chunks.reduce((sum, chunk) => sum + chunk.length, 0)
}
