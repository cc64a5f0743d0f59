/**
 * How much of an image is here: its manifest, what that references, and what the manifests of an index reference.
 *
 * It changes no state: neither the order of eviction nor caches in memory. It reads no file but an index's manifest.
 */
import type { Bytes } from '../../base/units.ts'
import type { MirrorRef } from '../../cache/origin.ts'
import type { BlobCache } from '../../cache/blobs/blob-cache.ts'
import { isNonDistributable, MAX_MANIFEST_BYTES } from '../../oci/descriptor.ts'
import type { Digest } from '../../oci/digest.ts'
import { platformsOf } from '../../oci/manifest.ts'
import type { BlobStore } from '../../storage/blobs/blob-store.ts'
import { readAll } from '../../storage/files/read-all.ts'
import type { KnownBytes } from '../../storage/metadata/inventory-index.ts'
import type {
  ChildDescriptor,
  EpochMs,
  MetadataStore,
  RepositoryKey,
} from '../../storage/metadata/metadata.ts'
import type { ImageExplained, PartExplained, PartState, PlatformExplained, Totals } from './explanation.ts'

export interface ImageHereOptions {
  readonly store: Pick<BlobStore, 'stat' | 'open'>
  readonly metadata: Pick<MetadataStore, 'manifests' | 'blobs' | 'inventory'>
  /** Running downloads; undefined where none can run. */
  readonly fills?: Pick<BlobCache, 'progress'> | undefined
  /** The later of the access time in the index and the one in memory. */
  readonly latest: (digest: Digest, written: EpochMs) => EpochMs
  readonly inUse?: ((digest: Digest) => boolean) | undefined
  readonly now: () => EpochMs
}

/** The manifest, as a tag or the index describes it. */
interface Known {
  readonly digest: Digest
  readonly size?: Bytes | undefined
  readonly mediaType?: string | undefined
}

/** The most digests of one image that are looked up on the disk. The largest real images have a few hundred. */
const MOST_LOOKS = 1000

/** No real image nests deeper than an index of indexes of images. */
const MOST_LEVELS = 3

const LOOKS_AT_ONCE = 16

export class ImageStatus {
  readonly #options: ImageHereOptions

  constructor(options: ImageHereOptions) {
    this.#options = options
  }

  /** @param mirrored whose downloads count; undefined for a local image */
  async look(
    repository: RepositoryKey,
    mirrored: MirrorRef | undefined,
    known: Known,
  ): Promise<ImageExplained> {
    const { metadata, now } = this.#options
    const record = await metadata.manifests.get(repository, known.digest)
    const tree = await this.#treeOf(known.digest)
    const found = await this.#find(known, tree)
    const state = (digest: Digest, size?: Bytes): PartState => found.state(digest, size, mirrored)
    const { digest, size = record?.size, mediaType = record?.mediaType } = { ...known, ...record }
    const children = tree.get(digest) ?? []
    const manifests = [
      digest,
      ...[...tree.values()]
        .flat()
        .filter(isManifest)
        .map((it) => it.digest),
    ]
    const times = manifests.flatMap((it) => this.#pulledAt(it, found.known.get(it)) ?? [])
    const stored = found.known.get(digest)?.storedAt
    const parts: PartExplained[] = []
    for (const child of children.filter((it) => !isManifest(it))) {
      parts.push(await this.#part(repository, mirrored, child, state(child.digest, child.size), found))
    }
    const platforms = await this.#platforms(digest, children, tree, state)
    return {
      ...{ digest, mediaType, size, held: record !== undefined, manifest: state(digest, size) },
      ...(times.length === 0 ? {} : { pulledMsAgo: now() - Math.max(...times) }),
      ...(stored === undefined ? {} : { storedMsAgo: now() - stored }),
      ...{ parts, platforms, totals: totalsOf({ digest, size: size ?? 0 }, tree, state) },
    }
  }

  #pulledAt(digest: Digest, known: KnownBytes | undefined): EpochMs | undefined {
    return known && this.#options.latest(digest, known.pulledAt)
  }

  /** Manifest -> what it references, as far as the index knows. */
  async #treeOf(root: Digest): Promise<ReadonlyMap<Digest, readonly ChildDescriptor[]>> {
    const { manifests } = this.#options.metadata
    const tree = new Map<Digest, readonly ChildDescriptor[]>()
    let level = [root]
    for (let depth = 0, seen = 0; depth < MOST_LEVELS && level.length > 0; depth += 1) {
      const next: Digest[] = []
      for (const digest of level) {
        if (tree.has(digest) || seen > MOST_LOOKS) continue
        const children = await manifests.references(digest)
        tree.set(digest, children)
        seen += children.length + 1
        next.push(...children.filter(isManifest).map((child) => child.digest))
      }
      level = next
    }
    return tree
  }

