/**
 * Detects retransmitted upload bytes: a client that got no answer sends its request again.
 *
 * Without `Content-Range` a request does not tell its offset. Where the client may mean an offset below the end, the
 * body is compared with the bytes that are here: as long as they are equal the body counts as a repetition, and only
 * what exceeds the end is new.
 */
import type { Bytes } from '../../base/units.ts'
import type { UploadIngest } from '../../storage/ingest/ingest.ts'

type Received = Pick<UploadIngest, 'prefix' | 'read'>

/** Bytes that were taken for a repetition, though the client may have meant to append them. */
export interface Repetition {
  /** Offset at which they would have been appended. */
  readonly at: Bytes
  /** Offset of the equal bytes. */
  readonly from: Bytes
  readonly length: Bytes
}

/** Content of a session without a file. */
const NOTHING: Received = { prefix: 0, read: () => Promise.resolve(0) }

/** Bytes read back at once. */
const PIECE: Bytes = 256 * 1024

export class Retransmission {
  /** Offset of the request's first byte; undefined: not known yet. */
  start: Bytes | undefined
  repetition: Repetition | undefined
  readonly #here: Received
  readonly #end: Bytes
  #starts: readonly Bytes[]

  /** @param starts offsets below the end at which the request may begin */
  constructor(here: Received = NOTHING, starts: readonly Bytes[]) {
    this.#here = here
    this.#end = here.prefix
    this.#starts = [...new Set(starts)].filter((start) => start < this.#end).sort((one, other) => other - one)
  }

  /** The bytes of the body to append. */
  async *newBytes(body: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void, undefined> {
    let same: Bytes = 0
    for await (const chunk of body) {
      if (this.start !== undefined) {
        yield chunk
        continue
      }
      const [from = this.#end] = this.#starts
      this.#starts = await this.#agreeing(chunk, same)
      if (this.#starts.length === 0) {
        this.start = this.#end
        yield* this.#read(from, same)
        yield chunk
        continue
      }
      same += chunk.length
      const beyond = this.#reached(same)
      if (beyond !== undefined && beyond > 0) yield chunk.subarray(chunk.length - beyond)
    }
    const [start] = this.#starts
    if (this.start === undefined && start !== undefined && same > 0) {
      this.start = start
      this.repetition = { at: this.#end, from: start, length: same }
    }
  }

  /** @returns number of bytes beyond the end; undefined: the body has not reached the end */
  #reached(same: Bytes): Bytes | undefined {
    const start = this.#starts.find((it) => it + same >= this.#end)
    if (start === undefined) return undefined
    this.start = start
    this.repetition = { at: this.#end, from: start, length: this.#end - start }
    return start + same - this.#end
  }

  async #agreeing(chunk: Buffer, same: Bytes): Promise<Bytes[]> {
    const agreeing: Bytes[] = []
    for (const start of this.#starts) {
      const length = Math.min(chunk.length, this.#end - start - same)
      let at = 0
      for await (const piece of this.#read(start + same, length)) {
        if (!piece.equals(chunk.subarray(at, at + piece.length))) break
        at += piece.length
      }
      if (at === length) agreeing.push(start)
    }
    return agreeing
  }

  #read(position: Bytes, length: Bytes): AsyncGenerator<Buffer, void, undefined> {
    return readBack(this.#here, position, length)
  }
}

/** All bytes, with every repetition inserted where the client may have meant it. */
export async function* withRepetitions(
  here: Received,
  repetitions: readonly Repetition[],
): AsyncGenerator<Buffer, void, undefined> {
  let position: Bytes = 0
  for (const { at, from, length } of repetitions) {
    yield* readBack(here, position, at - position)
    yield* readBack(here, from, length)
    position = at
  }
  yield* readBack(here, position, here.prefix - position)
}

async function* readBack(
  here: Received,
  position: Bytes,
  length: Bytes,
): AsyncGenerator<Buffer, void, undefined> {
  for (let at = position; at < position + length;) {
    // Each piece has its own buffer, because the consumer may still be writing the last one.
    const buffer = Buffer.allocUnsafe(Math.min(PIECE, position + length - at))
    const count = await here.read(buffer, at)
    if (count === 0) throw new Error('the file is shorter than was written to it')
    yield buffer.subarray(0, count)
    at += count
  }
}
