/** Writes a response piece by piece, with backpressure, and learns when a piece is sent or the client has left. */
import type { ServerResponse } from 'node:http'

export class ResponseWriter implements Disposable {
  readonly #response: ServerResponse
  readonly #signal: AbortSignal
  #headLeft = false
  /** Rejects the write in progress. */
  #reject: ((reason: Error) => void) | undefined

  /** @param signal aborts when the client leaves: Node calls no write callback of a response that lost its socket */
  constructor(response: ServerResponse, signal: AbortSignal) {
    this.#response = response
    this.#signal = signal
    signal.addEventListener('abort', this.#leave)
  }

  /**
   * Resolves when the kernel has taken the bytes, which must not change until then. One write at a time.
   *
   * @throws the connection's error, or the signal's reason
   */
  write(bytes: Buffer): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#reject = reject
      if (this.#signal.aborted) {
        this.#leave()
        return
      }
      const { socket } = this.#response
      const target = this.#headLeft && socket !== null ? socket : this.#response
      target.write(bytes, (error) => {
        this.#reject = undefined
        if (error) reject(error)
        else resolve()
      })
    })
  }

  /**
   * From now on pieces go straight to the socket: the head is sent and the body has no chunked framing. Passing through
   * the response is a good part of what a small piece costs.
   */
  headHasLeft(): void {
    this.#headLeft = true
  }

  [Symbol.dispose](): void {
    this.#signal.removeEventListener('abort', this.#leave)
  }

  readonly #leave = (): void => {
    this.#reject?.(this.#signal.reason as Error)
  }
}
