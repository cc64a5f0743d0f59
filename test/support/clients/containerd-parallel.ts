/**
 * containerd's download of one blob over several connections (2.1 and later, when it is configured).
 *
 * Each piece is an open-ended range whose connection is closed as soon as the piece is there. A piece that is
 * refused is asked of no other host: the whole blob fails with it, and so does what was still being read.
 */
import type { Strand } from './strand.ts'
import { PullError, type Answer } from './wire.ts'

export interface Pieces {
  /** Bytes. */
  readonly size: number
  readonly atOnce: number
}

interface Parallel {
  readonly strand: Strand
  /** To the first request, from `offset` on. */
  readonly answer: Answer
  readonly ask: (from: number, strand: Strand) => Promise<Answer>
  readonly offset: number
  /** Bytes from `offset` on. */
  readonly rest: number
  readonly pieces: Pieces
}

/** One piece failed, and with it those that were on their way and would have been good. */
export class CanceledError extends PullError {
  override readonly name = 'CanceledError'
}

interface Piece {
  readonly bytes: Buffer
  /** Why there are no more of them. */
  readonly failure: Error | undefined
}

/** The bytes in their order. */
export async function* openParallel(parallel: Parallel): AsyncGenerator<Buffer, void, undefined> {
  const { strand, answer, ask, offset, rest, pieces } = parallel
  const starts = Array.from({ length: Math.ceil(rest / pieces.size) }, (_, i) => offset + i * pieces.size)
  const arriving = new Map(starts.map((from) => [from, Promise.withResolvers<Piece>()]))
  const ended = strand.all(pieces.atOnce, starts, async (from, strand) => {
    const piece = await take(
      () => (from === offset ? Promise.resolve(answer) : ask(from, strand)),
      pieces.size,
    )
    const canceled = strand.signal.aborted && piece.failure !== undefined
    const failure = canceled ? new CanceledError('context canceled') : piece.failure
    arriving.get(from)?.resolve({ ...piece, failure })
    if (failure !== undefined) throw failure
  })
  // Those that have not begun when the others are called off never will.
  const settled = ended.then(
    () => undefined,
    (error: unknown) => {
      for (const { resolve } of arriving.values())
        resolve({ bytes: Buffer.alloc(0), failure: error as Error })
    },
  )
  try {
    for (const { promise } of arriving.values()) {
      const { bytes, failure } = await promise
      yield bytes
      if (failure !== undefined) throw failure
    }
  } finally {
    await settled
  }
}

async function take(open: () => Promise<Answer>, most: number): Promise<Piece> {
  const chunks: Buffer[] = []
  let size = 0
  let failure: Error | undefined
  try {
    for await (const chunk of (await open()).chunks()) {
      const wanted = chunk.subarray(0, most - size)
      chunks.push(wanted)
      size += wanted.length
      if (size === most) break
    }
  } catch (error) {
    failure = error as Error
  }
  return { bytes: Buffer.concat(chunks), failure }
}
