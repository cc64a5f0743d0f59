/**
 * Eviction in LRU order: takes away what was pulled longest ago, until enough has gone.
 *
 * Abandoned partial downloads go first, then whole images and blobs that belong to none; only when that is not
 * enough, parts of images that are in use. What a client reads or an upstream brings at this moment stays.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import type { Digest } from '../../oci/digest.ts'
import type { EvictionIndex } from '../../storage/metadata/eviction-index.ts'
import type { IngestIdentity, IngestStore, PartialUpload } from '../../storage/ingest/ingest.ts'
import { LOCAL, type EpochMs } from '../../storage/metadata/metadata.ts'
import type { EvictionCandidates, EvictionCandidate } from './candidates.ts'
import { bytesIn, type Removal } from './removal.ts'

export interface Goal {
  /** Is a label of metrics too. */
  readonly why: 'budget' | 'upstream' | 'minFree' | 'disk full' | 'asked'
  readonly bytes: Bytes
  readonly registry?: string
}

export interface Evicted {
  readonly what: EvictionCandidate['is'] | 'download'
  /** As a client pulls it: an image by its tags, or by its digest where it has none. */
  readonly names: readonly string[]
  readonly digest: Digest
  readonly bytes: Bytes
  readonly pulledAt: EpochMs
  readonly why: Goal['why']
}

interface EvictionOptions {
  readonly index: EvictionIndex
  readonly images: EvictionCandidates
  readonly removal: Removal
  readonly ingests: Pick<IngestStore, 'downloads' | 'dropDownload' | 'uploads' | 'dropUpload'>
  /** True when a fill is about to go on with that download. */
  readonly expects: (download: IngestIdentity) => boolean
  readonly now: () => EpochMs
}

/** A client that comes back for the rest of a transfer does so sooner. */
const GIVEN_UP_MS: Milliseconds = 3_600_000

export class EvictionOrder {
  readonly #options: EvictionOptions

  constructor(options: EvictionOptions) {
    this.#options = options
  }

  /** Tells the index the removals that it could not take before. Never rejects. */
  settle(signal: AbortSignal): Promise<void> {
    return this.#options.removal.settle(signal)
  }

  /** The bytes of uploads that stopped for lack of room, or were abandoned. */
  stranded(): Bytes {
    return this.#strandedUploads().reduce((sum, { bytes }) => sum + bytes, 0)
  }

  /** Drops them until so much has gone, the longest idle first. @returns the bytes that the disk got back */
  async dropStranded(bytes: Bytes): Promise<Bytes> {
    let freed: Bytes = 0
    for (const { session } of this.#strandedUploads()) {
      if (freed >= bytes) break
      freed += await this.#options.ingests.dropUpload(session)
    }
    return freed
  }

  #strandedUploads(): PartialUpload[] {
    const { ingests, now } = this.#options
    const idleFor = ({ idleSince }: PartialUpload): Milliseconds =>
      idleSince === undefined ? -1 : Math.max(now() - idleSince, 0)
    return ingests
      .uploads()
      .filter((it) => (it.stranded ? idleFor(it) >= 0 : idleFor(it) > GIVEN_UP_MS))
      .sort((one, other) => idleFor(other) - idleFor(one))
  }

  /** @param dryRun only yields what would go; nothing is changed */
  async *pursue(goal: Goal, dryRun: boolean, signal: AbortSignal): AsyncGenerator<Evicted, void, undefined> {
    let left = goal.bytes
    const { images } = this.#options
    // Filled in a dry run only, in which nothing leaves the index.
    const gone = { manifests: new Set<Digest>(), blobs: new Set<Digest>() }
    const ways = [
      () => this.#downloads(goal, 'given up', dryRun),
      () => this.#take(images.leastRecent(gone.manifests, signal, goal.registry), goal, gone, dryRun, signal),
      () => this.#downloads(goal, 'waiting', dryRun),
      () => this.#take(images.leastRecentParts(signal, goal.registry), goal, gone, dryRun, signal),
    ]
    for (const way of ways) {
      if (left <= 0) return
      for await (const { evicted, counts } of way()) {
        yield evicted
        left -= counts
        if (left <= 0) return
      }
    }
  }

  async *#take(
    candidates: AsyncIterable<EvictionCandidate>,
    { registry, why }: Goal,
    gone: { readonly manifests: Set<Digest>; readonly blobs: Set<Digest> },
    dryRun: boolean,
    signal: AbortSignal,
  ): AsyncGenerator<{ evicted: Evicted; counts: Bytes }> {
    const { removal } = this.#options
    for await (const candidate of candidates) {
      const { is, root, pulledAt } = candidate
      if (gone.blobs.has(root.digest)) continue
      if (removal.isInUse(candidate)) continue
      const names = await this.#namesOf(candidate)
      const parts = dryRun
        ? [...candidate.manifests, ...candidate.blobs]
        : await removal.take(candidate, signal)
      if (parts.length === 0) continue
      if (dryRun) {
        for (const { digest } of candidate.manifests) gone.manifests.add(digest)
        for (const { digest } of candidate.blobs) gone.blobs.add(digest)
      }
      const evicted = { what: is, names, digest: root.digest, bytes: bytesIn(parts), pulledAt, why }
      yield { evicted, counts: bytesIn(parts, registry) }
    }
  }

  async *#downloads(
    { registry, why }: Goal,
    which: 'given up' | 'waiting',
    dryRun: boolean,
  ): AsyncGenerator<{ evicted: Evicted; counts: Bytes }> {
    const { ingests, expects, now } = this.#options
    const idle = ingests.downloads().flatMap((it) => {
      const { idleSince, source } = it
      if (idleSince === undefined || expects(it)) return []
      if (now() - idleSince > GIVEN_UP_MS !== (which === 'given up')) return []
      return registry === undefined || source === registry ? [{ ...it, idleSince }] : []
    })
    for (const it of idle.toSorted((one, other) => one.idleSince - other.idleSince)) {
      const bytes = dryRun ? it.bytes : await ingests.dropDownload(it)
      if (bytes === 0) continue
      const evicted = {
        what: 'download' as const,
        ...{ names: [`${it.source}@${it.digest}`], digest: it.digest, bytes, pulledAt: it.idleSince, why },
      }
      yield { evicted, counts: bytes }
    }
  }

  async #namesOf({ is, root }: EvictionCandidate): Promise<string[]> {
    const { index } = this.#options
    if (is !== 'image') {
      const links = (await index.linkedIn(root.digest)).filter(({ registry }) => registry !== LOCAL)
      // A blob that came under another name has no link: only its upstream is known.
      if (links.length === 0) return [`${root.registry}@${root.digest}`]
      return links.map(({ registry, name }) => `${registry}/${name}@${root.digest}`)
    }
    const holdings = await index.taggedManifests(root.digest, 0)
    return holdings.flatMap(({ repository: { registry, name }, tags }) => {
      if (registry === LOCAL) return []
      const full = `${registry}/${name}`
      return tags.length === 0 ? [`${full}@${root.digest}`] : tags.map((tag) => `${full}:${tag}`)
    })
  }
}
