/**
 * A request that looks at the chunks of its body: where they are of a few bytes each its body ends, and whatever else
 * comes of it is dropped.
 */
import { IncomingMessage } from 'node:http'
import { SmallChunks } from '../oci/small-chunks.ts'

export class MeteredRequest extends IncomingMessage {
  #chunked: boolean | undefined
  #tooSmall = false
  readonly #chunks = new SmallChunks()

  /** Nobody knows its length before its end. */
  get isChunked(): boolean {
    return (this.#chunked ??= this.headers['transfer-encoding'] !== undefined)
  }

  /** Whoever reads the body has come to an end that is none. */
  get chunksAreTooSmall(): boolean {
    return this.#tooSmall
  }

  /** Called by the parser, once for each chunk, and with null at the end. */
  override push(chunk: Buffer | null, encoding?: BufferEncoding): boolean {
    if (this.#tooSmall) return false
    if (chunk === null || !this.isChunked || !this.#chunks.areTooSmall(chunk.length)) {
      return super.push(chunk, encoding)
    }
    this.#tooSmall = true
    // Else Node takes its end for the client's leaving.
    this.complete = true
    super.push(null)
    return false
  }
}
