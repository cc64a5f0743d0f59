/**
 * Tells a request that sends bytes again, because it never got its answer, from one that brings the next ones.
 *
 * A request without `Content-Range` does not say where its first byte belongs. Where the client may mean a place of
 * which the bytes are here already, what it sends is compared with them: as long as they are the same it is a
 * repetition, and only what goes on beyond them is new.
 */
import type { Bytes } from '../../base/units.ts'
import type { UploadIngest } from '../../storage/ingest/ingest.ts'

type Received = Pick<UploadIngest, 'prefix' | 'read'>

/** Bytes that were taken for a repetition, and may have been meant to follow. */
export interface Repetition {
  /** Where they would have followed. */
  readonly at: Bytes
  /** Where they are. */
  readonly from: Bytes
  readonly length: Bytes
}

/** Of a session before its first byte. */
const NOTHING: Received = { prefix: 0, read: () => Promise.resolve(0) }

/** Of what is read back at once. */
const PIECE: Bytes = 256 * 1024

export class Retransmission {
  /** Where the request's first byte belongs, once that is known. */
  start: Bytes | undefined
  repetition: Repetition | undefined
  readonly #here: Received
  readonly #end: Bytes
  #starts: readonly Bytes[]

  /** @param starts where the request may begin, if not at the end of what is here */
  constructor(here: Received = NOTHING, starts: readonly Bytes[]) {
    this.#here = here
    this.#end = here.prefix
    this.#starts = [...new Set(starts)].filter((start) => start < this.#end).sort((one, other) => other - one)
  }

  /** What of the body is not here yet; to be written at the end of what is. */
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

  /** @returns how much of what came lies beyond the end of what was here; undefined: that was not reached */
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

/** All of it, with every repetition where it would have followed. */
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
    // A buffer of its own each time: whoever takes it may be slow to write it.
    const buffer = Buffer.allocUnsafe(Math.min(PIECE, position + length - at))
    const count = await here.read(buffer, at)
    if (count === 0) throw new Error('the file is shorter than was written to it')
    yield buffer.subarray(0, count)
    at += count
  }
}
