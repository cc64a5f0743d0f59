/**
 * Disk usage of the mirror: what it has on the disk, and what its running downloads are still going to take.
 *
 * The index knows the bytes of blobs, the folder of partial files those of downloads. An admitted download counts
 * with its whole size from the start: else a hundred that begin together would each find room for one.
 */
import type { Bytes } from '../../base/units.ts'
import type { EvictionIndex } from '../../storage/metadata/eviction-index.ts'
import type { IngestIdentity, IngestStore, PartialDownload } from '../../storage/ingest/ingest.ts'
import { LOCAL } from '../../storage/metadata/metadata.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import type { SpaceReservation } from './disk-space.ts'

/** By registry; the empty key holds the bytes of which no upstream is known. */
type Shares = ReadonlyMap<string, Bytes>

export interface Usage {
  /** Blobs and partial downloads. */
  readonly onDisk: Shares
  /** Compared with the budgets: it includes the bytes still to come, and leaves out what will not stay. */
  readonly budgeted: Shares
  /** Size of the index itself, as far as it counts in the budget of the whole mirror. */
  readonly indexed: Bytes
  /** Bytes that running downloads have reserved and not written yet. */
  readonly outstanding: Bytes
  readonly pushed: Bytes
}

interface Admitted extends IngestIdentity {
  readonly size: Bytes
  readonly stays: boolean
}

/** The index counts only above this size: that much holds some hundred images, and an empty index is in no budget. */
const NOT_COUNTED: Bytes = 1024 * 1024

export class CacheUsage {
  readonly #index: Pick<EvictionIndex, 'stored' | 'mirrored'>
  readonly #ingests: Pick<IngestStore, 'downloads'>
  readonly #metrics: Pick<Metrics, 'cacheBytes' | 'pushedBytes' | 'indexBytes'>
  readonly #admitted = new Set<Admitted>()

  constructor(options: {
    index: Pick<EvictionIndex, 'stored' | 'mirrored'>
    ingests: Pick<IngestStore, 'downloads'>
    metrics: Pick<Metrics, 'cacheBytes' | 'pushedBytes' | 'indexBytes'>
  }) {
    this.#index = options.index
    this.#ingests = options.ingests
    this.#metrics = options.metrics
  }

  async measure(): Promise<Usage> {
    const { mirrored, pushed, index } = await this.#index.stored()
    const onDisk = new Map(mirrored)
    const budgeted = new Map(mirrored)
    for (const it of this.#downloads()) {
      add(onDisk, it.source, it.bytes)
      if (!it.disowned) add(budgeted, it.source, it.bytes)
    }
    const here = this.#here()
    for (const it of this.#admitted) {
      const came = here.get(keyOf(it))
      // A download without a partial file whose blob is in the index has been adopted: its whole size has come.
      const arrived = came === undefined && (await this.#index.mirrored(it.digest)) !== undefined
      if (it.stays && !arrived) add(budgeted, it.source, Math.max(it.size - (came ?? 0), 0))
    }
    this.#show(onDisk, pushed, index)
    const indexed = Math.max(index - NOT_COUNTED, 0)
    return { onDisk, budgeted, indexed, outstanding: this.outstanding, pushed }
  }

  /** Bytes that were admitted and have not come yet. */
  get outstanding(): Bytes {
    const here = this.#here()
    let bytes = 0
    for (const it of this.#admitted) bytes += Math.max(it.size - (here.get(keyOf(it)) ?? 0), 0)
    return bytes
  }

  /** True when a download was admitted that will go on with this partial file. */
  expects({ source, digest }: IngestIdentity): boolean {
    return [...this.#admitted].some((it) => it.source === source && it.digest === digest)
  }

  /** @param size 0 when it is unknown */
  admit({ source, digest }: IngestIdentity, size: Bytes, as: 'keep' | 'transient'): SpaceReservation {
    const admitted = { source, digest, size, stays: as === 'keep' }
    this.#admitted.add(admitted)
    return { as, [Symbol.dispose]: () => this.#admitted.delete(admitted) }
  }

  /** A restore writes pushed content, which is no part of the mirror. */
  #downloads(): PartialDownload[] {
    return this.#ingests.downloads().filter(({ source }) => source !== LOCAL)
  }

  /** Bytes of each partial download on the disk, whether or not it is running. */
  #here(): Map<string, Bytes> {
    const here = new Map<string, Bytes>()
    for (const it of this.#downloads()) add(here, keyOf(it), it.bytes)
    return here
  }

  #show(onDisk: Shares, pushed: Bytes, index: Bytes): void {
    const { cacheBytes, pushedBytes, indexBytes } = this.#metrics
    indexBytes.set(index)
    cacheBytes.reset()
    for (const [registry, bytes] of onDisk) {
      cacheBytes.set({ upstream: registry === '' ? 'unknown' : registry }, bytes)
    }
    pushedBytes.set(pushed)
  }
}

export function sumOf(shares: Shares): Bytes {
  let sum = 0
  for (const bytes of shares.values()) sum += bytes
  return sum
}

function add(shares: Map<string, Bytes>, registry: string, bytes: Bytes): void {
  shares.set(registry, (shares.get(registry) ?? 0) + bytes)
}

function keyOf({ source, digest }: IngestIdentity): string {
  return `${source} ${digest}`
}
