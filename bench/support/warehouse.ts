/**
 * A `storage.root` as it is after some years: metadata of hundreds of thousands of blobs, written within a minute.
 *
 * Every row is written through `MetadataStore`, so it is what the program itself would have written. Indexes,
 * manifests and configs lie on the disk, right to the last byte; layers have the size that is told of them and no
 * bytes at all, unless they are left out. So nothing here may be scrubbed, and no layer pulled.
 */
import { createHash } from 'node:crypto'
import {
  closeSync,
  copyFileSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import { MEDIA_TYPES, type Descriptor as AnyDescriptor } from '../../src/oci/descriptor.ts'
import { digestOf, type Digest } from '../../src/oci/digest.ts'
import { parseManifest } from '../../src/oci/manifest.ts'
import { parseRepositoryName, parseTag } from '../../src/oci/reference.ts'
import { blobPath } from '../../src/storage/blobs/blob-path.ts'
import { LOCAL, type MetadataStore, type MetadataTransaction } from '../../src/storage/metadata/metadata.ts'
import { openMetadata } from '../../src/storage/metadata/sqlite/open.ts'

export interface WarehouseOptions {
  readonly root: string
  /** At least; manifests and configs are blobs as well. */
  readonly blobs: number
  readonly tags: number
  readonly repositories: number
  /** How many of the repositories were pushed. */
  readonly pushed: number
  readonly layers: 'sparse' | 'absent'
  /** The newest of it; the oldest is half a year older. */
  readonly now?: number
}

export interface Warehouse {
  readonly blobs: number
  /** Sum of the sizes that are told. */
  readonly bytes: number
  readonly seconds: number
  /** What clients may ask for: `docker.io/org3/app17` and its tags. */
  readonly names: readonly { readonly name: string; readonly tags: readonly string[] }[]
}

const REGISTRIES = ['docker.io', 'docker.io', 'docker.io', 'quay.io', 'ghcr.io']
/** Of Linux, where files are memory. */
const MEMORY = '/dev/shm'
/** Distributions that everybody builds upon, of so many layers. */
const BASES = 100
const BASE_LAYERS = 3
/** Index, manifest and config of an image. */
const DOCUMENTS = 3
const TRANSACTION = 500
const HALF_A_YEAR = 182 * 86_400_000
const LAYER = 'application/vnd.oci.image.layer.v1.tar+gzip'
const CONFIG = 'application/vnd.oci.image.config.v1+json'

export async function fillWarehouse(options: WarehouseOptions): Promise<Warehouse> {
  const began = performance.now()
  const { root, now = Date.now() } = options
  const database = path.join(root, 'metadata.sqlite')
  if (existsSync(database)) throw new Error(`there is an index in ${root} already`)
  mkdirSync(root, { recursive: true })
  // Its pages are written again and again, in no order: a disk would take minutes for that.
  const workshop = mkdtempSync(path.join(existsSync(MEMORY) ? MEMORY : root, 'entrepot-index-'))
  try {
    const filling = new Filling(options, now)
    const made = path.join(workshop, 'metadata.sqlite')
    const metadata = await openMetadata(made, { timeoutMs: 300_000 })
    const names = await filling.run(metadata).finally(() => metadata.close())
    copyFileSync(made, database)
    return { blobs: filling.blobs, bytes: filling.bytes, names, seconds: (performance.now() - began) / 1000 }
  } finally {
    rmSync(workshop, { recursive: true })
  }
}

class Filling {
  blobs = 0
  bytes = 0
  readonly #options: WarehouseOptions
  readonly #now: number
  readonly #folders = new Set<string>()
  /** Which of the layers that many share who has. */
  readonly #given = new Set<string>()
  readonly #bases: readonly (readonly Descriptor[])[]

  constructor(options: WarehouseOptions, now: number) {
    this.#options = options
    this.#now = now
    this.#bases = Array.from({ length: BASES }, (_, base) =>
      Array.from({ length: BASE_LAYERS }, (_, position) => layer(`base ${String(base)}/${String(position)}`)),
    )
    for (const shared of this.#bases.flat()) this.#putLayer(shared)
  }

  async run(metadata: MetadataStore): Promise<Warehouse['names']> {
    const { blobs, tags, repositories, pushed } = this.#options
    const ownLayers = Math.max(1, Math.ceil((blobs - this.blobs) / tags) - DOCUMENTS)
    const names = Array.from({ length: repositories }, (_, number) => ({
      name: `org${String(number % 97)}/app${String(number)}`,
      registry: number < pushed ? LOCAL : (REGISTRIES[number % REGISTRIES.length] ?? LOCAL),
      tags: [] as string[],
    }))
    let written = Promise.resolve()
    for (let image = 0; image < tags;) {
      const until = Math.min(tags, image + TRANSACTION)
      const writing = metadata.transaction((tx) => {
        for (; image < until; image++) {
          const repository = names[image % repositories]
          if (repository === undefined) throw new Error('there is no repository to hold an image')
          const tag = `1.${String(repository.tags.length)}`
          repository.tags.push(tag)
          this.#putImage(tx, { ...repository, tag, image, ownLayers })
        }
      })
      // The next one is put together while this one is written.
      await written
      written = writing
    }
    await written
    return names.map(({ name, registry, tags: held }) => ({
      name: registry === LOCAL ? name : `${registry}/${name}`,
      tags: held,
    }))
  }

  /** An index over one image over one of the bases. */
  #putImage(
    tx: MetadataTransaction,
    { registry, name, tag, image, ownLayers }: Place & { image: number; ownLayers: number },
  ): void {
    const repository = { registry, name: parseRepositoryName(name) }
    // Spread, and in no order.
    const at = this.#now - Math.floor(((image * 7919) % 10_007) * (HALF_A_YEAR / 10_007))
    const base = this.#bases[image % BASES] ?? []
    const own = Array.from({ length: ownLayers }, (_, position) =>
      layer(`${String(image)}/${String(position)}`),
    )
    const layers = [...base, ...own]
    const config = this.#putDocument(CONFIG, {
      architecture: 'amd64',
      os: 'linux',
      config: { Labels: { image: String(image) } },
      rootfs: { type: 'layers', diff_ids: layers.map(({ digest }) => digest) },
    })
    const manifest = this.#putDocument(MEDIA_TYPES.ociManifest, {
      schemaVersion: 2,
      mediaType: MEDIA_TYPES.ociManifest,
      config: config.descriptor,
      layers,
    })
    const platform = { architecture: 'amd64', os: 'linux' }
    const index = this.#putDocument(MEDIA_TYPES.ociIndex, {
      schemaVersion: 2,
      mediaType: MEDIA_TYPES.ociIndex,
      manifests: [{ ...manifest.descriptor, platform }],
    })
    for (const it of own) this.#putLayer(it)
    tx.putRepository(repository, at)
    const give = ({ digest, size }: Descriptor): void => {
      const given = `${registry === LOCAL ? name : registry} ${digest}`
      if (this.#given.has(given)) return
      if (base.some((it) => it.digest === digest)) this.#given.add(given)
      if (registry === LOCAL) tx.linkBlob(repository, digest, size, at)
      else tx.recordDelivery(registry, digest, size, at)
    }
    for (const it of [config.descriptor, ...layers]) give(it)
    for (const { descriptor, bytes } of [manifest, index]) {
      if (registry !== LOCAL) give(descriptor)
      tx.putManifest(repository, descriptor.digest, descriptor.size, parseManifest(bytes), at)
    }
    tx.putTag(repository, {
      tag: parseTag(tag),
      digest: index.descriptor.digest,
      size: index.descriptor.size,
      mediaType: index.descriptor.mediaType,
      checkedAt: this.#now,
      deletedAt: undefined,
    })
  }

  #putDocument(mediaType: string, document: unknown): { descriptor: Descriptor; bytes: Buffer } {
    const bytes = Buffer.from(JSON.stringify(document))
    const descriptor = { mediaType, digest: digestOf(bytes), size: bytes.length }
    this.#count(descriptor)
    writeFileSync(this.#file(descriptor.digest), bytes)
    return { descriptor, bytes }
  }

  #putLayer(descriptor: Descriptor): void {
    this.#count(descriptor)
    if (this.#options.layers === 'absent') return
    const file = openSync(this.#file(descriptor.digest), 'w')
    ftruncateSync(file, descriptor.size)
    closeSync(file)
  }

  #count({ size }: Descriptor): void {
    this.blobs += 1
    this.bytes += size
  }

  #file(digest: Digest): string {
    const file = blobPath(this.#options.root, digest)
    const folder = path.dirname(file)
    if (!this.#folders.has(folder)) {
      mkdirSync(folder, { recursive: true })
      this.#folders.add(folder)
    }
    return file
  }
}

type Descriptor = AnyDescriptor & { readonly size: number }

interface Place {
  readonly registry: string
  readonly name: string
  readonly tag: string
}

/** Of some KiB to some MiB; nobody ever made its bytes. */
function layer(seed: string): Descriptor {
  const hash = createHash('sha256').update(`layer ${seed}`).digest()
  const size = 4096 + (hash.readUInt32BE(0) % 2 ** (12 + (hash.readUInt8(4) % 12)))
  return { mediaType: LAYER, digest: `sha256:${hash.toString('hex')}` as Digest, size }
}
