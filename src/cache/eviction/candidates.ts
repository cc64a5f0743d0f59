/**
 * Eviction candidates: the least recently pulled image, and its closure, which goes with it.
 *
 * With a manifest go its children, its layers and its referrers, except what is kept by something else: a manifest
 * that stays, a tag of its own, a pin, a push. An image was last pulled when the latest of its closure was.
 */
import { setImmediate as immediate } from 'node:timers/promises'
import type { Digest } from '../../oci/digest.ts'
import type {
  ColdPart,
  ColdPlace,
  EvictionIndex,
  MirroredBlob,
} from '../../storage/metadata/eviction-index.ts'
import { LOCAL, type EpochMs } from '../../storage/metadata/metadata.ts'
import type { Pins } from './pins.ts'
import type { AccessTimes } from './access-times.ts'

interface CachedImagesOptions {
  readonly index: EvictionIndex
  readonly accessTimes: Pick<AccessTimes, 'latest'>
  readonly pins: Pick<Pins, 'by' | 'byLink'>
}

/** A manifest with its closure; a blob that no manifest references; a config or layer of an image that stays. */
export interface EvictionCandidate {
  readonly is: 'image' | 'blob' | 'part'
  readonly root: MirroredBlob
  /** The root first; empty unless it is an image. */
  readonly manifests: readonly MirroredBlob[]
  readonly blobs: readonly MirroredBlob[]
  /** The latest pull of any of them. */
  readonly pulledAt: EpochMs
}

/** With more parents than these the search stops, and the blob is treated as referenced. */
const MANY = 1_000

export class EvictionCandidates {
  readonly #options: CachedImagesOptions

  constructor(options: CachedImagesOptions) {
    this.#options = options
  }

  /**
   * Images and single blobs, least recently pulled first, without the pinned ones.
   *
   * @param gone manifests that count as removed already
   * @param registry yields only what came from it
   */
  async *leastRecent(
    gone: ReadonlySet<Digest>,
    signal: AbortSignal,
    registry?: string,
  ): AsyncGenerator<EvictionCandidate> {
    const { index, accessTimes, pins } = this.#options
    const line = new Line()
    for await (const { found, reached } of parts((after) => index.coldest(after), signal)) {
      for (const it of found) {
        if (registry !== undefined && it.registry !== registry) continue
        line.put({ at: accessTimes.latest(it.digest, it.pulledAt), root: it })
      }
      for (let next = line.take(reached); next !== undefined; next = line.take(reached)) {
        await breathe(signal)
        // The pins are read first: the closure takes longer to find out.
        const { digest } = next.root
        if (((await pins.by(digest)) ?? (await pins.byLink(digest))) !== undefined) continue
        const candidate = await this.closureOf(next.root.digest, gone)
        if (candidate === undefined) continue
        // A part of it was pulled later: its turn comes then.
        if (candidate.pulledAt > next.at) line.put({ at: candidate.pulledAt, root: next.root })
        else yield candidate
      }
    }
  }

