/**
 * A stored blob, or a range of it, as bytes in order. The reader stays its owner's.
 */
import type { Bytes } from '../../base/units.ts'
import type { BlobReader, ByteSource, StoredRange } from '../../storage/blobs/blob-store.ts'
import type { ByteRange } from '../answers.ts'

export class StoredSource implements ByteSource {
  readonly #reader: BlobReader
  readonly #end: Bytes
  #position: Bytes

  constructor(reader: BlobReader, range: ByteRange | undefined) {
    this.#reader = reader
    this.#position = range?.start ?? 0
    this.#end = range?.end ?? reader.size
  }

  get stored(): StoredRange | undefined {
    const { descriptor } = this.#reader
    if (descriptor === undefined) return undefined
    const read = (buffer: Buffer, position: Bytes): Promise<Bytes> => this.#reader.read(buffer, position)
    return { descriptor, start: this.#position, end: this.#end, read }
  }

  async read(buffer: Buffer, signal: AbortSignal): Promise<Bytes> {
    signal.throwIfAborted()
    const want = Math.min(buffer.length, this.#end - this.#position)
    if (want <= 0) return 0
    const length = await this.#reader.read(buffer.subarray(0, want), this.#position)
    if (length === 0)
      throw new Error(`the blob's file is shorter than it was: ${String(this.#position)} bytes`)
    this.#position += length
    return length
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // The reader is closed by its owner.
  }
}
