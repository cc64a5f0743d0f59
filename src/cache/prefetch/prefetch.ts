/**
 * Prefetch: fetches the rest of an image while its first layers are being asked for.
 *
 * A client that wants two cold layers of an image wants all of it, but asks for three at a time; the others are
 * started behind it. A config follows its manifest. An index, a HEAD or a range starts nothing. The state is only
 * hints: a lost one costs nothing but the head start.
 */
import type { Bytes } from '../../base/units.ts'
import { LRUCache } from 'lru-cache'
import type { Logger } from 'pino'
import type { Digest } from '../../oci/digest.ts'
import { isNonDistributable, type Descriptor } from '../../oci/descriptor.ts'
import type { BlobCache } from '../blobs/blob-cache.ts'
import type { Manifest } from '../manifests/manifest-store.ts'
import type { MirrorRef } from '../origin.ts'
import type { PrefetchMode, ReferrersPrefetch } from './prefetch-referrers.ts'

/** Cold layers asked for before the others follow. */
const LAYERS_THAT_TELL = 2
/** A config, and a manifest, is not looked at again so soon: a hot one is asked for thousands of times a second. */
const LOOK_AGAIN_MS = 10_000
const SERVED_AGAIN_MS = 1000
/** No runtime takes more layers; a manifest of thousands must not cost as many fetches or entries. */
const MOST_AHEAD = 128

/** Weight of the remembered images: so much for each layer and config, beside the key. */
const IMAGES_WEIGHT: Bytes = 16 * 1024 * 1024
const LAYER_WEIGHT: Bytes = 512
/** A client that pulls an image asks for its layers within that time. */
const REMEMBERED_MS = 3_600_000

/** The needed part of a descriptor; the author of an image makes the rest as large as he wants. */
type WantedBlob = Pick<Descriptor, 'digest' | 'size'>

interface Image {
  readonly digest: Digest
  readonly layers: readonly WantedBlob[]
  readonly asked: Set<Digest>
  /** Its other layers were started. */
  started: boolean
  /** The fetch of its referrers was started. */
  followed: boolean
}

/** The last look at a manifest, and the repository it was for: several may share a manifest. */
interface Served {
  readonly origin: MirrorRef['origin']
  readonly name: string
  /** Monotonic. */
  readonly atMs: number
  readonly image: Image | undefined
}

export class Prefetch {
  readonly #blobs: Pick<BlobCache, 'ahead'>
  readonly #referrers: Pick<ReferrersPrefetch, 'manifestServed' | 'imageFetched'>
  readonly #mode: () => PrefetchMode
  readonly #log: Logger
  /** By repository and layer: the image last served that has it. */
  readonly #images = rememberedImages()
  readonly #byConfig = rememberedImages()
  /** By repository and config: it is here, or was started. */
  readonly #configs = new LRUCache<string, true>({ max: 1000, ttl: LOOK_AGAIN_MS })
  /** All pulls of a hot manifest share this object: one look instead of one for each of its names. */
  readonly #served = new WeakMap<Manifest, Served>()

  constructor(options: {
    blobs: Pick<BlobCache, 'ahead'>
    referrers: Pick<ReferrersPrefetch, 'manifestServed' | 'imageFetched'>
    mode: () => PrefetchMode
    log: Logger
  }) {
    this.#blobs = options.blobs
    this.#referrers = options.referrers
    this.#mode = options.mode
    this.#log = options.log
  }

  /** A client got this manifest by GET. */
  manifestServed(repository: MirrorRef, manifest: Manifest): void {
    const { origin, name } = repository
    const atMs = performance.now()
    const last = this.#served.get(manifest)
    if (last !== undefined && last.origin === origin && last.name === name && isRecent(last, atMs)) return
    const image = this.#look(repository, manifest)
    this.#served.set(manifest, { origin, name, atMs, image })
  }

  /** @returns the image whose layers are counted from now on, if any is */
  #look(repository: MirrorRef, manifest: Manifest): Image | undefined {
    this.#referrers.manifestServed(repository, manifest)
    const { digest, content } = manifest
    const mode = this.#mode()
    if (mode === 'off' || content.kind !== 'image') return undefined
    if (content.config !== undefined) this.#startConfig(repository, content.config)
    if (mode !== 'layers') return undefined
    const layers = content.layers.filter((it) => !isNonDistributable(it)).slice(0, MOST_AHEAD)
    const known = layers[0] && this.#images.get(imageKey(repository, layers[0].digest))
    // Simultaneous pulls count together. A started image belongs to an earlier pull: layers may be missing again.
    if (known !== undefined && !known.started && sameLayers(known.layers, layers)) return known
    const image: Image = {
      digest,
      layers: layers.map((layer) => ({ digest: layer.digest, size: layer.size })),
      asked: new Set(),
      started: false,
      followed: false,
    }
    for (const layer of image.layers) this.#images.set(imageKey(repository, layer.digest), image)
    if (content.config !== undefined) this.#byConfig.set(imageKey(repository, content.config.digest), image)
    return image
  }

  /**
   * A client asked for this whole blob.
   *
   * @param cold it was not here
   */
  blobServed(repository: MirrorRef, digest: Digest, cold: boolean): void {
    const key = imageKey(repository, digest)
    const image = this.#images.get(key)
    // Referrers follow also a hit: the layers may have come under another name, for which upstream was not asked.
    this.#follow(repository, image ?? this.#byConfig.get(key))
    if (!cold || image === undefined || image.started) return
    image.asked.add(digest)
    if (image.asked.size < LAYERS_THAT_TELL) return
    image.started = true
    void this.#start(
      repository,
      image.layers.filter((layer) => !image.asked.has(layer.digest)),
    )
  }

  #follow(repository: MirrorRef, image: Image | undefined): void {
    if (image === undefined || image.followed) return
    image.followed = true
    this.#referrers.imageFetched(repository, image.digest)
  }

  #startConfig(repository: MirrorRef, config: Descriptor): void {
    const key = imageKey(repository, config.digest)
    if (isNonDistributable(config) || this.#configs.has(key)) return
    this.#configs.set(key, true)
    void this.#start(repository, [config])
  }

  /** One after the other: they queue in the order in which a client will ask for them. */
  async #start(repository: MirrorRef, descriptors: readonly WantedBlob[]): Promise<void> {
    for (const descriptor of descriptors) {
      try {
        await this.#blobs.ahead(repository, descriptor)
      } catch (error) {
        this.#log.debug({ err: error, digest: descriptor.digest }, 'fetch-ahead did not start')
      }
    }
  }
}

function isRecent({ atMs, image }: Served, nowMs: number): boolean {
  return nowMs - atMs < SERVED_AGAIN_MS && image?.started !== true
}

function imageKey({ origin, name }: MirrorRef, digest: Digest): string {
  return `${origin.upstream.key} ${name} ${digest}`
}

function rememberedImages(): LRUCache<string, Image> {
  return new LRUCache({
    maxSize: IMAGES_WEIGHT,
    sizeCalculation: (_image, key) => LAYER_WEIGHT + key.length,
    ttl: REMEMBERED_MS,
    // Every pull of a blob looks here: reads the clock, and sets a timer, once for all pulls of a second.
    ttlResolution: 1_000,
  })
}

function sameLayers(left: readonly WantedBlob[], right: readonly WantedBlob[]): boolean {
  return left.length === right.length && left.every((layer, index) => layer.digest === right[index]?.digest)
}
