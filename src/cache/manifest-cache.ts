/**
 * Reference -> manifest: what a tag names now, and for how long we believe it.
 *
 * By digest: immutable, upstream is asked once. By tag: younger than its TTL from here; older, one HEAD decides
 * (it costs no Docker Hub pull). An upstream that cannot say leaves the cached tag answering, marked stale.
 * Work upstream is shared and belongs to no client. DESIGN "Freshness" is the law of this file.
 */
import { LRUCache } from 'lru-cache'
import type { Logger } from 'pino'
import type { Digest } from '../oci/digest.ts'
import { OciError } from '../oci/errors.ts'
import { parseManifest } from '../oci/manifest.ts'
import { isDigestReference, type Reference, type RepositoryName, type Tag } from '../oci/reference.ts'
import type { MetadataStore, TagRecord } from '../store/metadata.ts'
import { StorageError } from '../store/storage-error.ts'
import { UpstreamError, type Milliseconds, type UpstreamManifest } from '../upstream/upstream.ts'
import type { ManifestHead } from './answers.ts'
import type { CacheStatus } from './cache-status.ts'
import type { Manifest, ManifestShelf } from './manifest-shelf.ts'
import { repositoryKey, type MirroredName } from './origin.ts'
import { nameUnknown, refusalOf } from './refusals.ts'
import { SingleFlight, type Flight } from './single-flight.ts'
import type { StorageHealth } from './storage-health.ts'

interface Freshness {
  readonly negativeTtlMs: Milliseconds
  readonly staleIfErrorMs: Milliseconds
  readonly staleIfDeniedMs: Milliseconds
  /** How long upstream may take where something stale can answer. */
  readonly staleBudgetMs: Milliseconds
  /** How long it may take where nothing can. dockerd and podman wait for ever, so we must not. */
  readonly budgetMs: Milliseconds
}

/** Longest life of work upstream, in header budgets: a hanging one must not keep later requests from asking anew. */
const WORK_BUDGETS = 2

interface ManifestCacheOptions {
  readonly shelf: ManifestShelf
  readonly metadata: MetadataStore
  readonly health: StorageHealth
  readonly freshness: Freshness
  readonly log: Logger
  readonly now: () => Milliseconds
}

/** A manifest and how it came to be answered. */
interface CachedManifest {
  readonly manifest: Manifest
  readonly cache: CacheStatus
  readonly warning?: string
}

type Head = Omit<ManifestHead, 'cache'>
/** `false`: upstream says that there is none. */
type Fetched = { readonly manifest: Manifest; readonly cache: CacheStatus } | false
type Checked = { readonly head: Head; readonly cache: CacheStatus } | false

export class ManifestCache {
  readonly #options: ManifestCacheOptions
  readonly #closing = new AbortController()
  readonly #fetches = new SingleFlight<Fetched>()
  readonly #checks = new SingleFlight<Checked>()
  /** Answers to HEAD by digest of manifests that are not here. */
  readonly #heads = new LRUCache<string, Head>({ max: 10_000 })

  constructor(options: ManifestCacheOptions) {
    this.#options = options
  }

