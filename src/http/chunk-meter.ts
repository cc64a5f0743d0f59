/**
 * Meter of the chunks of a request's body: where they are of a few bytes each its body ends, and whatever else comes of
 * it is dropped. A request without a chunked body, as every pull is, costs nothing here.
 */
import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { SmallChunks } from '../base/small-chunks.ts'

export class ChunkMeter {
  readonly #chunks = new SmallChunks()
  #tooSmall = false

  private constructor(request: IncomingMessage) {
    const push = request.push.bind(request)
    // Called by the parser, once for each chunk, and with null at the end.
    request.push = (chunk: Buffer | null, encoding?: BufferEncoding): boolean => {
      if (this.#tooSmall) return false
      if (chunk === null || !this.#chunks.areTooSmall(chunk.length)) return push(chunk, encoding)
      this.#tooSmall = true
      // Else Node takes its end for the client's leaving.
      request.complete = true
      push(null)
      pauseParser(request.socket)
      return false
    }
  }

  /** @returns undefined where it is not chunked. To be called before the first chunk is parsed. */
  static of(request: IncomingMessage): ChunkMeter | undefined {
    return request.headers['transfer-encoding'] === undefined ? undefined : new ChunkMeter(request)
  }

  /** Whoever reads the body has come to an end that is none. */
  get tooSmall(): boolean {
    return this.#tooSmall
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
