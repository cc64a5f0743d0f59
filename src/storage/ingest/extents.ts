/**
 * Extent map: which byte ranges of a file have been written.
 *
 * The ranges are half-open and sorted; those that touch are merged.
 */
import type { Bytes } from '../../base/units.ts'

interface Extent {
  readonly start: Bytes
  /** Exclusive. */
  readonly end: Bytes
}

export class ExtentMap {
  #extents: Extent[] = []

  add(start: Bytes, end: Bytes): void {
    if (end <= start) return
    const first = this.#firstEndingAt(start)
    let last = first
    let merged: Extent = { start, end }
    for (let next = this.#extents[last]; next && next.start <= merged.end; next = this.#extents[++last]) {
      merged = { start: Math.min(merged.start, next.start), end: Math.max(merged.end, next.end) }
    }
    this.#extents.splice(first, last - first, merged)
  }

  /** End of the bytes that are there from 0 on. */
  get prefix(): Bytes {
    return this.readableTo(0)
  }

  /** Where the last extent ends: the least size of the file. */
  get end(): Bytes {
    return this.#extents.at(-1)?.end ?? 0
  }

  get bytes(): Bytes {
    return this.#extents.reduce((sum, { start, end }) => sum + end - start, 0)
  }

  /** End of the bytes that are there from `position` on; `position` when there are none. */
  readableTo(position: Bytes): Bytes {
    const extent = this.#extents[this.#firstEndingAt(position)]
    return extent && extent.start <= position ? extent.end : position
  }

  /** Start of the first extent at or after `position`; Infinity when there is none. */
  nextStart(position: Bytes): Bytes {
    for (let i = this.#firstEndingAt(position); i < this.#extents.length; i++) {
      const start = this.#extents[i]?.start ?? Infinity
      if (start >= position) return start
    }
    return Infinity
  }

  /** The parts of [start, end) that are missing. */
  gaps(start: Bytes, end: Bytes): Extent[] {
    const gaps: Extent[] = []
    for (let from = this.readableTo(start); from < end;) {
      const to = Math.min(end, this.nextStart(from))
      gaps.push({ start: from, end: to })
      from = this.readableTo(to)
    }
    return gaps
  }

  /** Forgets the bytes at or beyond `size`. */
  clip(size: Bytes): void {
    this.#extents = this.#extents
      .map(({ start, end }) => ({ start, end: Math.min(end, size) }))
      .filter(({ start, end }) => start < end)
  }

  copy(): ExtentMap {
    const copy = new ExtentMap()
    copy.#extents = [...this.#extents]
    return copy
  }

  toJSON(): [Bytes, Bytes][] {
    return this.#extents.map(({ start, end }) => [start, end])
  }

  /** Reads the result of {@link toJSON}. @returns undefined for anything but sorted ranges of safe integers */
  static parse(value: unknown): ExtentMap | undefined {
    if (!Array.isArray(value)) return undefined
    const map = new ExtentMap()
    let least = 0
    for (const pair of value as unknown[]) {
      if (!Array.isArray(pair) || pair.length !== 2) return undefined
      const [start, end] = pair as unknown[]
      if (!Number.isSafeInteger(start) || !Number.isSafeInteger(end)) return undefined
      const extent = { start: start as Bytes, end: end as Bytes }
      if (extent.start < least || extent.end <= extent.start) return undefined
      map.#extents.push(extent)
      least = extent.end + 1
    }
    return map
  }

  /** Index of the first extent that ends at `position` or later. */
  #firstEndingAt(position: Bytes): number {
    let low = 0
    let high = this.#extents.length
    while (low < high) {
      const middle = (low + high) >> 1
      if ((this.#extents[middle]?.end ?? Infinity) < position) low = middle + 1
      else high = middle
    }
    return low
  }
}
