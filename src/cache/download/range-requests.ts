/**
 * Range requests of one download: which of them writes which bytes of its file.
 *
 * Every byte belongs to one request at the most: a request ends where another has begun, or where bytes are already.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import type { Ingest } from '../../storage/ingest/ingest.ts'

export interface RequestedRange {
  readonly start: Bytes
  /** Exclusive; Infinity: the blob's end, wherever that is. */
  readonly end: Bytes
}

/**
 * - `main`: brings the bytes that all wait for, so it may take a body from its beginning and skip what is here
 * - `piece`: brings a segment that they will wait for
 * - `far`: brings what a reader far ahead of the rest waits for
 */
type RunKind = 'main' | 'piece' | 'far'

/** Throughput is measured over so long. */
const LOOK_BACK: Milliseconds = 2_000

/** One request in flight: the bytes of [start, position) are there, and position moves. */
export class RangeRequest implements RequestedRange {
  readonly kind: RunKind
  readonly start: Bytes
  end: Bytes
  position: Bytes
  /** Bytes up to here have come; those from `position` on are being written. */
  taken: Bytes
  readonly beganAt: Milliseconds
  readonly #over = new AbortController()
  #looks: { readonly at: Milliseconds; readonly taken: Bytes }[] = []

  constructor(kind: RunKind, { start, end }: RequestedRange, now: Milliseconds) {
    this.kind = kind
    this.start = start
    this.position = start
    this.taken = start
    this.end = end
    this.beganAt = now
    this.#looks.push({ at: now, taken: start })
  }

  /** Aborts when another request brings the rest of it. */
  get over(): AbortSignal {
    return this.#over.signal
  }

  leave(): void {
    this.#over.abort(new Error('somebody else brings the rest of it'))
  }

  /** To be called every second or so. */
  look(now: Milliseconds): void {
    this.#looks.push({ at: now, taken: this.taken })
    while ((this.#looks[1]?.at ?? now) <= now - LOOK_BACK) this.#looks.shift()
  }

  /** Throughput of late in bytes per millisecond; undefined while the request is too young to tell. */
  rate(now: Milliseconds): number | undefined {
    const [first] = this.#looks
    if (first === undefined || now - first.at < LOOK_BACK) return undefined
    return (this.taken - first.taken) / (now - first.at)
  }
}

export class RangeRequests {
  readonly #ingest: Ingest
  readonly #runs = new Set<RangeRequest>()

  constructor(ingest: Ingest) {
    this.#ingest = ingest
  }

  get all(): readonly RangeRequest[] {
    return [...this.#runs]
  }

  get size(): number {
    return this.#runs.size
  }

  add(run: RangeRequest): void {
    this.#runs.add(run)
  }

  delete(run: RangeRequest): void {
    this.#runs.delete(run)
  }

  count(kind: RunKind): number {
    let count = 0
    for (const run of this.#runs) if (run.kind === kind) count += 1
    return count
  }

  /** True where a request is just writing. */
  covers(position: Bytes): boolean {
    return this.all.some(
      (run) =>
        position >= run.start && position <= run.position && (!run.over.aborted || position < run.taken),
    )
  }

  /** Where that request must stop: the blob's end, bytes that are here, or where another request began. */
  limitOf(run: RangeRequest, size: Bytes | undefined): Bytes {
    if (run.over.aborted) return run.taken
    let limit = Math.min(run.end, size ?? run.end, this.#ingest.nextExtent(run.position))
    for (const other of this.#runs) {
      if (other === run || other.over.aborted || other.start < run.position) continue
      limit = Math.min(limit, other.start)
    }
    return limit
  }

  /** The first range before `size` that is neither here nor on its way. */
  firstGap(size: Bytes): RequestedRange | undefined {
    let start = this.#ingest.prefix
    for (let moved = true; moved;) {
      const before = start
      start = this.#ingest.readableTo(start)
      for (const run of this.#runs) {
        if (run.start <= start) start = Math.max(start, this.limitOf(run, size))
      }
      moved = start !== before
    }
    if (start >= size) return undefined
    const limits = this.all.map((run) => run.start).filter((it) => it > start)
    return { start, end: Math.min(size, this.#ingest.nextExtent(start), ...limits) }
  }
}
