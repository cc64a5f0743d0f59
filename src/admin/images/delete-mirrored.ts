/**
 * Deletes mirrored content, for `entrepot rm`: a tag, an image, or a repository. The next pull fetches it again.
 *
 * With an image go the blobs that no other image references. Running pulls go on: a blob that is being read or
 * fetched keeps its bytes until they are evicted. A pin does not protect an image from its operator, who could change
 * the configuration as well; the result names the pin.
 */
import type { Bytes } from '../../base/units.ts'
import type { EvictionCandidates } from '../../cache/eviction/candidates.ts'
import type { ManifestCache } from '../../cache/manifests/manifest-cache.ts'
import { repositoryKey, type MirrorRef } from '../../cache/origin.ts'
import type { Pins } from '../../cache/eviction/pins.ts'
import type { Removal } from '../../cache/eviction/removal.ts'
import type { Digest } from '../../oci/digest.ts'
import { isDigestReference, type Reference, type Tag } from '../../oci/reference.ts'
import {
  type EpochMs,
  type MetadataStore,
  type MetadataTransaction,
  type RepositoryKey,
} from '../../storage/metadata/metadata.ts'
import { pullName } from '../../storage/integrity/findings.ts'
import { OperatorError } from '../../base/operator-error.ts'
import type { Removed } from './delete-local.ts'

interface MirrorDeletionOptions {
  readonly metadata: MetadataStore
  readonly candidates: Pick<EvictionCandidates, 'closureOf'>
  readonly removal: Pick<Removal, 'take' | 'isInUse'>
  readonly pins: Pick<Pins, 'by'>
  /** The manifests in memory, which must not bring a deleted one back. */
  readonly manifests: Pick<ManifestCache, 'forget' | 'settled'>
  readonly now: () => EpochMs
}

interface Gone {
  readonly bytes: Bytes
  readonly note: string | undefined
}

const PAGE = 500

const NOTHING: ReadonlySet<Digest> = new Set()

export class MirrorDeletion {
  readonly #options: MirrorDeletionOptions

  constructor(options: MirrorDeletionOptions) {
    this.#options = options
  }

  /** @param reference undefined: the whole repository @throws OperatorError when it is not here */
  async remove(mirrored: MirrorRef, reference: Reference | undefined, signal: AbortSignal): Promise<Removed> {
    const key = repositoryKey(mirrored)
    if (reference === undefined) return this.#removeAll(mirrored, key, signal)
    // A manifest that is being answered right now is written into the index after the answer.
    await this.#options.manifests.settled(mirrored, reference)
    return isDigestReference(reference)
      ? this.#removeImage(mirrored, key, reference, signal)
      : this.#removeTag(mirrored, key, reference, signal)
  }

