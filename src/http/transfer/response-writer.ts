/**
 * A response, for whoever writes to it piece by piece and wants to hear when a piece has gone, or the client.
 */
import type { ServerResponse } from 'node:http'

export class ResponseWriter implements Disposable {
  readonly #response: ServerResponse
  readonly #signal: AbortSignal
  #headLeft = false
  /** Of the piece that is on its way. */
  #reject: ((reason: Error) => void) | undefined

  /** @param signal aborts when the client leaves: a response that lost its socket calls nobody back */
  constructor(response: ServerResponse, signal: AbortSignal) {
    this.#response = response
    this.#signal = signal
    signal.addEventListener('abort', this.#leave)
  }

  /**
   * Resolves when the kernel has taken it; until then the bytes must stay as they are. One at a time.
   *
   * @throws what went wrong with the connection, or the signal's reason
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
   * The head has left, and what follows goes out as it is: from now on it need not pass through the response, which
   * takes a good part of what a small piece costs.
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
