/**
 * What upstream says of a manifest, and what is kept of it.
 *
 * Every method is one piece of work for however many wait: it answers as soon as the bytes are verified, and
 * settles when they, and what they mention, are written down. What cannot be written down is answered all the
 * same.
 */
import { LRUCache } from 'lru-cache'
import type { Logger } from 'pino'
import type { Digest } from '../oci/digest.ts'
import { parseManifest } from '../oci/manifest.ts'
import type { Reference, Tag } from '../oci/reference.ts'
import type { MetadataStore, TagRecord } from '../store/metadata.ts'
import { StorageError } from '../store/storage-error.ts'
import { UpstreamError, type Milliseconds, type UpstreamManifest } from '../upstream/upstream.ts'
import type { ManifestHead } from './answers.ts'
import type { CacheStatus } from './cache-status.ts'
import type { Manifest, ManifestShelf } from './manifest-shelf.ts'
import { repositoryKey, type MirroredName } from './origin.ts'
import type { Flight } from './single-flight.ts'
import type { StorageHealth } from './storage-health.ts'

interface ManifestSourceOptions {
  readonly shelf: ManifestShelf
  readonly metadata: MetadataStore
  readonly health: StorageHealth
  /** How long "there is none" is believed. */
  readonly negativeTtlMs: () => Milliseconds
  readonly log: Logger
  readonly now: () => Milliseconds
}

type Head = Omit<ManifestHead, 'cache'>
/** `false`: upstream says that there is none. */
export type Fetched =
  { readonly manifest: Manifest; readonly cache: CacheStatus; readonly warning?: string } | false
export type Checked = { readonly head: Head; readonly cache: CacheStatus } | false

export class ManifestSource {
  readonly #options: ManifestSourceOptions
  /** By digest, what HEAD said of manifests that are not here. */
  readonly #heads = new LRUCache<string, Head>({ max: 10_000 })
  /**
   * By tag, what HEAD said it names now, while that is not here and what it named before is. To write it down would
   * leave nothing to answer with, should upstream stumble before anybody has fetched it.
   */
  readonly #moves = new LRUCache<string, TagRecord>({ maxSize: 1_000, sizeCalculation: () => 1 })

  constructor(options: ManifestSourceOptions) {
    this.#options = options
  }

  /** What a HEAD said before; `absent` for as long as that is believed. */
  rememberedHead(repository: MirroredName, reference: Reference): Head | 'absent' | undefined {
    const key = headKey(repository, reference)
    return this.#heads.get(key) ?? (repository.origin.state.isAbsent(key) ? 'absent' : undefined)
  }

  /** What a HEAD told that a tag has become, and that is not here yet. */
  toldMove(repository: MirroredName, tag: Tag): TagRecord | undefined {
    return this.#moves.get(headKey(repository, tag))
  }

  /** One GET by tag; a no becomes a tombstone. */
  async fetchTag(repository: MirroredName, tag: Tag, signal: AbortSignal): Promise<Flight<Fetched>> {
    const found = await repository.origin.upstream.manifest(repository.name, tag, signal)
    if (found === undefined) return this.#absentTag(repository, tag)
    return this.#keep(repository, found, tag)
  }