  /** @throws OciError when upstream is needed and cannot; `undefined` when it says that there is none */
  async get(
    repository: MirroredName,
    reference: Reference,
    signal: AbortSignal,
  ): Promise<CachedManifest | undefined> {
    if (isDigestReference(reference)) return this.#getDigest(repository, reference, signal)
    const what = `${repository.name}:${reference}`
    const record = await this.#record(repository, reference, what)
    if (record === 'absent') return undefined
    if (record !== undefined && this.#fresh(repository, record)) {
      const found = await this.#getDigest(repository, record.digest, signal)
      // Not there any more: then the tag has moved since a HEAD told us of it.
      if (found !== undefined) return found
    }
    const held =
      record === undefined ? undefined : await this.#options.shelf.get(record.digest, record.mediaType)
    const stale = (failure: UpstreamError): CachedManifest | undefined =>
      record !== undefined && held !== undefined
        ? mark(this.#stale(repository, record, failure), (marked) => ({ manifest: held, ...marked }))
        : undefined
    return this.#within(repository, held !== undefined, stale, signal, async (budget) => {
      const { answer, joined } = await this.#fetches.join(flightKey(repository, what), budget, () =>
        this.#work(repository, (work) =>
          record === undefined
            ? this.#fetchTag(repository, reference, work)
            : this.#revalidate(repository, record, work),
        ),
      )
      return answer === false
        ? undefined
        : { manifest: answer.manifest, cache: joinedCache(joined, answer.cache) }
    })
  }

  /** Like {@link get}, but never costs upstream more than a HEAD where a HEAD can tell. */
  async head(
    repository: MirroredName,
    reference: Reference,
    signal: AbortSignal,
  ): Promise<ManifestHead | undefined> {
    if (isDigestReference(reference)) return this.#headDigest(repository, reference, signal)
    const what = `${repository.name}:${reference}`
    const record = await this.#record(repository, reference, what)
    if (record === 'absent') return undefined
    if (record === undefined && repository.origin.state.isAbsent(headKey(repository.name, reference))) {
      return undefined
    }
    if (record !== undefined && this.#fresh(repository, record)) return { ...headOf(record), cache: 'hit' }
    const stale = (failure: UpstreamError): ManifestHead | undefined =>
      record === undefined
        ? undefined
        : mark(this.#stale(repository, record, failure), (marked) => ({ ...headOf(record), ...marked }))
    return this.#within(repository, record !== undefined, stale, signal, async (budget) => {
      const { answer } = await this.#checks.join(flightKey(repository, what), budget, () =>
        this.#work(repository, (work) => this.#checkTag(repository, reference, record, work)),
      )
      return answer === false ? undefined : { ...answer.head, cache: answer.cache }
    })
  }

  /** Asks upstream nothing more; resolves when everything that was fetched is written down. */
  async close(): Promise<void> {
    this.#closing.abort(new OciError('UNAVAILABLE', undefined, { message: 'shutting down' }))
    await Promise.all([this.#fetches.idle(), this.#checks.idle()])
  }

  async #getDigest(
    repository: MirroredName,
    digest: Digest,
    signal: AbortSignal,
  ): Promise<CachedManifest | undefined> {
    const { shelf } = this.#options
    const record = await shelf.record(repository, digest)
    if (record !== undefined) {
      const manifest = await shelf.get(digest, record.mediaType)
      if (manifest !== undefined) return { manifest, cache: 'hit' }
    }
    const what = `${repository.name}@${digest}`
    if (repository.origin.state.isAbsent(what)) return undefined
    return this.#within(repository, false, nothingStale, signal, async (budget) => {
      const { answer, joined } = await this.#fetches.join(flightKey(repository, what), budget, () =>
        this.#work(repository, (work) => this.#fetchDigest(repository, digest, undefined, work)),
      )
      return answer === false
        ? undefined
        : { manifest: answer.manifest, cache: joinedCache(joined, answer.cache) }
    })
  }

  async #headDigest(
    repository: MirroredName,
    digest: Digest,
    signal: AbortSignal,
  ): Promise<ManifestHead | undefined> {
    const { shelf } = this.#options
    // What an index of this repository says of its child is as good as upstream's own word.
    const known = (await shelf.record(repository, digest)) ?? (await shelf.namedManifest(repository, digest))
    if (known !== undefined) {
      return { digest, size: known.size, mediaType: known.mediaType, cache: 'hit' }
    }
    const what = `${repository.name}@${digest}`
    const remembered = this.#heads.get(flightKey(repository, what))
    if (remembered !== undefined) return { ...remembered, cache: 'hit' }
    const { state } = repository.origin
    if (state.isAbsent(what) || state.isAbsent(headKey(repository.name, digest))) return undefined
    return this.#within(repository, false, nothingStale, signal, async (budget) => {
      const { answer } = await this.#checks.join(flightKey(repository, what), budget, () =>
        this.#work(repository, (work) => this.#checkDigest(repository, digest, work)),
      )
      return answer === false ? undefined : { ...answer.head, cache: answer.cache }
    })
  }

  /** The tag as we know it; tombstones do not count. */
  async #record(repository: MirroredName, tag: Tag, what: string): Promise<TagRecord | 'absent' | undefined> {
    const { state } = repository.origin
    if (state.isAbsent(what)) return 'absent'
    if (state.isAbsent(repository.name)) throw nameUnknown(repository)
    const record = await this.#options.metadata.tags.get(repositoryKey(repository), tag)
    return record?.deletedAt === undefined ? record : undefined
  }

  #fresh(repository: MirroredName, record: TagRecord): boolean {
    const age = this.#options.now() - record.checkedAt
    // A clock that was set back would keep it young for as long.
    return age >= 0 && age < repository.origin.tagTtlMs
  }

  /**
   * Waits for `ask` as long as the budget allows and turns what goes wrong into a stale answer or a refusal.
   * The work behind `ask` goes on when the budget is over.
   */
  async #within<T>(
    repository: MirroredName,
    hasStale: boolean,
    stale: (failure: UpstreamError) => T | undefined,
    client: AbortSignal,
    ask: (budget: AbortSignal) => Promise<T | undefined>,
  ): Promise<T | undefined> {
    const { state, upstream } = repository.origin
    const remembered = state.failing(repository.name)
    const atOnce = remembered === undefined ? undefined : stale(remembered)
    if (atOnce !== undefined) return atOnce
    const { staleBudgetMs, budgetMs } = this.#options.freshness
    const budget = AbortSignal.timeout(hasStale ? staleBudgetMs : budgetMs)
    try {
      return await ask(AbortSignal.any([client, budget]))
    } catch (error) {
      if (error !== budget.reason || client.aborted) {
        if (!(error instanceof UpstreamError)) throw error
        return stale(error) ?? (await this.#refuse(repository, error))
      }
      const late = new UpstreamError('unreachable', upstream.key, 'no answer within the header budget')
      state.failed(repository.name, late)
      return stale(late) ?? (await this.#refuse(repository, late))
    }
  }

  #stale(
    repository: MirroredName,
    record: TagRecord,
    failure: UpstreamError,
  ): { cache: 'stale'; warning: string } | undefined {
    const { staleIfDeniedMs, staleIfErrorMs } = this.#options.freshness
    const denied = failure.failure === 'denied'
    const age = this.#options.now() - record.checkedAt
    if (age > (denied ? staleIfDeniedMs : staleIfErrorMs)) return undefined
    if (denied) repository.origin.state.servedDenied(repository.name, failure.message)
    const why = denied ? 'denies access' : 'cannot be asked'
    return {
      cache: 'stale',
      warning: `${repository.origin.upstream.key} ${why}; confirmed ${String(Math.round(age / 1000))} s ago`,
    }
  }

  /** Nothing here can answer. */
  async #refuse(repository: MirroredName, failure: UpstreamError): Promise<never> {
    throw await refusalOf(failure, repository, this.#options.metadata.repositories)
  }

  /** One piece of work upstream, with its own end, reported to the state whoever still waits. */
  async #work<T>(
    repository: MirroredName,
    work: (signal: AbortSignal) => Promise<Flight<T>>,
  ): Promise<Flight<T>> {
    const { state, upstream } = repository.origin
    const deadline = AbortSignal.timeout(this.#options.freshness.budgetMs * WORK_BUDGETS)
    try {
      const flight = await work(AbortSignal.any([deadline, this.#closing.signal]))
      state.answered(repository.name)
      return flight
    } catch (error) {
      const failure =
        error === deadline.reason ? new UpstreamError('unreachable', upstream.key, 'no answer at all') : error
      if (failure instanceof UpstreamError) state.failed(repository.name, failure)
      throw failure
    }
  }

  async #fetchTag(repository: MirroredName, tag: Tag, signal: AbortSignal): Promise<Flight<Fetched>> {
    const found = await repository.origin.upstream.manifest(repository.name, tag, signal)
    if (found === undefined) return this.#absentTag(repository, tag)
    return this.#keep(repository, found, tag)
  }

  /** An old tag: one HEAD, and a GET by digest only when it moved. */
  async #revalidate(
    repository: MirroredName,
    record: TagRecord,
    signal: AbortSignal,
  ): Promise<Flight<Fetched>> {
    const { upstream } = repository.origin
    const { tag } = record
    for (let round = 1; ; round += 1) {
      const head = await upstream.headManifest(repository.name, tag, signal)
      // A HEAD 404 has no body that could prove it, and some registries answer HEAD badly: GET decides.
      if (head.result !== 'present' || isVague(head.mediaType)) return this.#fetchTag(repository, tag, signal)
      if (head.digest === record.digest) {
        const manifest = await this.#options.shelf.get(record.digest, record.mediaType)
        if (manifest === undefined) return this.#fetchDigest(repository, record.digest, tag, signal)
        return { answer: { manifest, cache: 'hit' }, after: this.#confirm(repository, record) }
      }
      const fetched = await this.#fetchDigest(repository, head.digest, tag, signal)
      // Moved or deleted between HEAD and GET: ask once more what the tag is now.
      if (fetched.answer !== false || round === 2) return fetched
    }
  }

  async #fetchDigest(
    repository: MirroredName,
    digest: Digest,
    tag: Tag | undefined,
    signal: AbortSignal,
  ): Promise<Flight<Fetched>> {
    const { upstream, state } = repository.origin
    const here = await this.#heldForOthers(repository, digest, signal)
    if (here !== undefined)
      return { answer: { manifest: here, cache: 'hit' }, after: this.#write(repository, here, tag) }
    const found = await upstream.manifest(repository.name, digest, signal)
    if (found !== undefined) return this.#keep(repository, found, tag)
    state.rememberAbsent(`${repository.name}@${digest}`, this.#options.freshness.negativeTtlMs)
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

  async #checkTag(
    repository: MirroredName,
    tag: Tag,
    record: TagRecord | undefined,
    signal: AbortSignal,
  ): Promise<Flight<Checked>> {
    const head = await repository.origin.upstream.headManifest(repository.name, tag, signal)
    if (head.result === 'absent' && record === undefined) return this.#absentHead(repository, tag)
    if (head.result !== 'present' || isVague(head.mediaType)) {
      return headFlight(await this.#fetchTag(repository, tag, signal))
    }
    if (record?.digest === head.digest) {
      return { answer: { head: headOf(record), cache: 'hit' }, after: this.#confirm(repository, record) }
    }
    const { digest, size, mediaType } = head
    const key = repositoryKey(repository)
    const after = this.#remember((metadata, at) =>
      metadata.transaction((tx) => {
        tx.putRepository(key, at)
        tx.putTag(key, { tag, digest, size, mediaType, checkedAt: at, deletedAt: undefined })
      }),
    )
    return { answer: { head: { digest, size, mediaType }, cache: 'miss' }, after }
  }

  async #checkDigest(
    repository: MirroredName,
    digest: Digest,
    signal: AbortSignal,
  ): Promise<Flight<Checked>> {
    const found = await repository.origin.upstream.headManifest(repository.name, digest, signal)
    if (found.result === 'absent') return this.#absentHead(repository, digest)
    if (found.result === 'unusable' || isVague(found.mediaType) || found.digest !== digest) {
      return headFlight(await this.#fetchDigest(repository, digest, undefined, signal))
    }
    const head = { digest, size: found.size, mediaType: found.mediaType }
    this.#heads.set(flightKey(repository, `${repository.name}@${digest}`), head)
    return { answer: { head, cache: 'miss' } }
  }

  /** No proof, but enough not to ask with HEAD again for a while; a GET is asked all the same. */
  #absentHead({ origin, name }: MirroredName, reference: Reference): Flight<false> {
    origin.state.rememberAbsent(headKey(name, reference), this.#options.freshness.negativeTtlMs)
    return { answer: false }
  }

  #absentTag(repository: MirroredName, tag: Tag): Flight<false> {
    repository.origin.state.rememberAbsent(`${repository.name}:${tag}`, this.#options.freshness.negativeTtlMs)
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
    return { answer: { manifest, cache }, after: this.#write(repository, manifest, tag) }
  }

  async #write(repository: MirroredName, manifest: Manifest, tag: Tag | undefined): Promise<void> {
    const { shelf, health } = this.#options
    if (health.resting) {
      health.spared()
      return
    }
    try {
      await shelf.keep(repository, manifest, tag)
    } catch (error) {
      // A database that takes no writes is no reason to spare the disk, and has been spoken of.
      if (!(error instanceof StorageError)) health.refused('a manifest', error)
    }
  }

  #confirm(repository: MirroredName, record: TagRecord): Promise<void> {
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

function headKey(name: RepositoryName, reference: Reference): string {
  return `HEAD ${name} ${reference}`
}

/** The same name and tag at two upstreams are two things. */
function flightKey({ origin }: MirroredName, what: string): string {
  return `${origin.upstream.key} ${what}`
}

function headOf({ digest, size, mediaType }: TagRecord): Head {
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

function mark<M, T>(marked: M | undefined, build: (marked: M) => T): T | undefined {
  return marked === undefined ? undefined : build(marked)
}

/** Who joins a download joins; who joins a question that is answered from here has a hit all the same. */
function joinedCache(joined: boolean, cache: CacheStatus): CacheStatus {
  return joined && cache === 'miss' ? 'join' : cache
}

function nothingStale(): undefined {
  return undefined
}
