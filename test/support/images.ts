/**
 * Synthetic images: layers that do not compress, and the configs, manifests and indexes over them.
 *
 * The same arguments always give the same bytes, so a test may build an image twice instead of keeping it.
 * Layers are random bytes, not tar archives: nothing but a container runtime ever looks inside.
 */
import { createCipheriv, createHash } from 'node:crypto'
import { digestOf, type Digest, type DigestAlgorithm } from '../../src/oci/digest.ts'
import { MEDIA_TYPES } from '../../src/oci/descriptor.ts'

/** One blob or manifest. */
export interface Content {
  readonly mediaType: string
  readonly digest: Digest
  readonly bytes: Buffer
}

/** What a tag can name, with everything below it. */
export interface Image {
  readonly manifest: Content
  /** Children first, `manifest` itself last. */
  readonly manifests: readonly Content[]
  /** Configs and layers, each once. */
  readonly blobs: readonly Content[]
  /** Of an image; of an index those of its first image. */
  readonly config: Content
  readonly layers: readonly Content[]
}

export interface LayerOptions {
  /** Bytes. */
  size: number
  seed?: string | number
  algorithm?: DigestAlgorithm
  mediaType?: string
  /** Makes it a layer that registries do not hold. */
  urls?: readonly string[]
}

/** AES-CTR of zeros: gigabytes per second, and no compressor gains anything on it. */
export function randomBytesOf(size: number, seed: string | number = 0): Buffer {
  const key = createHash('sha256')
    .update(`layer ${String(seed)}`)
    .digest()
  const cipher = createCipheriv('aes-256-ctr', key, Buffer.alloc(16))
  return cipher.update(Buffer.alloc(size))
}

export function content(mediaType: string, bytes: Buffer, algorithm: DigestAlgorithm = 'sha256'): Content {
  return { mediaType, digest: digestOf(bytes, algorithm), bytes }
}

export function layer(options: LayerOptions): Content {
  const mediaType = options.mediaType ?? 'application/vnd.oci.image.layer.v1.tar+gzip'
  return content(mediaType, randomBytesOf(options.size, options.seed), options.algorithm)
}

export const ZERO_BLOB: Content = content('application/octet-stream', Buffer.alloc(0))

type Format = 'oci' | 'docker'

interface CommonOptions {
  format?: Format
  algorithm?: DigestAlgorithm
  annotations?: Record<string, string>
  subject?: Content
  artifactType?: string
  /** Further members of the document; with `pad` how a manifest of a certain size is made. */
  extra?: Record<string, unknown>
  /** Adds that many bytes of an annotation. */
  pad?: number
}

export interface ImageOptions extends CommonOptions {
  /** Sizes stand for layers whose seed is the image's seed and their position. */
  layers?: readonly (LayerOptions | number)[]
  seed?: string | number
  architecture?: string
  os?: string
}

export interface IndexOptions extends CommonOptions {
  /** Architecture -> image or nested index. */
  images: Readonly<Record<string, Image>>
}

export function image(options: ImageOptions = {}): Image {
  const format = options.format ?? 'oci'
  const seed = options.seed ?? 0
  const wanted = (options.layers ?? [1024]).map((it, position) =>
    typeof it === 'number' ? { size: it, seed: `${String(seed)}/${position}` } : it,
  )
  const docker = format === 'docker'
  const layers = wanted.map((it) =>
    layer({
      mediaType: docker
        ? 'application/vnd.docker.image.rootfs.diff.tar.gzip'
        : 'application/vnd.oci.image.layer.v1.tar+gzip',
      ...it,
    }),
  )
  const config = content(
    docker ? 'application/vnd.docker.container.image.v1+json' : 'application/vnd.oci.image.config.v1+json',
    json({
      architecture: options.architecture ?? 'amd64',
      os: options.os ?? 'linux',
      created: '2026-01-01T00:00:00Z',
      config: { Labels: { seed: String(seed) } },
      rootfs: { type: 'layers', diff_ids: layers.map((it) => it.digest) },
    }),
    options.algorithm,
  )
  const manifest = content(
    docker ? MEDIA_TYPES.dockerManifest : MEDIA_TYPES.ociManifest,
    document(options, docker ? MEDIA_TYPES.dockerManifest : MEDIA_TYPES.ociManifest, {
      config: descriptorOf(config),
      layers: layers.map((it, position) => ({ ...descriptorOf(it), ...urlsOf(wanted[position]) })),
    }),
    options.algorithm,
  )
  const held = layers.filter((_, position) => wanted[position]?.urls === undefined)
  return { manifest, manifests: [manifest], blobs: distinct([config, ...held]), config, layers }
}

