/**
 * Manifest fetcher: asks upstream for manifests, and what its tags name.
 *
 * Every method is one flight for all clients that wait: it answers as soon as the bytes are verified, and settles
 * when they and their references are recorded (`manifest-recorder.ts`).
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
  readonly negativeTtlMs: () => Milliseconds
}

/** Weight of the remembered HEADs, and of one beside its texts. */
const HEADS_WEIGHT: Bytes = 8 * 1024 * 1024
const HEAD_WEIGHT: Bytes = 256

export type Head = Omit<ManifestHead, keyof CacheMarks>

export interface CachedManifest extends CacheMarks {
  readonly manifest: Manifest
}

/** `false`: upstream has no such manifest. */
export type Fetched = CachedManifest | false
export type Checked = ManifestHead | false

export class ManifestFetcher {
  readonly #options: ManifestSourceOptions
  /** By digest, the HEAD answers for manifests that are not here. */
  readonly #heads = new LRUCache<string, Head>({
    maxSize: HEADS_WEIGHT,
    sizeCalculation: ({ mediaType }, key) => HEAD_WEIGHT + key.length + mediaType.length,
  })
  readonly #recorder: ManifestRecorder

  constructor(options: ManifestSourceOptions) {
    this.#options = options
    this.#recorder = new ManifestRecorder(options)
  }

  /** The answer of an earlier HEAD; `absent` for as long as that is believed. */
  rememberedHead(repository: MirrorRef, reference: Reference): Head | 'absent' | undefined {
    const { absent } = repository.origin.state
    const head = this.#heads.get(headKey(repository, reference))
    return head ?? (absent.has('head', repository.name, reference) ? 'absent' : undefined)
  }

  /** The manifest that a tag has moved to by a HEAD, while it is not here yet. */
  toldMove(repository: MirrorRef, tag: Tag): TagRecord | undefined {
    return this.#recorder.moves.get(repository, tag)
  }

  /** After a removal by DELETE or by the operator: the next pull asks upstream anew. */
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
   * One GET by tag; an absence becomes a tombstone, unless `on404: keep` answers with the cached manifest.
   *
   * @param record what is known of the tag
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
   * A known tag costs one HEAD, and a GET by digest only when it moved.
   *
   * @param spare a cached manifest can answer: then none of the last pulls of a quota is spent
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
      // The tag moved or went between HEAD and GET, or another backend answered: asks once more what it is.
      if (fetched.answer !== false) return fetched
    }
    // HEAD and GET may contradict each other; a single GET by tag cannot.
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
   * Fetches by digest: from the store when upstream confirms that this repository may read it, else with one GET.
   *
   * @param tag is recorded with it
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
    // One backend of upstream told of it just now: another may have answered the GET.
    if (found === undefined && this.#heads.has(headKey(repository, digest))) {
      found = await upstream.manifest(repository.name, digest, signal)
    }
    if (found !== undefined) return this.#keep(repository, found, tag)
    this.#heads.delete(headKey(repository, digest))
    state.absent.remember(this.#options.negativeTtlMs(), 'manifest', repository.name, digest)
    return { answer: false }
  }

  /** The bytes are here for another repository: upstream says whether this one may read them. */
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
   * One HEAD by tag, whose answer is recorded without the bytes.
   *
   * @param spare something here can answer: a client that is told a new digest spends one of the last pulls on it
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

  /** True when the manifest that the tag named is here, and the one that it names now is not. */
  async #isAllThereIs(repository: MirrorRef, record: TagRecord, now: Digest): Promise<boolean> {
    const { manifestStore } = this.#options
    if ((await manifestStore.record(repository, now)) !== undefined) return false
    return (await manifestStore.get(record.digest, record.mediaType)) !== undefined
  }

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

  /** A HEAD is no proof, but it is not repeated for a while; a GET still asks upstream. */
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

  /** Answers at once, and records in the background. */
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

/** `hit` only where the manifest is here. */
export function headAnswer(described: Described): ManifestHead {
  return { ...headOf(described), cache: described.state === 'here' ? 'hit' : 'miss' }
}

function headFlight({ answer, ...flight }: Flight<Fetched>): Flight<Checked> {
  if (answer === false) return { ...flight, answer }
  const { manifest, cache, warning } = answer
  const { digest, bytes, content } = manifest
  const head = { digest, size: bytes.length, mediaType: content.mediaType, cache }
  // A warning from upstream is for clients that fetch; why an answer is stale is for all.
  return { ...flight, answer: cache === 'stale' && warning !== undefined ? { ...head, warning } : head }
}

const VAGUE = new Set(['application/json', 'application/octet-stream', 'text/plain'])
/** RFC 6838 § 4.2. */
const MEDIA_TYPE = /^[a-z0-9][a-z0-9!#$&^_.+-]{0,126}\/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}$/i

/** Media types that say nothing: only the bytes tell what the manifest is. */
function isVague(mediaType: string): boolean {
  return VAGUE.has(mediaType) || !MEDIA_TYPE.test(mediaType)
}
