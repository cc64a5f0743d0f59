/**
 * Guard against chunked bodies in chunks of a few bytes: each chunk costs a turn of the parser, so an attacker with a
 * slow line could keep a whole processor busy. No honest client sends them, for all write what they have buffered.
 */

/** The number of chunks that are judged together, by their average size. */
const CHUNKS = 2048
const LEAST_MEAN = 16

export class SmallChunks {
  #chunks = 0
  #bytes = 0

  /** Must be called with each chunk of the body. */
  areTooSmall(bytes: number): boolean {
    this.#chunks += 1
    this.#bytes += bytes
    if (this.#chunks < CHUNKS) return false
    const tooSmall = this.#bytes < CHUNKS * LEAST_MEAN
    this.#chunks = 0
    this.#bytes = 0
    return tooSmall
  }
}