  /** An old tag: one HEAD, and a GET by digest only when it moved. */
  async revalidate(
    repository: MirroredName,
    record: TagRecord,
    signal: AbortSignal,
  ): Promise<Flight<Fetched>> {
    const { upstream } = repository.origin
    const { tag } = record
    for (let round = 1; round <= 2; round += 1) {
      const head = await upstream.headManifest(repository.name, tag, signal)
      // A HEAD 404 has no body that could prove it, and some registries answer HEAD badly.
      if (head.result !== 'present') break
      if (head.digest === record.digest) {
        const manifest = await this.#options.shelf.get(record.digest, record.mediaType)
        if (manifest !== undefined) {
          return { answer: { manifest, cache: 'hit' }, after: this.#confirm(repository, record) }
        }
      }
      const fetched = await this.fetchDigest(repository, head.digest, tag, signal)
      // Moved or deleted between HEAD and GET, or another backend: ask once more what the tag is now.
      if (fetched.answer !== false) return fetched
    }
    // One answer cannot contradict itself.
    return this.fetchTag(repository, tag, signal)
  }

  /**
   * By digest, for this repository: from here when upstream confirms that it may read it, else one GET.
   *
   * @param tag what it is to be remembered as, besides
   */
  async fetchDigest(
    repository: MirroredName,
    digest: Digest,
    tag: Tag | undefined,
    signal: AbortSignal,
  ): Promise<Flight<Fetched>> {
    const { upstream, state } = repository.origin
    const here = await this.#heldForOthers(repository, digest, signal)
    if (here !== undefined)
      return { answer: { manifest: here, cache: 'hit' }, after: this.#write(repository, here, tag) }
    let found = await upstream.manifest(repository.name, digest, signal)
    // One of its backends told us of it just now: another may have answered.
    if (found === undefined && this.#heads.has(headKey(repository, digest))) {
      found = await upstream.manifest(repository.name, digest, signal)
    }
    if (found !== undefined) return this.#keep(repository, found, tag)
    this.#heads.delete(headKey(repository, digest))
    state.rememberAbsent(`${repository.name}@${digest}`, this.#options.negativeTtlMs())
    return { answer: false }
  }

  /** The bytes are here for another repository: may this one read them? */
  async #heldForOthers(
    repository: MirroredName,
    digest: Digest,
    signal: AbortSignal,
  ): Promise<Manifest | undefined> {
    const { metadata, shelf } = this.#options
    const key = repositoryKey(repository)
    const named = await shelf.namedManifest(repository, digest)
    const manifest = await shelf.get(digest, named?.mediaType)
    if (manifest === undefined) return undefined
    if (named !== undefined && (await metadata.blobs.deliveredBy(key.registry, digest))) return manifest
    const head = await repository.origin.upstream.headManifest(repository.name, digest, signal)
    if (head.result !== 'present' || head.digest !== digest) return undefined
    return shelf.get(digest, isVague(head.mediaType) ? undefined : head.mediaType)
  }

  /** One HEAD by tag; what it says is kept, without the bytes. */
  async checkTag(
    repository: MirroredName,
    tag: Tag,
    record: TagRecord | undefined,
    signal: AbortSignal,
  ): Promise<Flight<Checked>> {
    const head = await repository.origin.upstream.headManifest(repository.name, tag, signal)
    if (head.result === 'absent' && record === undefined) return this.#absentHead(repository, tag)
    if (head.result === 'present' && record?.digest === head.digest) {
      return { answer: { head: headOf(record), cache: 'hit' }, after: this.#confirm(repository, record) }
    }
    if (head.result !== 'present' || isVague(head.mediaType)) {
      return headFlight(await this.fetchTag(repository, tag, signal))
    }
    const { digest, size, mediaType } = head
    this.#heads.set(headKey(repository, digest), { digest, size, mediaType })
    const answer = { head: { digest, size, mediaType }, cache: 'miss' } as const
    const told = { tag, digest, size, mediaType, checkedAt: this.#options.now(), deletedAt: undefined }
    if (record !== undefined && (await this.#isAllThereIs(repository, record, digest))) {
      this.#moves.set(headKey(repository, tag), told)
      return { answer }
    }
    return { answer, after: this.#putTag(repository, told) }
  }

  /** What the tag named is here, and what it names now is not. */
  async #isAllThereIs(repository: MirroredName, record: TagRecord, now: Digest): Promise<boolean> {
    const { shelf } = this.#options
    if ((await shelf.record(repository, now)) !== undefined) return false
    return (await shelf.get(record.digest, record.mediaType)) !== undefined
  }

  /** One HEAD by digest. */
  async checkDigest(repository: MirroredName, digest: Digest, signal: AbortSignal): Promise<Flight<Checked>> {
    const found = await repository.origin.upstream.headManifest(repository.name, digest, signal)
    if (found.result === 'absent') return this.#absentHead(repository, digest)
    if (found.result === 'unusable' || isVague(found.mediaType) || found.digest !== digest) {
      return headFlight(await this.fetchDigest(repository, digest, undefined, signal))
    }
    const head = { digest, size: found.size, mediaType: found.mediaType }
    this.#heads.set(headKey(repository, digest), head)
    return { answer: { head, cache: 'miss' } }
  }

  /** No proof, but enough not to ask with HEAD again for a while; a GET is asked all the same. */
  #absentHead(repository: MirroredName, reference: Reference): Flight<false> {
    repository.origin.state.rememberAbsent(headKey(repository, reference), this.#options.negativeTtlMs())
    return { answer: false }
  }

  #absentTag(repository: MirroredName, tag: Tag): Flight<false> {
    repository.origin.state.rememberAbsent(`${repository.name}:${tag}`, this.#options.negativeTtlMs())
    this.#moves.delete(headKey(repository, tag))
    const after = this.#remember((metadata, at) =>
      metadata.transaction((tx) => tx.buryTag(repositoryKey(repository), tag, at)),
    )
    return { answer: false, after }
  }

  /** Answers at once; writing it down goes on behind. */
  #keep(repository: MirroredName, found: UpstreamManifest, tag: Tag | undefined): Flight<Fetched> {
    const { key } = repository.origin.upstream
    let manifest: Manifest
    try {
      manifest = {
        digest: found.digest,
        bytes: found.bytes,
        content: parseManifest(found.bytes, found.contentType),
      }
    } catch (error) {
      throw new UpstreamError('broken', key, 'what it sent is not a manifest', { cause: error })
    }
    const cache = this.#options.health.resting ? 'bypass' : 'miss'
    const { warning } = found
    return {
      answer: { manifest, cache, ...(warning === undefined ? {} : { warning }) },
      after: this.#write(repository, manifest, tag),
    }
  }

  async #write(repository: MirroredName, manifest: Manifest, tag: Tag | undefined): Promise<void> {
    const { shelf, health } = this.#options
    if (health.resting) {
      health.spared()
      return
    }
    try {
      await shelf.keep(repository, manifest, tag)
      if (tag === undefined) await this.#arrived(repository, manifest.digest)
      else this.#moves.delete(headKey(repository, tag))
    } catch (error) {
      // A database that takes no writes is no reason to spare the disk, and has been spoken of.
      if (!(error instanceof StorageError)) health.refused('a manifest', error)
    }
  }

  /** Tags that have moved there name it from now on. */
  async #arrived(repository: MirroredName, digest: Digest): Promise<void> {
    for (const [key, told] of [...this.#moves.entries()]) {
      if (told.digest !== digest || key !== headKey(repository, told.tag)) continue
      this.#moves.delete(key)
      await this.#putTag(repository, told)
    }
  }

  #putTag(repository: MirroredName, record: TagRecord): Promise<void> {
    const key = repositoryKey(repository)
    this.#moves.delete(headKey(repository, record.tag))
    return this.#remember((metadata, at) =>
      metadata.transaction((tx) => {
        tx.putRepository(key, at)
        tx.putTag(key, record)
      }),
    )
  }

