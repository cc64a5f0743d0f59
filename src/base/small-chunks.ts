/**
 * Chunked bodies in chunks of a few bytes: every one of them costs a turn of the parser, so that a stranger with a slow
 * line keeps a whole processor busy. Nobody means that; programs write what they have buffered.
 */

/** So many are looked at together, and have to bring so much on the average. */
const CHUNKS = 2048
const LEAST_MEAN = 16

export class SmallChunks {
  #chunks = 0
  #bytes = 0

  /** To be told of each chunk, in order. */
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
