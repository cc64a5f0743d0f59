/**
 * What upstream says of a manifest.
 *
 * Every method is one piece of work for however many wait: it answers as soon as the bytes are verified, and
 * settles when they, and what they mention, are written down (`manifest-recorder.ts`).
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { LRUCache } from 'lru-cache'
import type { Digest } from '../../oci/digest.ts'
import { isDigestReference, type Reference, type Tag } from '../../oci/reference.ts'
import type { TagRecord } from '../../storage/metadata/metadata.ts'
import type { UpstreamManifest } from '../../upstream/upstream.ts'
import type { ManifestHead } from '../answers.ts'
import type { CacheMarks } from '../cache-status.ts'
import { gone } from './freshness.ts'
import { ManifestRecorder, type ManifestRecorderOptions } from './manifest-recorder.ts'
import type { Described, Manifest } from './manifest-store.ts'
import { repositoryKey, type MirrorRef } from '../origin.ts'
import { subjectHere } from '../lists/referrers-tag.ts'
import type { Flight } from '../../base/single-flight.ts'

interface ManifestSourceOptions extends ManifestRecorderOptions {
  /** How long "there is none" is believed. */
  readonly negativeTtlMs: () => Milliseconds
}

/** Room for what HEADs said, and what one of them takes beside its texts. */
const HEADS_WEIGHT: Bytes = 8 * 1024 * 1024
const HEAD_WEIGHT: Bytes = 256

export type Head = Omit<ManifestHead, keyof CacheMarks>

export interface CachedManifest extends CacheMarks {
  readonly manifest: Manifest
}

/** `false`: upstream says that there is none. */
export type Fetched = CachedManifest | false
export type Checked = ManifestHead | false

