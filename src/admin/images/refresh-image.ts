/**
 * Revalidates one mirrored image now, however fresh it is: `entrepot refresh`.
 *
 * It asks upstream for the tag, and completes the parts that were here before: the held platforms of an index, all of
 * an image. A part that fails is an event, and leaves what is here unchanged.
 */
import type { Bytes } from '../../base/units.ts'
import type { BlobCache } from '../../cache/blobs/blob-cache.ts'
import type { ManifestCache } from '../../cache/manifests/manifest-cache.ts'
import { repositoryKey, type MirrorRef } from '../../cache/origin.ts'
import { isNonDistributable, type Descriptor } from '../../oci/descriptor.ts'
import type { Digest } from '../../oci/digest.ts'
import { OciError } from '../../oci/errors.ts'
import { platformsOf, type ManifestContent } from '../../oci/manifest.ts'
import { isDigestReference, type ImageReference } from '../../oci/reference.ts'
import type { BlobStore } from '../../storage/blobs/blob-store.ts'
import { readAll } from '../../storage/files/read-all.ts'
import type { MetadataStore } from '../../storage/metadata/metadata.ts'
import { OperatorError } from '../../base/operator-error.ts'
import { refusing, type NameRegistry } from '../../registry/registry.ts'

/** The last event is always `done`. */
export type RefreshEvent =
  | {
      readonly is: 'tag'
      /** `new`: only its absence was known, or its manifest was not here. */
      readonly change: 'unchanged' | 'moved' | 'new' | 'gone'
      /** The reference by which clients pull it here. */
      readonly name: string
      readonly from?: Digest | undefined
      readonly to?: Digest | undefined
    }
  | {
      readonly is: 'fetched'
      readonly what: 'manifest' | 'blob'
      readonly digest: Digest
      readonly bytes: Bytes
    }
  | { readonly is: 'failed'; readonly digest: Digest; readonly why: string }
  | { readonly is: 'done'; readonly fetched: number; readonly bytes: Bytes; readonly failed: number }

interface RefreshOptions {
  readonly registry: Pick<NameRegistry, 'route'>
  readonly manifests: Pick<ManifestCache, 'get' | 'refresh'>
  readonly blobs: Pick<BlobCache, 'bring'>
  readonly metadata: MetadataStore
  readonly store: Pick<BlobStore, 'stat' | 'open'>
}

/** The transfer slots of an upstream hardly let more through. */
const PARALLEL = 4

/** The parts that the refresh must have here in the end. */
interface Wanted {
  readonly manifests: Set<Digest>
  readonly blobs: Map<Digest, Descriptor>
}

export class Refresher {
  readonly #options: RefreshOptions

  constructor(options: RefreshOptions) {
    this.#options = options
  }