  /** Configs and layers of images that stay, least recently pulled first; never of what is pinned or was pushed. */
  async *leastRecentParts(signal: AbortSignal, registry?: string): AsyncGenerator<EvictionCandidate> {
    const { index, accessTimes } = this.#options
    const line = new Line()
    for await (const { found, reached } of parts((after) => index.coldestParts(after), signal)) {
      for (const it of found) {
        if (registry !== undefined && it.registry !== registry) continue
        line.put({ at: accessTimes.latest(it.digest, it.pulledAt), root: it })
      }
      for (let next = line.take(reached); next !== undefined; next = line.take(reached)) {
        await breathe(signal)
        const { at: pulledAt, root } = next
        if (await this.#isKept(root.digest)) continue
        yield { is: 'part', root, manifests: [], blobs: [root], pulledAt }
      }
    }
  }

  /** @returns undefined when it is not here any more, or was pushed */
  async closureOf(digest: Digest, gone: ReadonlySet<Digest>): Promise<EvictionCandidate | undefined> {
    const { index, pins, accessTimes } = this.#options
    const root = await index.mirrored(digest)
    if (root === undefined) return undefined
    const manifests = new Map<Digest, MirroredBlob>()
    const blobs = new Map<Digest, MirroredBlob>()
    if ((await index.taggedManifests(digest, 0)).length > 0) await this.#addManifests(root, manifests, gone)
    else blobs.set(digest, root)
    for (const manifest of manifests.keys()) {
      for (const it of await index.contents(manifest, 'blob')) {
        if (manifests.has(it.digest) || blobs.has(it.digest)) continue
        // A manifest goes only as an image of its own, even where another manifest names it as a layer.
        if ((await index.taggedManifests(it.digest, 0)).length > 0) continue
        if ((await pins.byLink(it.digest)) !== undefined) continue
        if (!(await this.#isNamed(it.digest, gone, manifests))) blobs.set(it.digest, it)
      }
    }
    const all = [...manifests.values(), ...blobs.values()]
    return {
      is: manifests.size > 0 ? 'image' : 'blob',
      root,
      manifests: [...manifests.values()],
      blobs: [...blobs.values()],
      pulledAt: Math.max(...all.map((it) => accessTimes.latest(it.digest, it.pulledAt))),
    }
  }

  async #addManifests(
    root: MirroredBlob,
    manifests: Map<Digest, MirroredBlob>,
    gone: ReadonlySet<Digest>,
  ): Promise<void> {
    const { index, pins } = this.#options
    const next = [root]
    for (let it = next.pop(); it !== undefined; it = next.pop()) {
      manifests.set(it.digest, it)
      for (const child of await index.contents(it.digest, 'manifest')) {
        if (manifests.has(child.digest)) continue
        const tagged = (await index.taggedManifests(child.digest, 0)).some(({ tags }) => tags.length > 0)
        if (tagged || (await pins.by(child.digest)) !== undefined) continue
        if (!(await this.#isNamed(child.digest, gone, manifests))) next.push(child)
      }
      for (const digest of await index.referring(it.digest)) {
        const referrer = manifests.has(digest) ? undefined : await index.mirrored(digest)
        if (referrer === undefined || (await pins.by(digest)) !== undefined) continue
        if (!(await this.#isNamed(digest, gone, manifests))) next.push(referrer)
      }
    }
  }

  /** True when a manifest that stays references it. */
  async #isNamed(
    digest: Digest,
    gone: ReadonlySet<Digest>,
    going: ReadonlyMap<Digest, unknown>,
  ): Promise<boolean> {
    const naming = await this.#options.index.referencedBy(digest, { limit: gone.size + going.size + 1 })
    return naming.some((manifest) => !gone.has(manifest) && !going.has(manifest))
  }

  /** True when a pin or a pushed manifest keeps it, directly or through an index that references its parent. */
  async #isKept(digest: Digest): Promise<boolean> {
    const { index, pins } = this.#options
    if ((await pins.byLink(digest)) !== undefined) return true
    const seen = new Set<Digest>()
    const next = await index.referencedBy(digest, { limit: MANY })
    for (let it = next.pop(); it !== undefined; it = next.pop()) {
      if (seen.has(it)) continue
      seen.add(it)
      if (seen.size >= MANY) return true
      const holding = await index.taggedManifests(it, 0)
      if (holding.some(({ repository }) => repository.registry === LOCAL)) return true
      if ((await pins.by(it)) !== undefined) return true
      next.push(...(await index.referencedBy(it, { limit: MANY })))
    }
    return false
  }
}

/** Reads the index in pages; nothing after a page was pulled before its `reached`. */
async function* parts(
  read: (after: ColdPlace | undefined) => Promise<ColdPart>,
  signal: AbortSignal,
): AsyncGenerator<{ found: readonly MirroredBlob[]; reached: EpochMs }> {
  for (let after: ColdPlace | undefined; ;) {
    await breathe(signal)
    const { found, next } = await read(after)
    yield { found, reached: next?.pulledAt ?? Number.POSITIVE_INFINITY }
    if (next === undefined) return
    after = next
  }
}

/** Index reads are synchronous: this gives the event loop a turn between two of them. */
async function breathe(signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  await immediate()
}

interface Waiting {
  readonly at: EpochMs
  readonly root: MirroredBlob
}

/** A priority queue by time of pull. */
class Line {
  /** Sorted, the earliest last. */
  readonly #waiting: Waiting[] = []

  put(it: Waiting): void {
    let low = 0
    let high = this.#waiting.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.#waiting[middle]?.at ?? 0) > it.at) low = middle + 1
      else high = middle
    }
    this.#waiting.splice(low, 0, it)
  }

  /** The earliest, if it is not later than `until`. */
  take(until: EpochMs): Waiting | undefined {
    const last = this.#waiting.at(-1)
    return last !== undefined && last.at <= until ? this.#waiting.pop() : undefined
  }
}