export class ManifestFetcher {
  readonly #options: ManifestSourceOptions
  /** By digest, what HEAD said of manifests that are not here. */
  readonly #heads = new LRUCache<string, Head>({
    maxSize: HEADS_WEIGHT,
    sizeCalculation: ({ mediaType }, key) => HEAD_WEIGHT + key.length + mediaType.length,
  })
  readonly #recorder: ManifestRecorder

  constructor(options: ManifestSourceOptions) {
    this.#options = options
    this.#recorder = new ManifestRecorder(options)
  }

  /** What a HEAD said before; `absent` for as long as that is believed. */
  rememberedHead(repository: MirrorRef, reference: Reference): Head | 'absent' | undefined {
    const { absent } = repository.origin.state
    const head = this.#heads.get(headKey(repository, reference))
    return head ?? (absent.has('head', repository.name, reference) ? 'absent' : undefined)
  }

  /** What a HEAD told that a tag has become, and that is not here yet. */
  toldMove(repository: MirrorRef, tag: Tag): TagRecord | undefined {
    return this.#recorder.moves.get(repository, tag)
  }

  /** A DELETE or the operator took it away: the next pull asks upstream anew. */
  forget(repository: MirrorRef, reference: Reference): void {
    const { name } = repository
    const { absent } = repository.origin.state
    this.#heads.delete(headKey(repository, reference))
    absent.forget('head', name, reference)
    absent.forget('manifest', name, reference)
    if (isDigestReference(reference)) return
    this.#recorder.moves.forget(repository, reference)
    absent.forget('kept tag', name, reference)
  }

  /**
   * One GET by tag; a no becomes a tombstone, or is put up with.
   *
   * @param record what is known of it
   */
  async #fetchTag(
    repository: MirrorRef,
    tag: Tag,
    record: TagRecord | undefined,
    signal: AbortSignal,
  ): Promise<Flight<Fetched>> {
    const found = await repository.origin.upstream.manifest(repository.name, tag, signal)
    if (found === undefined) return await this.#absentTag(repository, tag, record)
    return this.#keep(repository, found, tag)
  }

  /**
   * A tag that is known costs one HEAD, and a GET by digest only when it moved.
   *
   * @param spare something here can answer: it is no use to spend one of the last pulls
   */
  async resolveTag(
    repository: MirrorRef,
    tag: Tag,
    record: TagRecord | undefined,
    spare: boolean,
    signal: AbortSignal,
  ): Promise<Flight<Fetched>> {
    const { upstream } = repository.origin
    if (record === undefined) return this.#fetchTag(repository, tag, record, signal)
    for (let round = 1; round <= 2; round += 1) {
      const head = await upstream.headManifest(repository.name, tag, signal)
      // A HEAD 404 has no body that could prove it, and some registries answer HEAD badly.
      if (head.result !== 'present') {
        if (spare && head.result === 'unusable') this.#spare(repository)
        break
      }
      if (head.digest === record.digest) {
        const manifest = await this.#options.manifestStore.get(record.digest, record.mediaType)
        if (manifest !== undefined) {
          return { answer: { manifest, cache: 'hit' }, after: this.#recorder.confirm(repository, record) }
        }
      }
      if (spare && (await this.#options.manifestStore.get(head.digest)) === undefined) {
        this.#spare(repository, this.#toldOf(tag, head))
      }
      const fetched = await this.fetchDigest(repository, head.digest, tag, signal)
      // Moved or deleted between HEAD and GET, or another backend: ask once more what the tag is now.
      if (fetched.answer !== false) return fetched
    }
    // One answer cannot contradict itself.
    return this.#fetchTag(repository, tag, record, signal)
  }

  /**
   * @param told what the tag has become, to be remembered
   * @throws UpstreamError when no pull is to be spent
   */
  #spare(repository: MirrorRef, told?: TagRecord): void {
    const { upstream, reserve } = repository.origin
    const why = upstream.quotaBelow(reserve)
    if (why === undefined) return
    if (told !== undefined) this.#recorder.moves.tell(repository, told)
    throw why
  }

  #toldOf(tag: Tag, { digest, size, mediaType }: Head): TagRecord {
    return { tag, digest, size, mediaType, checkedAt: this.#options.now(), deletedAt: undefined }
  }

  /**
   * By digest, for this repository: from here when upstream confirms that it may read it, else one GET.
   *
   * @param tag what it is to be remembered as, besides
   */
  async fetchDigest(
    repository: MirrorRef,
    digest: Digest,
    tag: Tag | undefined,
    signal: AbortSignal,
  ): Promise<Flight<Fetched>> {
    const { upstream, state } = repository.origin
    const here = await this.#heldForOthers(repository, digest, signal)
    if (here !== undefined)
      return { answer: { manifest: here, cache: 'hit' }, after: this.#recorder.keep(repository, here, tag) }
    let found = await upstream.manifest(repository.name, digest, signal)
    // One of its backends told us of it just now: another may have answered.
    if (found === undefined && this.#heads.has(headKey(repository, digest))) {
      found = await upstream.manifest(repository.name, digest, signal)
    }
    if (found !== undefined) return this.#keep(repository, found, tag)
    this.#heads.delete(headKey(repository, digest))
    state.absent.remember(this.#options.negativeTtlMs(), 'manifest', repository.name, digest)
    return { answer: false }
  }

  /** The bytes are here for another repository: may this one read them? */
  async #heldForOthers(
    repository: MirrorRef,
    digest: Digest,
    signal: AbortSignal,
  ): Promise<Manifest | undefined> {
    const { metadata, manifestStore } = this.#options
    const key = repositoryKey(repository)
    const named = await manifestStore.namedManifest(repository, digest)
    const manifest = await manifestStore.get(digest, named?.mediaType)
    if (manifest === undefined) return undefined
    if (named !== undefined && (await metadata.blobs.deliveredBy(key.registry, digest))) return manifest
    const head = await repository.origin.upstream.headManifest(repository.name, digest, signal)
    if (head.result !== 'present' || head.digest !== digest) return undefined
    return manifestStore.get(digest, isVague(head.mediaType) ? undefined : head.mediaType)
  }

  /**
   * One HEAD by tag; what it says is kept, without the bytes.
   *
   * @param spare who is told of a digest fetches it: it is no use to spend one of the last pulls on that
   */
  async checkTag(
    repository: MirrorRef,
    tag: Tag,
    record: TagRecord | undefined,
    spare: boolean,
    signal: AbortSignal,
  ): Promise<Flight<Checked>> {
    const found = await repository.origin.upstream.headManifest(repository.name, tag, signal)
    if (found.result === 'absent' && record === undefined) return this.#absentHead(repository, tag)
    if (found.result === 'present' && record?.digest === found.digest) {
      return {
        answer: headAnswer(await this.#options.manifestStore.described(repository, record)),
        after: this.#recorder.confirm(repository, record),
      }
    }
    if (found.result !== 'present' || isVague(found.mediaType)) {
      if (spare && found.result !== 'absent') this.#spare(repository)
      return headFlight(await this.#fetchTag(repository, tag, record, signal))
    }
    const described = await this.#options.manifestStore.described(repository, found)
    const { digest } = described
    const head = headOf(described)
    const answer = { ...head, cache: 'miss' } as const
    this.#heads.set(headKey(repository, digest), head)
    const told = this.#toldOf(tag, described)
    if (record !== undefined && (await this.#isAllThereIs(repository, record, digest))) {
      if (spare) this.#spare(repository, told)
      this.#recorder.moves.tell(repository, told)
      return { answer }
    }
    return { answer, after: this.#recorder.putTag(repository, told) }
  }

  /** What the tag named is here, and what it names now is not. */
  async #isAllThereIs(repository: MirrorRef, record: TagRecord, now: Digest): Promise<boolean> {
    const { manifestStore } = this.#options
    if ((await manifestStore.record(repository, now)) !== undefined) return false
    return (await manifestStore.get(record.digest, record.mediaType)) !== undefined
  }

  /** One HEAD by digest. */
  async checkDigest(repository: MirrorRef, digest: Digest, signal: AbortSignal): Promise<Flight<Checked>> {
    const found = await repository.origin.upstream.headManifest(repository.name, digest, signal)
    if (found.result === 'absent') return this.#absentHead(repository, digest)
    if (found.result === 'unusable' || isVague(found.mediaType) || found.digest !== digest) {
      return headFlight(await this.fetchDigest(repository, digest, undefined, signal))
    }
    const head = { digest, size: found.size, mediaType: found.mediaType }
    this.#heads.set(headKey(repository, digest), head)
    return { answer: { ...head, cache: 'miss' } }
  }

  /** No proof, but enough not to ask with HEAD again for a while; a GET is asked all the same. */
  #absentHead(repository: MirrorRef, reference: Reference): Flight<false> {
    const { origin, name } = repository
    origin.state.absent.remember(this.#options.negativeTtlMs(), 'head', name, reference)
    return { answer: false }
  }

  async #absentTag(repository: MirrorRef, tag: Tag, record: TagRecord | undefined): Promise<Flight<Fetched>> {
    const { origin, name } = repository
    const { manifestStore, negativeTtlMs } = this.#options
    if (record !== undefined && origin.on404 === 'keep') {
      const manifest = await manifestStore.get(record.digest, record.mediaType)
      if (manifest !== undefined) {
        this.#recorder.moves.forget(repository, tag)
        origin.state.absent.remember(negativeTtlMs(), 'kept tag', name, tag)
        return { answer: { manifest, ...gone(origin) } }
      }
    }
    origin.state.absent.remember(negativeTtlMs(), 'manifest', name, tag)
    const about = await subjectHere(manifestStore, repository, tag)
    return { answer: false, after: this.#recorder.bury(repository, tag, about) }
  }

  /** Answers at once; writing it down goes on behind. */
  #keep(repository: MirrorRef, found: UpstreamManifest, tag: Tag | undefined): Flight<Fetched> {
    const manifest = this.#recorder.parse(repository, found)
    const cache = this.#options.health.backingOff ? 'bypass' : 'miss'
    const { warning } = found
    return {
      answer: { manifest, cache, ...(warning === undefined ? {} : { warning }) },
      after: this.#recorder.keep(repository, manifest, tag),
    }
  }
}

function headKey({ origin, name }: MirrorRef, reference: Reference): string {
  return `${origin.upstream.key} ${name} ${reference}`
}

function headOf({ digest, size, mediaType }: Head): Head {
  return { digest, size, mediaType }
}

/** A HEAD is answered with `hit` only where the manifest is here. */
export function headAnswer(described: Described): ManifestHead {
  return { ...headOf(described), cache: described.state === 'here' ? 'hit' : 'miss' }
}

function headFlight({ answer, ...flight }: Flight<Fetched>): Flight<Checked> {
  if (answer === false) return { ...flight, answer }
  const { manifest, cache, warning } = answer
  const { digest, bytes, content } = manifest
  const head = { digest, size: bytes.length, mediaType: content.mediaType, cache }
  // What upstream warns of is for clients that fetch it; why it is stale is for all.
  return { ...flight, answer: cache === 'stale' && warning !== undefined ? { ...head, warning } : head }
}

const VAGUE = new Set(['application/json', 'application/octet-stream', 'text/plain'])
/** RFC 6838 § 4.2. */
const MEDIA_TYPE = /^[a-z0-9][a-z0-9!#$&^_.+-]{0,126}\/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}$/i

/** Types that say nothing: only the bytes tell what the manifest is. */
function isVague(mediaType: string): boolean {
  return VAGUE.has(mediaType) || !MEDIA_TYPE.test(mediaType)
}