  /** @throws OperatorError when the image is not mirrored, or not here; OciError when upstream cannot be asked */
  async *refresh(
    image: ImageReference,
    namespace: string | undefined,
    signal: AbortSignal,
  ): AsyncGenerator<RefreshEvent, void, undefined> {
    const { metadata, manifests } = this.#options
    const mirrored = await this.#mirrored(image, namespace)
    const { reference } = image
    const key = repositoryKey(mirrored)
    const listed = `${key.registry}/${key.name}${isDigestReference(reference) ? '@' : ':'}${reference}`
    const before = isDigestReference(reference) ? undefined : await metadata.tags.get(key, reference)
    const from = isDigestReference(reference) ? reference : before?.digest
    if (from === undefined || (isDigestReference(reference) && !(await this.#isHeld(mirrored, reference)))) {
      throw new OperatorError(`nothing of ${listed} is here: a pull fetches it`)
    }
    const platforms = await this.#platforms(from)
    const wasHere = await this.#has(from)
    const found = isDigestReference(reference)
      ? await manifests.get(mirrored, reference, signal)
      : await manifests.refresh(mirrored, reference, signal)
    // A stale answer to a refresh means that upstream deleted the tag, and `on404: keep` still serves it.
    if (found === undefined || (!isDigestReference(reference) && found.cache === 'stale')) {
      yield { is: 'tag', change: 'gone', name: listed, from }
      yield { is: 'done', fetched: 0, bytes: 0, failed: 0 }
      return
    }
    const { digest: to, bytes, content } = found.manifest
    const known = wasHere && before?.deletedAt === undefined
    const change = from !== to ? 'moved' : known ? 'unchanged' : 'new'
    yield { is: 'tag', change, name: listed, from, to }
    const totals = { fetched: 0, bytes: 0, failed: 0 }
    const count = (event: RefreshEvent): RefreshEvent => {
      if (event.is === 'fetched') {
        totals.fetched += 1
        totals.bytes += event.bytes
      }
      if (event.is === 'failed') totals.failed += 1
      return event
    }
    if (change !== 'unchanged')
      yield count({ is: 'fetched', what: 'manifest', digest: to, bytes: bytes.length })
    const wanted: Wanted = { manifests: new Set(), blobs: new Map() }
    await this.#want(wanted, content, bytes, platforms)
    for await (const event of this.#manifests(mirrored, wanted, signal)) yield count(event)
    for await (const event of this.#blobs(mirrored, wanted, signal)) yield count(event)
    yield { is: 'done', ...totals }
  }

  async #mirrored({ name }: ImageReference, namespace: string | undefined): Promise<MirrorRef> {
    const destination = await this.#options.registry.route(name, namespace)
    if (destination === undefined) throw new OperatorError(`no rule takes the name ${name}`)
    if (!('entry' in destination))
      throw new OperatorError(`${name} was pushed here: there is nobody to ask about it`)
    const { entry, name: repository } = destination
    const { origin } = entry
    if (refusing(entry, repository) !== undefined) {
      throw new OperatorError(`the configuration of ${origin.upstream.key} does not allow ${repository}`)
    }
    return { origin, name: repository }
  }

  async #isHeld(mirrored: MirrorRef, digest: Digest): Promise<boolean> {
    return (await this.#options.metadata.manifests.get(repositoryKey(mirrored), digest)) !== undefined
  }

  async #has(digest: Digest): Promise<boolean> {
    return (await this.#options.store.stat(digest)) !== undefined
  }

  /** The platforms of an index whose manifests are here; empty unless the index is here. */
  async #platforms(digest: Digest): Promise<ReadonlySet<string>> {
    const held = new Set<string>()
    await using reader = await this.#options.store.open(digest)
    const bytes = reader && (await readAll(reader, reader.size))
    if (bytes === undefined) return held
    for (const [child, platform] of platformsOf(bytes)) {
      if (await this.#has(child as Digest)) held.add(platform)
    }
    return held
  }

  /** Adds all parts of an image, or the platforms of an index that are or were held. */
  async #want(
    wanted: Wanted,
    content: ManifestContent,
    bytes: Uint8Array,
    platforms: ReadonlySet<string>,
  ): Promise<void> {
    for (const blob of [content.config, ...content.layers]) {
      if (blob !== undefined && !isNonDistributable(blob)) wanted.blobs.set(blob.digest, blob)
    }
    const names = platformsOf(bytes)
    for (const { digest } of content.manifests) {
      if (platforms.has(names.get(digest) ?? '') || (await this.#has(digest))) wanted.manifests.add(digest)
    }
  }

  async *#manifests(mirrored: MirrorRef, wanted: Wanted, signal: AbortSignal): AsyncGenerator<RefreshEvent> {
    // The manifests of a nested index are added to the set while it is iterated.
    for (const digest of wanted.manifests) {
      const wasHere = await this.#has(digest)
      try {
        const found = await this.#options.manifests.get(mirrored, digest, signal)
        if (found === undefined) {
          yield { is: 'failed', digest, why: 'upstream does not have it' }
          continue
        }
        const { bytes, content } = found.manifest
        if (!wasHere) yield { is: 'fetched', what: 'manifest', digest, bytes: bytes.length }
        await this.#want(wanted, content, bytes, new Set())
      } catch (error) {
        yield failed(digest, error, signal)
      }
    }
  }

  async *#blobs(mirrored: MirrorRef, wanted: Wanted, signal: AbortSignal): AsyncGenerator<RefreshEvent> {
    const missing: Descriptor[] = []
    for (const blob of wanted.blobs.values()) {
      if ((await this.#options.store.stat(blob.digest))?.size !== blob.size) missing.push(blob)
    }
    for (let at = 0; at < missing.length; at += PARALLEL) {
      const some = missing.slice(at, at + PARALLEL)
      yield* await Promise.all(some.map((blob) => this.#bring(mirrored, blob, signal)))
    }
  }

  async #bring(mirrored: MirrorRef, { digest }: Descriptor, signal: AbortSignal): Promise<RefreshEvent> {
    try {
      const size = await this.#options.blobs.bring(mirrored, digest, signal)
      return size === undefined
        ? { is: 'failed', digest, why: 'upstream does not have it' }
        : { is: 'fetched', what: 'blob', digest, bytes: size }
    } catch (error) {
      return failed(digest, error, signal)
    }
  }
}

function failed(digest: Digest, error: unknown, signal: AbortSignal): RefreshEvent {
  signal.throwIfAborted()
  if (!(error instanceof OciError)) throw error
  return { is: 'failed', digest, why: error.message }
}