  /** Looks the digests up on the disk and in the index. */
  async #find(root: Known, tree: ReadonlyMap<Digest, readonly ChildDescriptor[]>): Promise<Found> {
    const { store, metadata, fills } = this.#options
    const named = [...tree.values()].flat().map(({ digest }) => digest)
    const digests = [...new Set([root.digest, ...named])].slice(0, MOST_LOOKS)
    const sizes = new Map<Digest, Bytes | undefined>()
    for (let at = 0; at < digests.length; at += LOOKS_AT_ONCE) {
      const looks = digests.slice(at, at + LOOKS_AT_ONCE).map(async (digest) => {
        sizes.set(digest, (await store.stat(digest))?.size)
      })
      await Promise.all(looks)
    }
    const known = new Map((await metadata.inventory.blobs(digests)).map((it) => [it.digest, it]))
    return new Found(sizes, known, await metadata.inventory.quarantined(digests), fills)
  }

  async #part(
    repository: RepositoryKey,
    mirrored: MirrorRef | undefined,
    { role, digest, size, mediaType, urls }: ChildDescriptor,
    state: PartState,
    found: Found,
  ): Promise<PartExplained> {
    const { inUse, now } = this.#options
    const pulledAt = this.#pulledAt(digest, found.known.get(digest))
    const silentForMs = mirrored?.origin.state.corruptFor(digest)
    const progress = state === 'fetching' ? found.progress(digest, mirrored) : undefined
    const foreign = isNonDistributable({ mediaType, ...(urls === undefined ? {} : { urls }) })
    const unconfirmed =
      state === 'present' && mirrored !== undefined && !(await this.#mayRead(repository, digest))
    return {
      ...{ role, digest, size, mediaType, state },
      ...(progress === undefined
        ? {}
        : { fetching: { bytes: progress.bytes, followed: progress.followers > 0, queued: progress.queued } }),
      ...(state === 'wrong size' ? { found: found.sizes.get(digest) } : {}),
      ...(pulledAt === undefined || state !== 'present' ? {} : { pulledMsAgo: now() - pulledAt }),
      ...(inUse?.(digest) === true ? { inUse: true } : {}),
      ...(unconfirmed ? { unconfirmed: true } : {}),
      ...(silentForMs === undefined ? {} : { silentForMs }),
      ...(foreign ? { foreign: true } : {}),
    }
  }

  /** A manifest of the repository references it, so it is enough that its upstream gave it under any name. */
  async #mayRead(repository: RepositoryKey, digest: Digest): Promise<boolean> {
    const { blobs } = this.#options.metadata
    return (await blobs.deliveredBy(repository.registry, digest)) || (await blobs.linked(repository, digest))
  }

  async #platforms(
    root: Digest,
    children: readonly ChildDescriptor[],
    tree: ReadonlyMap<Digest, readonly ChildDescriptor[]>,
    state: (digest: Digest, size?: Bytes) => PartState,
  ): Promise<PlatformExplained[]> {
    const manifests = children.filter(isManifest)
    if (manifests.length === 0) return []
    const names = platformsOf(await this.#read(root))
    return manifests.map(({ digest, size, artifactType, mediaType }) => {
      const platform = names.get(digest) ?? artifactType ?? mediaType
      const own = state(digest, size)
      if (own !== 'present') {
        return { platform, digest, state: own === 'unknown' ? own : 'missing', presentBytes: 0 }
      }
      const { presentBytes, missingBytes, missingParts } = totalsOf({ digest, size }, tree, state)
      return { platform, digest, state: missingParts === 0 ? own : 'partial', presentBytes, missingBytes }
    })
  }

  /** @returns an empty buffer when it is not here */
  async #read(digest: Digest): Promise<Buffer> {
    await using reader = await this.#options.store.open(digest)
    if (reader === undefined || reader.size > MAX_MANIFEST_BYTES) return Buffer.alloc(0)
    return (await readAll(reader, reader.size)) ?? Buffer.alloc(0)
  }
}

/** The results of looking up all digests of an image. */
class Found {
  readonly sizes: ReadonlyMap<Digest, Bytes | undefined>
  readonly known: ReadonlyMap<Digest, KnownBytes>
  readonly #quarantined: ReadonlyMap<Digest, EpochMs>
  readonly #fills: Pick<BlobCache, 'progress'> | undefined

  constructor(
    sizes: ReadonlyMap<Digest, Bytes | undefined>,
    known: ReadonlyMap<Digest, KnownBytes>,
    quarantined: ReadonlyMap<Digest, EpochMs>,
    fills: Pick<BlobCache, 'progress'> | undefined,
  ) {
    this.sizes = sizes
    this.known = known
    this.#quarantined = quarantined
    this.#fills = fills
  }

  progress(digest: Digest, mirrored: MirrorRef | undefined): ReturnType<BlobCache['progress']> {
    return mirrored && this.#fills?.progress(mirrored.origin, digest)
  }

  /** @param size as a manifest or a tag tells it */
  state(digest: Digest, size: Bytes | undefined, mirrored: MirrorRef | undefined): PartState {
    if (!this.sizes.has(digest)) return 'unknown'
    const found = this.sizes.get(digest)
    if (found === undefined) {
      if (this.progress(digest, mirrored) !== undefined) return 'fetching'
      return this.#quarantined.has(digest) ? 'quarantined' : 'missing'
    }
    // A descriptor may be wrong; the size of a verified blob is right.
    const right = this.known.get(digest)?.size ?? size
    return right === undefined || found === right ? 'present' : 'wrong size'
  }
}

/** Sums up a manifest and everything it references, as far as the index knows. */
function totalsOf(
  root: { readonly digest: Digest; readonly size: Bytes | undefined },
  tree: ReadonlyMap<Digest, readonly ChildDescriptor[]>,
  state: (digest: Digest, size?: Bytes) => PartState,
): Totals {
  const totals = { presentBytes: 0, missingBytes: 0, presentParts: 0, missingParts: 0 }
  const seen = new Set<Digest>()
  const count = ({ digest, size = 0 }: { digest: Digest; size: Bytes | undefined }): void => {
    if (seen.has(digest)) return
    seen.add(digest)
    const present = state(digest, size) === 'present'
    totals[present ? 'presentBytes' : 'missingBytes'] += size
    totals[present ? 'presentParts' : 'missingParts'] += 1
    for (const child of tree.get(digest) ?? []) if (!isNonDistributable(child)) count(child)
  }
  count(root)
  return totals
}

function isManifest({ role }: ChildDescriptor): boolean {
  return role === 'manifest'
}