  async #removeTag(mirrored: MirrorRef, key: RepositoryKey, tag: Tag, signal: AbortSignal): Promise<Removed> {
    const { metadata, manifests } = this.#options
    const name = pullName(key)
    const record = await metadata.tags.get(key, tag)
    if (record === undefined) throw new OperatorError(`there is no ${tag} in ${name}`)
    const { digest } = record
    const others = (await metadata.tags.of(key, digest)).filter((it) => it !== tag)
    const parents = await metadata.eviction.referencedBy(digest, { limit: 1 })
    const stays =
      others.length > 0
        ? `${name}:${String(others[0])} names it as well`
        : parents.length > 0 && 'an index names it'
    const held = (await metadata.manifests.get(key, digest)) !== undefined
    const pin = await this.#options.pins.by(digest)
    const gone =
      stays === false && held
        ? await this.#takeAway(key, digest, signal)
        : { bytes: 0, note: stays === false ? undefined : `its image stays: ${stays}` }
    // Deletes the tag even if its image is gone: a tombstone's tag names a manifest that the repository lacks.
    await this.#commit((tx) => tx.deleteTag(key, tag, this.#options.now()))
    manifests.forget(mirrored, tag)
    manifests.forget(mirrored, digest)
    return removed({ what: 'tag', name, reference: tag }, gone, pin)
  }

  async #removeImage(
    mirrored: MirrorRef,
    key: RepositoryKey,
    digest: Digest,
    signal: AbortSignal,
  ): Promise<Removed> {
    const { metadata, manifests, pins } = this.#options
    const name = pullName(key)
    if ((await metadata.manifests.get(key, digest)) === undefined) {
      throw new OperatorError(`there is no ${digest} in ${name}`)
    }
    const tags = await metadata.tags.of(key, digest)
    const pin = await pins.by(digest)
    const gone = await this.#takeAway(key, digest, signal)
    for (const reference of [...tags, digest]) manifests.forget(mirrored, reference)
    return removed({ what: 'image', name, reference: digest }, gone, pin)
  }

  async #removeAll(mirrored: MirrorRef, key: RepositoryKey, signal: AbortSignal): Promise<Removed> {
    const { metadata, manifests, pins } = this.#options
    const name = pullName(key)
    if ((await metadata.repositories.get(key)) === undefined)
      throw new OperatorError(`nothing of ${name} is here`)
    let bytes = 0
    let images = 0
    let pin: string | undefined
    // The children of an index go with it: manifests that no index references come first, then the remaining ones.
    for (const which of ['roots', 'rest'] as const) {
      for await (const digest of this.#manifests(key, which)) {
        signal.throwIfAborted()
        pin ??= await pins.by(digest)
        bytes += (await this.#takeAway(key, digest, signal)).bytes
        images += 1
        manifests.forget(mirrored, digest)
      }
    }
    for await (const tag of this.#tags(key)) manifests.forget(mirrored, tag)
    // Drops tombstones, and the links that permit reads without asking upstream; the name stays known.
    await this.#commit((tx) => tx.buryRepository(key, this.#options.now()))
    if (images === 0) throw new OperatorError(`nothing of ${name} is here`)
    return removed({ what: 'repository', name }, { bytes, note: undefined }, pin)
  }

  /** Removes the manifest from this repository; if no other has it, also its bytes and those only it references. */
  async #takeAway(key: RepositoryKey, digest: Digest, signal: AbortSignal): Promise<Gone> {
    const { metadata, candidates, removal, now } = this.#options
    const held = await metadata.eviction.taggedManifests(digest, 0)
    const other = held.find(({ repository }) => pullName(repository) !== pullName(key))?.repository
    const candidate = other === undefined ? await candidates.closureOf(digest, NOTHING) : undefined
    const inUse = candidate !== undefined && removal.isInUse(candidate)
    const gone = candidate === undefined || inUse ? [] : await removal.take(candidate, signal)
    const bytes = gone.reduce((sum, { size }) => sum + size, 0)
    await this.#commit((tx) => tx.deleteManifest(key, digest, now()))
    if (bytes > 0) return { bytes, note: undefined }
    const why =
      other === undefined
        ? inUse
          ? 'somebody is pulling it'
          : 'its bytes are needed otherwise'
        : `${pullName(other)} has it as well`
    return { bytes, note: `its bytes stay for now: ${why}` }
  }

  async *#manifests(key: RepositoryKey, which: 'roots' | 'rest'): AsyncGenerator<Digest> {
    const { eviction, manifests } = this.#options.metadata
    for (let last: Digest | undefined; ;) {
      const page = await manifests.list(key, { limit: PAGE, ...(last && { last }) })
      for (const digest of page) {
        const parents = which === 'rest' ? [] : await eviction.referencedBy(digest, { limit: 1 })
        if (parents.length === 0) yield digest
      }
      last = page.at(-1)
      if (page.length < PAGE) return
    }
  }

  async *#tags(key: RepositoryKey): AsyncGenerator<Tag> {
    for (let last: Tag | undefined; ;) {
      const page = await this.#options.metadata.tags.list(key, { limit: PAGE, ...(last && { last }) })
      yield* page
      last = page.at(-1)
      if (page.length < PAGE) return
    }
  }

  #commit(fill: (tx: MetadataTransaction) => void): Promise<void> {
    return this.#options.metadata.transaction(fill)
  }
}

function removed(what: Omit<Removed, 'note'>, { bytes, note }: Gone, pin: string | undefined): Removed {
  const notes = [
    ...(note === undefined ? [] : [note]),
    ...(pin === undefined ? [] : [`it was pinned by ${pin}`]),
  ]
  return { ...what, bytes, ...(notes.length === 0 ? {} : { note: notes.join('; ') }) }
}
