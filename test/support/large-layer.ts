/**
 * A layer of any size that nobody holds: every byte tells where it is.
 */
import type { Content } from './images.ts'
import { parseDigest } from '../../src/oci/digest.ts'

/** Longer stretches are only described. */
const MOST_MADE = 1024 * 1024

export function bytesAt(start: number, end: number): Buffer {
  const bytes = Buffer.alloc(end - start)
  // Eight bytes together are the number of their group.
  for (let group = Math.floor(start / 8); group * 8 < end; group += 1) {
    const word = Buffer.alloc(8)
    word.writeBigUInt64BE(BigInt(group))
    const from = Math.max(start, group * 8)
    word.copy(bytes, from - start, from - group * 8, Math.min(8, end - group * 8))
  }
  return bytes
}

/** As much of a Buffer as the simulator looks at. */
class Described {
  readonly #start: number
  readonly length: number

  constructor(start: number, length: number) {
    this.#start = start
    this.length = length
  }

  subarray(from = 0, to = this.length): Described | Buffer {
    const [start, end] = [this.#start + from, this.#start + to]
    return end - start <= MOST_MADE ? bytesAt(start, end) : new Described(start, end - start)
  }
}

/** Nobody will ever have all of it: its digest is of nothing. */
export function largeLayer(size: number): Content {
  return {
    mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip',
    digest: parseDigest(`sha256:${'5'.repeat(64)}`),
    // The simulator asks it for no more than its length and its parts.
    bytes: new Described(0, size) as unknown as Buffer,
  }
}
