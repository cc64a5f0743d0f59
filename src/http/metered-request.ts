/**
 * A request that looks at the chunks of its body: where they are of a few bytes each its body ends, and whatever else
 * comes of it is dropped.
 */
import { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
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
    pauseParser(this.socket)
    return false
  }
}

/**
 * Of what has been read from the socket, up to 64 KiB, the rest is not parsed: of a body of one-byte chunks these are
 * 10,000 calls, and as many connections come at once as a stranger likes. The parser is Node's own affair; where it
 * cannot be paused the rest is dropped chunk by chunk.
 */
function pauseParser(socket: Socket & { readonly parser?: { readonly pause?: () => void } | null }): void {
  socket.parser?.pause?.()
}