/** An index over images of several platforms, or over other indexes. */
export function index(options: IndexOptions): Image {
  const docker = options.format === 'docker'
  const mediaType = docker ? MEDIA_TYPES.dockerIndex : MEDIA_TYPES.ociIndex
  const children = Object.entries(options.images)
  const [first] = children
  if (first === undefined) throw new Error('an index names at least one image')
  const manifest = content(
    mediaType,
    document(options, mediaType, {
      manifests: children.map(([architecture, child]) => ({
        ...descriptorOf(child.manifest),
        platform: { architecture, os: 'linux' },
      })),
    }),
    options.algorithm,
  )
  return {
    manifest,
    manifests: distinct([...children.flatMap(([, child]) => child.manifests), manifest]),
    blobs: distinct(children.flatMap(([, child]) => child.blobs)),
    config: first[1].config,
    layers: first[1].layers,
  }
}

/**
 * What the oldest clients were sent. Its registry calls it by the digest of what was signed, not of what it
 * sends, unless `plain`.
 */
export function schema1(options: { tag?: string; plain?: boolean } = {}): Content {
  const { tag = 'latest', plain = false } = options
  const blobSum = digestOf(Buffer.from('a layer of long ago'))
  const unsigned = {
    schemaVersion: 1,
    name: 'library/old',
    tag,
    architecture: 'amd64',
    fsLayers: [{ blobSum }],
    history: [{ v1Compatibility: '{"id":"0123"}' }],
  }
  if (plain) return content(MEDIA_TYPES.dockerSchema1, json(unsigned))
  const signatures = [
    { header: { alg: 'ES256' }, signature: 'c2lnbmVk', protected: 'eyJmb3JtYXRMZW5ndGgifQ' },
  ]
  return {
    mediaType: MEDIA_TYPES.dockerSchema1Signed,
    digest: digestOf(json(unsigned)),
    bytes: json({ ...unsigned, signatures }),
  }
}

export function descriptorOf(it: Content): { mediaType: string; digest: Digest; size: number } {
  return { mediaType: it.mediaType, digest: it.digest, size: it.bytes.length }
}

function urlsOf(options: LayerOptions | undefined): { urls?: readonly string[] } {
  return options?.urls === undefined ? {} : { urls: options.urls }
}

function document(options: CommonOptions, mediaType: string, members: Record<string, unknown>): Buffer {
  const annotations = {
    ...options.annotations,
    ...(options.pad === undefined ? {} : { pad: 'x'.repeat(options.pad) }),
  }
  return json({
    schemaVersion: 2,
    mediaType,
    ...(options.artifactType === undefined ? {} : { artifactType: options.artifactType }),
    ...members,
    ...(options.subject === undefined ? {} : { subject: descriptorOf(options.subject) }),
    ...(Object.keys(annotations).length === 0 ? {} : { annotations }),
    ...options.extra,
  })
}

/** With indentation and a final newline: whoever serialises it again changes the digest. */
function json(value: unknown): Buffer {
  return Buffer.from(`${JSON.stringify(value, undefined, 3)}\n`)
}

function distinct(all: readonly Content[]): Content[] {
  return [...new Map(all.map((it) => [it.digest, it])).values()]
}
