/**
 * Guard against floods of tiny chunks: the body of such a request is ended early, and the rest of it is dropped.
 * A request without a chunked body, as every pull is, costs nothing here.
 */
import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { SmallChunks } from '../base/small-chunks.ts'

export class ChunkMeter {
  readonly #chunks = new SmallChunks()
  #tooSmall = false

  private constructor(request: IncomingMessage) {
    const push = request.push.bind(request)
    // The parser calls `push` for each chunk, and with null at the end.
    request.push = (chunk: Buffer | null, encoding?: BufferEncoding): boolean => {
      if (this.#tooSmall) return false
      if (chunk === null || !this.#chunks.areTooSmall(chunk.length)) return push(chunk, encoding)
      this.#tooSmall = true
      // Else Node would take the early end for a client that left.
      request.complete = true
      push(null)
      pauseParser(request.socket)
      return false
    }
  }

  /** Must be called before the first chunk is parsed. @returns undefined where the body is not chunked */
  static of(request: IncomingMessage): ChunkMeter | undefined {
    return request.headers['transfer-encoding'] === undefined ? undefined : new ChunkMeter(request)
  }

  /** The end that the body's reader saw is not the true one. */
  get tooSmall(): boolean {
    return this.#tooSmall
  }
}

/**
 * Stops the parser within the data already read from the socket: 64 KiB of one-byte chunks are 10,000 calls, on as many
 * connections as an attacker opens. `parser` is internal to Node; where it cannot be paused the rest is dropped chunk
 * by chunk.
 */
function pauseParser(socket: Socket & { readonly parser?: { readonly pause?: () => void } | null }): void {
  socket.parser?.pause?.()
}