  #confirm(repository: MirroredName, record: TagRecord): Promise<void> {
    this.#moves.delete(headKey(repository, record.tag))
    return this.#remember((metadata, at) =>
      metadata.transaction((tx) => tx.confirmTag(repositoryKey(repository), record.tag, record.digest, at)),
    )
  }

  async #remember(write: (metadata: MetadataStore, at: Milliseconds) => Promise<void>): Promise<void> {
    const { metadata, log, now } = this.#options
    try {
      await write(metadata, now())
    } catch (error) {
      log.debug({ err: error }, 'what upstream said was not remembered')
    }
  }
}

function headKey({ origin, name }: MirroredName, reference: Reference): string {
  return `HEAD ${origin.upstream.key} ${name} ${reference}`
}

export function headOf({ digest, size, mediaType }: TagRecord): Head {
  return { digest, size, mediaType }
}

function headFlight({ answer, after }: Flight<Fetched>): Flight<Checked> {
  return {
    answer:
      answer === false
        ? false
        : {
            head: {
              digest: answer.manifest.digest,
              size: answer.manifest.bytes.length,
              mediaType: answer.manifest.content.mediaType,
            },
            cache: answer.cache,
          },
    ...(after === undefined ? {} : { after }),
  }
}

const VAGUE = new Set(['application/json', 'application/octet-stream', 'text/plain'])
/** RFC 6838 § 4.2. */
const MEDIA_TYPE = /^[a-z0-9][a-z0-9!#$&^_.+-]*\/[a-z0-9][a-z0-9!#$&^_.+-]*$/i

/** Types that say nothing: only the bytes tell what the manifest is. */
function isVague(mediaType: string): boolean {
  return VAGUE.has(mediaType) || !MEDIA_TYPE.test(mediaType)
}
